//! mesh-agent: a routing-mesh data plane for Linux hosts, one agent per node.
//!
//! The folder tree is the data flow: [`source`] → control plane (`mesh_control`) → [`plan`] → [`reconcile`] →
//! [`dataplane`]; beside it [`health`] feeds the source side and [`admin`] shows everything.

pub mod admin;
pub mod app;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod health;
pub mod overlay;
pub mod plan;
pub mod reconcile;
pub mod source;
pub mod sys;
