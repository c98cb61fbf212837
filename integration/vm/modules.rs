//! Which files a list of modules means.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// What a kernel says of its modules (modules.dep(5), and the list of what is built in).
#[derive(Debug)]
pub(crate) struct Modules {
    /// By name: the path in the folder, and the paths of what it depends on, directly or not, the farthest last.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: HashSet<String>,
}

/// A module's name: of its file, with `_` for `-`, as the kernel calls it.
pub(crate) fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl Modules {
    /// Reads the folder `lib/modules/VERSION`.
    ///
    /// # Errors
    /// When the lists are not there.
    pub(crate) fn read(folder: &Path) -> Result<Modules> {
        let text =
            |file: &str| fs::read_to_string(folder.join(file)).with_context(|| format!("{folder:?}: {file}"));
        Ok(Modules::parse(&text("modules.dep")?, &text("modules.builtin")?))
    }

    fn parse(dependencies: &str, builtin: &str) -> Modules {
        let file = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            Some((name(path), (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect())))
        };
        Modules {
            files: dependencies.lines().filter_map(file).collect(),
            builtin: builtin.lines().map(name).collect(),
        }
    }

    /// The files of these modules and of all they need, each after what it needs; and the names of those that this
    /// kernel lacks.
    pub(crate) fn order<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> (Vec<PathBuf>, Vec<&'a str>) {
        let (mut seen, mut order, mut lacking) = (HashSet::new(), Vec::new(), Vec::new());
        for module in wanted {
            match self.files.get(module) {
                Some((path, needs)) => {
                    for path in needs.iter().rev().chain([path]) {
                        if seen.insert(path) {
                            order.push(PathBuf::from(path));
                        }
                    }
                }
                None if self.builtin.contains(module) => {}
                None => lacking.push(module),
            }
        }
        (order, lacking)
    }
}

#[cfg(test)]
mod tests {
    use super::{Modules, name};
    use std::path::Path;

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let dependencies = "net/ip_vs_rr.ko: net/ip_vs.ko net/nf-conntrack.ko lib/crc.ko\n\
                            net/ip_vs.ko: net/nf-conntrack.ko lib/crc.ko\n\
                            net/nf-conntrack.ko: lib/crc.ko\nlib/crc.ko:\n";
        let modules = Modules::parse(dependencies, "kernel/net/unix/unix.ko\n");
        let (order, lacking) = modules.order(["nf_conntrack", "ip_vs_rr", "unix", "ip_vs_twos"]);
        let wanted = ["lib/crc.ko", "net/nf-conntrack.ko", "net/ip_vs.ko", "net/ip_vs_rr.ko"].map(Path::new);
        assert_eq!(order, wanted);
        assert_eq!(lacking, ["ip_vs_twos"]);
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(name("kernel/net/netfilter/ipvs/ip_vs.ko.xz"), "ip_vs");
        assert_eq!(name("aesni-intel.ko"), "aesni_intel");
    }
}
