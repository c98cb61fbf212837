//! `key ls`, `key add`, `key use`, `key remove`, `key renew` and `token create`.

use super::format::done;
use crate::{
    admin::{
        encode,
        wire::{AddKey, CreateToken, Done, KeyAdded, KeysJson, TokenJson, UseKey},
    },
    cli::{
        args::{CreateTokenArgs, KeyCommand},
        client::Client,
        exit::{Code, Failure},
        input,
        output::{Output, Table, clean},
    },
};
use mesh_control::ClusterKey;
use std::path::Path;

/// A file of a key and notes is never longer, in bytes.
const MOST: u64 = 64 * 1024;

pub(super) async fn run(client: &Client, command: KeyCommand, output: Output) -> Result<(), Failure> {
    match command {
        // It asks no agent and was run before.
        KeyCommand::Generate => Ok(()),
        KeyCommand::Ls => list(client, output).await,
        KeyCommand::Add(args) => match args.file {
            Some(file) => {
                let added = add(client, &read(&file)?).await?;
                if output.json {
                    output.json(&added)
                } else {
                    output.print(&format!("{}\n", clean(&added.done)))
                }
            }
            None => generate(client, output).await,
        },
        KeyCommand::Use(args) => {
            let path = format!("/v1/keys/{}/use", encode(&args.id));
            done(output, &client.send::<_, Done>("POST", &path, &UseKey { force: args.force }).await?)
        }
        KeyCommand::Remove(args) => {
            let path = format!("/v1/keys/{}?force={}", encode(&args.id), args.force);
            done(output, &client.call("DELETE", &path, None).await?)
        }
        KeyCommand::Renew => done(output, &client.call("POST", "/v1/overlay/key", None).await?),
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let list: KeysJson = client.get("/v1/keys").await?;
    if output.json {
        return output.json(&list);
    }
    let mut table = Table::new(&["ID", "IN USE", "HELD BY", "SEALS FOR", "IN CONFIG"]);
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for key in &list.keys {
        let held = format!("{}/{} nodes", key.held_by.len(), list.nodes);
        let held = if key.removed { "removed".to_owned() } else { held };
        let seals_for = key.seals_for.len().to_string();
        table.row(vec![key.id.clone(), yes(key.in_use), held, seals_for, yes(key.in_config)]);
    }
    output.table(&table)?;
    for warning in &list.warnings {
        output.print(&format!("warning: {}\n", clean(warning)))?;
    }
    Ok(())
}

async fn add(client: &Client, key: &ClusterKey) -> Result<KeyAdded, Failure> {
    client.send("POST", "/v1/keys", &AddKey { key: key.expose() }).await
}

/// The printed text is a good `cluster.key_file`.
async fn generate(client: &Client, output: Output) -> Result<(), Failure> {
    let key = ClusterKey::generate().map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
    let added = add(client, &key).await?;
    if output.json {
        return output.json(&serde_json::json!({"id": added.id, "key": key.expose(), "done": added.done}));
    }
    output.print(&format!("# {}\n{}\n", clean(&added.done), key.expose()))
}

/// The one key of a file; lines that begin with # are notes.
fn read(file: &Path) -> Result<ClusterKey, Failure> {
    let bytes = input::read(file, MOST)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let fail = |problem: &str| {
        let failure = Failure::new(Code::Data, format!("{}: {problem}", file.display()));
        failure.fix("it must hold the output of `mesh-agent key generate` alone")
    };
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.parse().map_err(|_| fail("is no key: not base64 of 32 bytes")),
        (None, _) => Err(fail("holds no key")),
        (Some(_), Some(_)) => Err(fail("holds more than one line")),
    }
}

pub(super) async fn create_token(
    client: &Client,
    args: CreateTokenArgs,
    output: Output,
) -> Result<(), Failure> {
    let body = CreateToken { seeds: args.seed, expires_seconds: Some(args.expires.as_secs()) };
    let token: TokenJson = client.send("POST", "/v1/tokens", &body).await?;
    if output.json { output.json(&token) } else { output.print(&format!("{}\n", clean(&token.token))) }
}
