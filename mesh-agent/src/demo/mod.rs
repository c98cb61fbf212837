//! `mesh-agent demo`: a mesh of several nodes on one machine.
