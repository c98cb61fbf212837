//! Arguments of `key` and `token`.

use super::duration;
use clap::{Args, Subcommand};
use std::{path::PathBuf, time::Duration};

/// `key …`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Print a new random key: 32 bytes in base64, for `cluster.keys` and token files
    #[command(after_help = "Example:\n  umask 077; mesh-agent key generate > /etc/mesh-agent/cluster.key")]
    Generate,
    /// List the mesh's keys: who holds each and whom it seals for
    #[command(after_help = "Example:\n  mesh-agent key ls")]
    Ls,
    /// Let every node open what is sealed with one more key: the first step of a rotation
    #[command(
        after_help = "The key is read from a file or from stdin, so that no process list shows it.\n--generate prints the new key, as a file for cluster.key_file.\n\nExamples:\n  mesh-agent key add new.key\n  mesh-agent key generate | mesh-agent key add -\n  umask 077; mesh-agent key add --generate > new.key"
    )]
    Add(AddKeyArgs),
    /// Let every node seal with this key: the second step
    #[command(
        after_help = "Refused while a node that is up lacks the key.\n\nExample:\n  mesh-agent key use 5f2c8a01"
    )]
    Use(KeyArgs),
    /// Let no node open what is sealed with this key: the third step
    #[command(
        after_help = "Refused for the key in use; while a node still seals with it; and while a node that is down could not\ncome back without it.\n\nExample:\n  mesh-agent key remove 90ab12cd"
    )]
    Remove(KeyArgs),
    /// Change this node's key of the encrypted overlay; it changes by itself every `overlay.key_lifetime`
    #[command(
        after_help = "No packet is lost: both keys are good until every node that is up has answered at the new.\n\nExample:\n  mesh-agent key renew"
    )]
    Renew,
}

/// `key add`.
#[derive(Args, Debug)]
pub struct AddKeyArgs {
    /// The file with the key, `-` for stdin
    #[arg(value_name = "FILE", required_unless_present = "generate", conflicts_with = "generate")]
    pub file: Option<PathBuf>,
    /// Make a new key, add it and print it
    #[arg(long)]
    pub generate: bool,
}

/// `key use`, `key remove`.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// The key's id, or the beginning of it, as `key ls` shows it
    pub id: String,
    /// Do it whatever the other nodes hold and use: they may be cut off
    #[arg(long)]
    pub force: bool,
}

/// `token …`.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token with which a new node joins: addresses and the cluster key in one line
    #[command(
        after_help = "Whoever has the token has the cluster key: treat it as one.\n\nExamples:\n  mesh-agent token create\n  mesh-agent token create --seed mesh.example.com:7946 --expires 1h"
    )]
    Create(CreateTokenArgs),
    /// Write the files of a new node from a token; asks no agent
    #[command(
        after_help = "Writes DIR/cluster.key and, if there is none, DIR/config.yaml; overwrites nothing.\n\nExamples:\n  mesh-agent token join mesh1_...\n  ssh node1 mesh-agent token create | mesh-agent token join -"
    )]
    Join(JoinArgs),
    /// Show a token's addresses and expiry, not its key; asks no agent
    #[command(after_help = "Example:\n  mesh-agent token show mesh1_...")]
    Show {
        /// The token, `-` for stdin
        token: String,
    },
}

/// `token create`.
#[derive(Args, Debug)]
pub struct CreateTokenArgs {
    /// A node to join, several times for several; by default this one and two others that are up
    #[arg(long, value_name = "HOST:PORT")]
    pub seed: Vec<String>,
    /// How long the token is good for, at most 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub expires: Duration,
}

/// `token join`.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The token, `-` for stdin (argument lists are seen by other users of the host)
    pub token: String,
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = "/etc/mesh-agent")]
    pub dir: PathBuf,
}
