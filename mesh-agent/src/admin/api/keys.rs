//! Cluster keys and join tokens.

use crate::admin::{
    call::{Call, Reply, Shared},
    error::ApiError,
    query::Query,
    wire::{AddKey, CreateToken, KeyAdded, KeyJson, KeysJson, TokenJson, UseKey, key_warnings},
};
use hyper::StatusCode;
use mesh_control::{
    ClusterKey, JoinToken, KeyChange, MAX_SEEDS, is_seed,
    model::{KeyId, Snapshot},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a token is good for when nobody says, in seconds.
const EXPIRES: u64 = 24 * 3600;
/// The longest that can be asked for.
const LONGEST: u64 = 30 * 24 * 3600;
/// Other nodes that a token names when nobody says which.
const OTHERS: usize = 2;
/// Fewest digits by which an id may be named.
const SHORTEST: usize = 4;

pub(super) fn list(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let snapshot = shared.operations.snapshot();
    let keys = shared.operations.keys();
    let list = KeysJson {
        nodes: snapshot.nodes.values().filter(|node| node.state.is_up()).count(),
        keys: keys.iter().map(KeyJson::from).collect(),
        warnings: key_warnings(&keys),
    };
    Ok(Reply::json(StatusCode::OK, &list))
}

pub(super) async fn add(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let body: AddKey = call.json()?;
    let key: ClusterKey = body.key.parse().map_err(|e| ApiError::field("key", format!("{e}")))?;
    let id = key.id();
    shared.operations.change_key(KeyChange::Add(key)).await?;
    let done =
        format!("key {id} is added; once `key ls` says that all nodes hold it: mesh-agent key use {id}");
    Ok(Reply::json(StatusCode::OK, &KeyAdded { id: id.to_string(), done }))
}

pub(super) async fn put_in_use(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let UseKey { force } = call.json_or_default()?;
    let id = known(shared, call)?;
    shared.operations.change_key(KeyChange::Use { id, force }).await?;
    Ok(Reply::done(format!("key {id} is in use; put it first in cluster.keys of every node")))
}

pub(super) async fn renew(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    shared.operations.renew_key().await?;
    let words = "the overlay's key is being changed: both are good until every node that is up has answered at the new";
    Ok(Reply::done(words.to_owned()))
}

pub(super) async fn remove(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["force"])?;
    let force = match query.get("force") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let short: String = other.chars().take(20).collect();
            return Err(ApiError::field("force", format!("`{short}`: use true or false")));
        }
    };
    let id = known(shared, call)?;
    shared.operations.change_key(KeyChange::Remove { id, force }).await?;
    Ok(Reply::done(format!("key {id} is removed; take it out of cluster.keys of every node")))
}

/// The key that the path names, by its id or by the beginning of it that no other key has.
fn known(shared: &Shared, call: &Call) -> Result<KeyId, ApiError> {
    let text = call.path.first().map_or("", String::as_str).to_ascii_lowercase();
    if text.len() < SHORTEST || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let problem = format!("no key id: write its {SHORTEST} to 16 first hex digits");
        return Err(ApiError::field("id", problem).fix("`mesh-agent key ls` lists them"));
    }
    let keys = shared.operations.keys();
    let mut found = keys.iter().filter(|k| !k.removed && k.id.to_string().starts_with(&text)).map(|k| k.id);
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no key `{text}`"))
            .fix("`mesh-agent key ls` lists those there are, `mesh-agent key add` adds one")),
        (Some(_), Some(_)) => {
            Err(ApiError::field("id", format!("several keys begin with `{text}`: write more of it")))
        }
    }
}

pub(super) fn create_token(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let CreateToken { mut seeds, expires_seconds } = call.json_or_default()?;
    let lasts = expires_seconds.unwrap_or(EXPIRES);
    if !(1..=LONGEST).contains(&lasts) {
        let problem = format!("{lasts}: use 1 to {LONGEST} seconds, which is 30 days");
        return Err(ApiError::field("expires_seconds", problem));
    }
    if let Some(bad) = seeds.iter().find(|seed| !is_seed(seed)) {
        let short: String = bad.chars().take(80).collect();
        let problem = format!("`{short}`: write host:port, as in node1:7946 or [fd00::1]:7946");
        return Err(ApiError::field("seeds", problem));
    }
    if seeds.len() > MAX_SEEDS {
        return Err(ApiError::field("seeds", format!("{} seeds: at most {MAX_SEEDS}", seeds.len())));
    }
    if seeds.is_empty() {
        seeds = nodes_to_join(&shared.operations.snapshot());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = JoinToken { expires: now + lasts, seeds, keys: vec![shared.operations.expose_sealing_key()] };
    let text = token.encode();
    let answer = TokenJson { token: text, expires: token.expires * 1000, seeds: token.seeds };
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// This node, and the first others by name that are up.
fn nodes_to_join(snapshot: &Snapshot) -> Vec<String> {
    let own = snapshot.nodes.get(&snapshot.local).and_then(|node| node.gossip);
    let others = snapshot.nodes.values().filter(|node| node.name != snapshot.local && node.state.is_up());
    let others = others.filter_map(|node| node.gossip).take(OTHERS);
    own.into_iter().chain(others).map(|address| address.to_string()).collect()
}
