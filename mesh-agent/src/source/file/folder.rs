//! Which version of which file counts. Pure: it is given what was read.
//!
//! A file that is wrong, or that clashes with another, is refused whole and the version of it that counted before goes
//! on. The versions that count never clash with each other.

use crate::{
    config::yaml::Problems,
    source::{
        compose::{Context, Declared, clashes, parse},
        local::LocalService,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};
use tracing::{info, warn};

/// What a look at the folder found: each file by name, read or not. A file that is not there is gone.
pub(super) type Seen = BTreeMap<String, Result<String, Problems>>;

#[derive(Debug, Default)]
struct File {
    /// Of the text that was last looked at.
    hash: Option<u64>,
    /// The text parsed, if it was sound.
    candidate: Option<Vec<Declared>>,
    /// The version that counts.
    accepted: Vec<Declared>,
    /// Why the newest version does not count.
    errors: Vec<String>,
}

/// The files of one folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
}

impl Folder {
    /// Takes a new look at the folder.
    pub(super) fn update(&mut self, seen: Seen, context: Context<'_>) {
        self.files.retain(|name, file| {
            let stays = seen.contains_key(name);
            if !stays {
                info!(file = %name, services = file.accepted.len(), "file is gone");
            }
            stays
        });
        for (name, read) in seen {
            let file = self.files.entry(name.clone()).or_default();
            let hash = hash_of(&read);
            if file.hash.replace(hash) == Some(hash) {
                continue;
            }
            file.errors.clear();
            file.candidate = None;
            match read.and_then(|text| parse(&name, &text, context)) {
                Ok(declared) => file.candidate = Some(declared),
                Err(problems) => file.errors = problems.lines(),
            }
            for error in &file.errors {
                warn!(%error, "file is refused; what it said before goes on");
            }
        }
        self.choose();
    }

    /// Decides which versions count. A candidate that clashes is pinned to its old version and all are weighed anew,
    /// until nothing clashes; the old versions never do, so this ends after at most one round for each file.
    fn choose(&mut self) {
        let waiting: Vec<String> = self.names(|f| f.candidate.is_some());
        let mut pinned: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let taken = loop {
            let mut counts: Vec<&Declared> = self
                .files
                .iter()
                .filter(|(n, f)| f.candidate.is_none() || pinned.contains_key(*n))
                .flat_map(|(_, f)| &f.accepted)
                .collect();
            let mut taken = BTreeSet::new();
            let mut refused = None;
            for name in waiting.iter().filter(|n| !pinned.contains_key(*n)) {
                let Some(candidate) = self.files.get(name).and_then(|f| f.candidate.as_ref()) else {
                    continue;
                };
                let problems = clashes(counts.iter().copied(), candidate);
                if problems.is_empty() {
                    counts.extend(candidate);
                    taken.insert(name.clone());
                } else {
                    refused = Some((name.clone(), problems.iter().map(ToString::to_string).collect()));
                    break;
                }
            }
            match refused {
                Some((name, errors)) => pinned.insert(name, errors),
                None => break taken,
            };
        };
        for name in taken {
            if let Some(file) = self.files.get_mut(&name)
                && let Some(candidate) = file.candidate.take()
            {
                info!(file = %name, services = candidate.len(), "file is read");
                file.accepted = candidate;
                file.errors.clear();
            }
        }
        for (name, errors) in pinned {
            if let Some(file) = self.files.get_mut(&name)
                && file.errors != errors
            {
                for error in &errors {
                    warn!(%error, "file is refused; what it said before goes on");
                }
                file.errors = errors;
            }
        }
    }

    fn names(&self, wanted: impl Fn(&File) -> bool) -> Vec<String> {
        self.files.iter().filter(|(_, f)| wanted(f)).map(|(n, _)| n.clone()).collect()
    }

    /// The services that count.
    pub(super) fn services(&self) -> Vec<LocalService> {
        self.files.values().flat_map(|f| &f.accepted).map(|d| d.service.clone()).collect()
    }

    /// Why newer versions do not count.
    pub(super) fn errors(&self) -> Vec<String> {
        self.files.values().flat_map(|f| f.errors.iter().cloned()).collect()
    }
}

fn hash_of(read: &Result<String, Problems>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match read {
        Ok(text) => (true, text).hash(&mut hasher),
        Err(problems) => (false, problems.lines()).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_control::model::{Name, Origin};

    fn look(folder: &mut Folder, files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let node = Name::new("n1").unwrap();
        let origin = Origin::Node(node.clone());
        let seen = files.iter().map(|(n, t)| ((*n).to_owned(), Ok((*t).to_owned()))).collect();
        folder.update(seen, Context { node: &node, origin: &origin });
        (folder.services().iter().map(|s| s.key.to_string()).collect(), folder.errors())
    }

    #[test]
    fn a_bad_file_keeps_what_it_said_before() {
        let mut f = Folder::default();
        let (services, errors) = look(&mut f, &[("a", "services: {web: {}}"), ("b", "services: [")]);
        assert_eq!((services, errors.len()), (vec!["web".to_owned()], 1));
        let (services, errors) =
            look(&mut f, &[("a", "services: {web: {x: 1}, y: {}}"), ("b", "services: {db: {}}")]);
        assert_eq!(services, ["web", "db"]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let (services, errors) = look(&mut f, &[("a", "services: {y: {}}")]);
        assert_eq!((services, errors), (vec!["y".to_owned()], vec![]));
    }

    #[test]
    fn a_clash_refuses_the_newcomer_until_the_place_is_free() {
        let mut f = Folder::default();
        look(&mut f, &[("b", "services: {web: {ports: ['80:80']}}")]);
        let late = "services: {other: {ports: ['80:81']}}";
        let (services, errors) = look(&mut f, &[("a", late), ("b", "services: {web: {ports: ['80:80']}}")]);
        assert_eq!(services, ["web"], "the one that was there stays, whatever the names");
        assert_eq!(
            errors,
            ["a:1: services.other.ports[0]: published port 80/tcp is taken by web at b:1: use another"]
        );
        let (services, errors) = look(&mut f, &[("a", late), ("b", "services: {web: {}}")]);
        assert_eq!((services.len(), errors), (2, vec![]));
    }

    #[test]
    fn a_service_may_move_from_file_to_file_in_one_edit() {
        let mut f = Folder::default();
        look(&mut f, &[("a", "services: {web: {}, x: {}}"), ("b", "services: {y: {}}")]);
        for _ in 0..2 {
            let (services, errors) =
                look(&mut f, &[("a", "services: {x: {}}"), ("b", "services: {y: {}, web: {}}")]);
            assert_eq!((services, errors), (vec!["x".into(), "y".into(), "web".to_owned()], vec![]));
            look(&mut f, &[("a", "services: {web: {}, x: {}}"), ("b", "services: {y: {}}")]);
        }
    }

    #[test]
    fn a_refused_edit_never_lets_its_old_version_clash() {
        // a's edit clashes with c, so a goes on as it was and b, which wants what the edit gave up, must wait.
        let mut f = Folder::default();
        let c = ("c", "services: {c: {ports: ['99:1']}}");
        look(&mut f, &[("a", "services: {web: {}}"), ("b", "services: {}"), c]);
        for (first, second) in [("a", "b"), ("b", "a")] {
            let edit =
                |n: &str| if n == "a" { "services: {z: {ports: ['99:1']}}" } else { "services: {web: {}}" };
            let (services, errors) = look(&mut f, &[(first, edit(first)), (second, edit(second)), c]);
            assert_eq!((services, errors.len()), (vec!["web".into(), "c".to_owned()], 2));
        }
    }
}
