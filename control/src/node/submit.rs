//! What this node's sources say.

use super::{core::Node, io::Output};
use crate::{
    api::{ControlError, LocalChange},
    hlc::Now,
    key::Key,
    model::{EndpointMode, NodeInfo, Origin, ServiceKey},
    record::MAX_VALUE,
    value::{self, MAX_ENDPOINTS, MAX_TUNNELS, MAX_VERSION},
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};

impl Node {
    /// Takes changes of this node's sources, all or none; a change that changes no content writes nothing. The
    /// snapshot has them when this returns.
    ///
    /// # Errors
    /// [`ControlError::Change`] naming the field, the value and the fix; then nothing was written.
    pub fn submit(&mut self, changes: Vec<LocalChange>, now: Now) -> Result<Vec<Output>, ControlError> {
        if self.gone {
            return Err(ControlError::Stopped);
        }
        for change in &changes {
            self.check(change)?;
        }
        let mut declared = Vec::new();
        for change in changes {
            match change {
                LocalChange::PutService { origin, key, spec } => {
                    let known = self.view.snapshot().services.get(&key);
                    let mode = known.map_or(EndpointMode::Vip, |known| known.spec.endpoint_mode);
                    let before = self.view.is_declared(&key).then_some(mode);
                    self.say(&Key::Service(key.clone(), origin), Some(value::encode_spec(&spec).into()), now);
                    declared.push((key, before));
                }
                LocalChange::DeleteService { origin, key } => {
                    self.say(&Key::Service(key, origin), None, now);
                }
                LocalChange::PutEndpoints { key, endpoints } => {
                    let value = (!endpoints.is_empty()).then(|| encode(&endpoints));
                    self.say(&Key::Endpoints(self.config.name.clone(), key), value, now);
                }
                LocalChange::SetNode(info) => {
                    self.say_node(&info, now);
                    self.config.info = info;
                }
                LocalChange::Key(change) => self.change_key(change, now),
            }
        }
        self.refresh(now);
        for (key, before) in declared {
            self.claim_for_declaration(&key, before, now);
        }
        self.settle(now);
        Ok(std::mem::take(&mut self.out))
    }

    /// Says `info` of this node.
    pub(super) fn say_node(&mut self, info: &NodeInfo, now: Now) {
        let info = NodeInfo { keys: self.keys.ring().ids(), ..info.clone() };
        self.say(&Key::Node(self.config.name.clone()), Some(value::encode_node(&info).into()), now);
    }

    fn say(&mut self, key: &Key, value: Option<Arc<[u8]>>, now: Now) {
        let id = key.id();
        let known = self.store.get(&id);
        let same = match (&value, known) {
            (Some(value), Some(record)) => !record.deleted && record.value == *value,
            (None, Some(record)) => record.deleted,
            (None, None) => true,
            (Some(_), None) => false,
        };
        // A node's own records are defended against its earlier runs; shared ones belong to whoever wrote last.
        if key.owner().is_some() && (value.is_some() || known.is_some()) {
            self.desired.insert(id.clone(), value.clone());
        }
        if !same {
            self.write(id, value.is_none(), value.unwrap_or_default(), now);
        }
    }

    fn check(&self, change: &LocalChange) -> Result<(), ControlError> {
        let fail = |field: String, problem: String| Err(ControlError::Change { field, problem });
        if let Some(why) = self.names.silenced()
            && let LocalChange::PutService { origin: Origin::Cluster, key, .. }
            | LocalChange::DeleteService { origin: Origin::Cluster, key } = change
        {
            return fail(
                format!("service {key}"),
                format!("this node keeps silent: {why}; or ask another node"),
            );
        }
        match change {
            LocalChange::PutService { origin, key, spec } => {
                self.check_origin(origin, key)?;
                check_key(key)?;
                spec.validate().or_else(|e| fail(format!("service {key}: {}", e.field), e.problem))?;
                check_size(&format!("service {key}"), spec.as_ref())
            }
            LocalChange::DeleteService { origin, key } => self.check_origin(origin, key),
            LocalChange::PutEndpoints { key, endpoints } => {
                check_key(key)?;
                if endpoints.len() > MAX_ENDPOINTS {
                    return fail(
                        format!("endpoints of {key}"),
                        format!("{} on one node: at most {MAX_ENDPOINTS}; spread them", endpoints.len()),
                    );
                }
                let mut seen = BTreeSet::new();
                for endpoint in endpoints {
                    let field = format!("endpoint {} of {key}", endpoint.instance);
                    if let Err(e) = endpoint.validate() {
                        return fail(format!("{field}: {}", e.field), e.problem);
                    }
                    if !seen.insert(&endpoint.instance) {
                        return fail(field, "it is listed twice: give each instance its own name".into());
                    }
                }
                check_size(&format!("endpoints of {key}"), endpoints)
            }
            LocalChange::SetNode(info) => {
                check_size("node", info)?;
                if info.version.len() > MAX_VERSION || info.version.chars().any(char::is_control) {
                    let problem = "use at most 256 bytes, none of them a control character".into();
                    return fail("node.version".into(), problem);
                }
                if info.tunnels.len() > MAX_TUNNELS {
                    let problem = format!("{} of them: at most {MAX_TUNNELS}", info.tunnels.len());
                    return fail("node.tunnels".into(), problem);
                }
                Ok(())
            }
            LocalChange::Key(change) => self.check_key(change),
        }
    }

    fn check_origin(&self, origin: &Origin, key: &ServiceKey) -> Result<(), ControlError> {
        match origin {
            Origin::Node(node) if *node != self.config.name => Err(ControlError::Change {
                field: format!("service {key}: origin"),
                problem: format!("{node} is not this node ({}): only it may say this", self.config.name),
            }),
            _ => Ok(()),
        }
    }
}

fn check_key(key: &ServiceKey) -> Result<(), ControlError> {
    if key.name.as_str() == "tasks" {
        return Err(ControlError::Change {
            field: format!("service {key}"),
            problem: "`tasks` is reserved for the list of endpoints: choose another name".into(),
        });
    }
    Ok(())
}

fn check_size(field: &str, value: &impl Serialize) -> Result<(), ControlError> {
    let size = encode(value).len();
    if size > MAX_VALUE {
        return Err(ControlError::Change {
            field: field.to_owned(),
            problem: format!("{size} bytes encoded: at most {MAX_VALUE}; shorten labels or lists"),
        });
    }
    Ok(())
}

/// The value's bytes; plain structs always encode.
fn encode(value: &(impl Serialize + ?Sized)) -> Arc<[u8]> {
    postcard::to_stdvec(value).unwrap_or_default().into()
}
