//! Debian packages, fetched and unpacked without being installed, and kept under `target/vm`.
//!
//! apt works in a folder of its own, with its own list of suites: neither the machine's release nor what is installed
//! on it makes a difference, and no privileges are needed.

use crate::kernels::{Kernel, PACKAGES};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The dynamic loader of Debian's packages (in lib64 there is only a link, to the machine's own).
pub(crate) const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
/// Where it is to look for libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// What was unpacked, kept between runs: a folder per thing, its name with the version. Deleting it fetches anew.
#[derive(Debug)]
pub(crate) struct Cache(PathBuf);

/// The packages of the lane itself.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where they are unpacked.
    pub(crate) root: PathBuf,
}

/// A kernel to boot.
#[derive(Debug)]
pub(crate) struct Image {
    /// The compressed kernel.
    pub(crate) kernel: PathBuf,
    /// `lib/modules/VERSION`, its files uncompressed.
    pub(crate) modules: PathBuf,
}

impl Tools {
    /// Runs a program with the loader and the libraries of the packages. `loader` are options of the loader.
    pub(crate) fn loading(&self, loader: &[&str], program: &Path) -> Command {
        let mut command = Command::new(self.root.join(LOADER));
        let folders = LIBRARIES.map(|l| self.root.join(l).display().to_string()).join(":");
        command.args(["--library-path", &folders]).args(loader).arg(program);
        command
    }

    /// A program of the packages, on this machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.loading(&[], &self.root.join(program))
    }

    /// The shell and small tools of the guest; linked statically.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }
}

impl Cache {
    /// In that folder, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn at(folder: PathBuf) -> Result<Cache> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
        Ok(Cache(folder))
    }

    /// A new folder beside what is kept, gone when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        tempfile::tempdir_in(&self.0).with_context(|| format!("cannot make a folder in {:?}", self.0))
    }

    /// The first folder whose name begins so.
    fn kept(&self, prefix: &str) -> Result<Option<PathBuf>> {
        let entries = fs::read_dir(&self.0)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries
            .iter()
            .find(|e| e.file_name().to_string_lossy().starts_with(prefix))
            .map(fs::DirEntry::path))
    }

    /// Keeps a finished folder, whole or not at all.
    fn keep(&self, made: &Path, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        match fs::rename(made, &path) {
            // Another run was quicker with the same.
            Err(_) if path.exists() => Ok(path),
            done => done.map(|()| path.clone()).with_context(|| format!("cannot keep {path:?}")),
        }
    }

    /// The unpacked tools, fetched when they are not there.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub(crate) fn tools(&self) -> Result<Tools> {
        let mut hasher = DefaultHasher::new();
        PACKAGES.hash(&mut hasher);
        let name = format!("tools-{:016x}", hasher.finish());
        if let Some(root) = self.kept(&name)? {
            return Ok(Tools { root });
        }
        let (suite, packages) = PACKAGES;
        eprintln!("mesh-vm: fetching {} (about 50 MB)", packages.join(", "));
        let scratch = self.scratch()?;
        let apt = Apt::of(suite, scratch.path())?;
        apt.run("apt-get", |c| c.args(["install", "-y", "--download-only"]).args(packages))?;
        let root = unpack(&apt.folder.join("cache/archives"), scratch.path())?;
        Ok(Tools { root: self.keep(&root, &name)? })
    }

    /// A kernel, fetched when it is not there.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not laid out as Debian's kernels are.
    pub(crate) fn kernel(&self, kernel: &Kernel, tools: &Tools) -> Result<Image> {
        let prefix = format!("kernel-{}-", kernel.name);
        if let Some(root) = self.kept(&prefix)? {
            return image(&root);
        }
        eprintln!("mesh-vm: fetching the newest {} of {} (about 30 MB)", kernel.package, kernel.suite);
        let scratch = self.scratch()?;
        let apt = Apt::of(kernel.suite, scratch.path())?;
        let shown = apt.run("apt-cache", |c| c.args(["depends", "--important", kernel.package]))?;
        let package = shown.lines().find_map(|l| l.trim().strip_prefix("Depends: linux-image-"));
        let package = package.with_context(|| format!("{} depends on no kernel: {shown}", kernel.package))?;
        apt.run("apt-get", |c| c.args(["download", &format!("linux-image-{package}")]))?;
        let root = unpack(&apt.folder, scratch.path())?;
        let made = image(&root)?;
        // 6.12 compresses each of them; in the guest that would cost ten times as much.
        let mut find = Command::new("find");
        find.arg(&made.modules)
            .args(["-name", "*.ko.xz", "-exec"])
            .arg(tools.busybox())
            .args(["unxz", "{}", "+"]);
        succeeded(&mut find)?;
        let version = made.modules.file_name().context("a folder of modules without a name")?;
        // kmod asks its own name what to do.
        let mut depmod = tools.loading(&["--argv0", "depmod"], &tools.root.join("bin/kmod"));
        succeeded(depmod.arg("-b").arg(&root).arg(version))?;
        let name = prefix + &version.to_string_lossy();
        image(&self.keep(&root, &name)?)
    }
}

/// The parts of an unpacked kernel package.
fn image(root: &Path) -> Result<Image> {
    let only = |folder: &str| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(root.join(folder)).with_context(|| format!("{root:?} has no {folder}"))?;
        Ok(entries.filter_map(Result::ok).map(|e| e.path()).collect())
    };
    let boot = only("boot")?;
    let kernel = boot.iter().find(|p| p.to_string_lossy().contains("vmlinuz-"));
    let (kernel, modules) = (kernel.cloned(), only("lib/modules")?.pop());
    let (Some(kernel), Some(modules)) = (kernel, modules) else { bail!("{root:?} holds no kernel") };
    Ok(Image { kernel, modules })
}

/// Unpacks every package of a folder into `into/root`.
fn unpack(packages: &Path, into: &Path) -> Result<PathBuf> {
    let root = into.join("root");
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            succeeded(Command::new("dpkg").arg("-x").arg(path).arg(&root))?;
        }
    }
    Ok(root)
}

/// Runs a command to its end: its output, or an error with what it said.
pub(crate) fn succeeded(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// apt with a world of its own: nothing installed, one suite.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Makes the folders and fetches the suite's list of packages.
    fn of(suite: &str, scratch: &Path) -> Result<Apt> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing (Debian and Ubuntu: debian-archive-keyring)");
        }
        let folder = scratch.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mirror = std::env::var("MESH_VM_MIRROR").unwrap_or_else(|_| "http://deb.debian.org".to_owned());
        let source =
            |path: &str, suite: &str| format!("deb [signed-by={KEYRING}] {mirror}/{path} {suite} main\n");
        let sources = source("debian", suite) + &source("debian-security", &format!("{suite}-security"));
        fs::write(folder.join("sources.list"), sources)?;
        fs::write(folder.join("status"), "")?;
        let at = folder.display();
        let settings = format!(
            r#"Dir::State "{at}/state";
Dir::State::status "{at}/status";
Dir::Cache "{at}/cache";
Dir::Etc::SourceList "{at}/sources.list";
Dir::Etc::SourceParts "/dev/null";
APT::Architecture "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"#
        );
        fs::write(folder.join("apt.conf"), settings)?;
        let apt = Apt { folder };
        apt.run("apt-get", |c| c.args(["update", "-o", "APT::Update::Error-Mode=any"]))?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Result<String> {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).current_dir(&self.folder).arg("-q");
        succeeded(arguments(&mut command))
    }
}
