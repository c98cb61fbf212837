//! The guest's whole file system: tools, modules, test binaries and the libraries all of them need, at the paths they
//! have on this machine.

use crate::{
    cpio::Tree,
    kernels::{MODULES, PLUGINS, TOOLS},
    modules::{self, Modules},
    packages::{Image, LOADER, Tools, succeeded},
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

const INIT: &str = include_str!("init.sh");
/// Loads all modules of the table; run last, because some of them change what a host does.
pub(crate) const LOAD_MODULES: &str = "/vm/load-modules";

/// Writes the initramfs to `to`: everything, and `script` as the list of groups, `tag` before what they say.
///
/// # Errors
/// When something is missing or cannot be read.
pub(crate) fn write(
    to: &Path,
    image: &Image,
    tools: &Tools,
    programs: &[PathBuf],
    (tag, script): (&str, &str),
) -> Result<()> {
    let mut tree = Tree::default();
    tree.file("/init", INIT);
    tree.file(LOAD_MODULES, include_str!("load-modules.sh"));
    tree.file("/vm/tag", format!("TAG='{tag}'\n"));
    tree.file("/vm/groups", script);
    for (path, content) in [
        // tcpdump wants a user of its own.
        (
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\ntcpdump:x:104:104::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
        ),
        ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ] {
        tree.file(path, content);
    }
    add_modules(&mut tree, image)?;
    tree.file("/bin/busybox", read(&tools.busybox())?);
    tree.link("/bin/sh", "busybox");
    // The machine's own libraries first: the tests are linked with them, and the loader takes one of each.
    for program in programs {
        add_program(&mut tree, program)?;
    }
    tree.file("/lib64/ld-linux-x86-64.so.2", read(&tools.root.join(LOADER))?);
    for tool in TOOLS {
        add_tool(&mut tree, tools, tool)?;
    }
    for folder in PLUGINS {
        for entry in fs::read_dir(tools.root.join(&folder[1..])).with_context(|| format!("no {folder}"))? {
            let name = entry?.file_name();
            add_tool(&mut tree, tools, &format!("{folder}/{}", name.to_string_lossy()))?;
        }
    }
    let mut out = BufWriter::new(File::create(to)?);
    tree.write(&mut out)?;
    out.flush().with_context(|| format!("cannot write {to:?}"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {path:?}"))
}

/// The path as text; what cargo and Debian make is.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{path:?} is not UTF-8"))
}

/// The modules of the table that the kernel has, where `modprobe` looks for them.
fn add_modules(tree: &mut Tree, image: &Image) -> Result<()> {
    let version = image.modules.file_name().and_then(|v| v.to_str()).context("modules of no version")?;
    let mut add = |path: &str| -> Result<()> {
        tree.file(&format!("/lib/modules/{version}/{path}"), read(&image.modules.join(path))?);
        Ok(())
    };
    let known = Modules::read(&image.modules)?;
    let (files, lacking) = known.order(MODULES.iter().flat_map(|line| line.split(' ')));
    if !lacking.is_empty() {
        eprintln!("mesh-vm: {version} has no module of the name {}", lacking.join(", "));
    }
    for file in &files {
        add(text(file)?)?;
    }
    for index in fs::read_dir(&image.modules)? {
        let name = index?.file_name();
        if let Some(name) = name.to_str().filter(|n| n.starts_with("modules.")) {
            add(name)?;
        }
    }
    let names: Vec<String> = files.iter().filter_map(|f| f.to_str()).map(modules::name).collect();
    tree.file("/vm/modules", names.join("\n") + "\n");
    Ok(())
}

/// A program of this machine with its libraries, without the debug information, which fills the guest's memory.
fn add_program(tree: &mut Tree, program: &Path) -> Result<()> {
    let stripped = tempfile::NamedTempFile::new()?;
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(stripped.path()).arg(program);
    let content = if succeeded(&mut strip).is_ok() { stripped.path() } else { program };
    tree.file(text(program)?, read(content)?);
    // ldd fails for what is linked statically.
    for library in libraries(&succeeded(Command::new("ldd").arg(program)).unwrap_or_default())? {
        if !tree.has(&library) {
            tree.file(&library, read(Path::new(&library))?);
        }
    }
    Ok(())
}

/// A file of the packages with its libraries; a link with what it leads to.
fn add_tool(tree: &mut Tree, tools: &Tools, tool: &str) -> Result<()> {
    let file = tools.root.join(&tool[1..]);
    if let Ok(to) = fs::read_link(&file) {
        tree.link(tool, text(&to)?);
        let folder = Path::new(tool).parent().context("a tool outside of all folders")?;
        return add_tool(tree, tools, text(&folder.join(to))?);
    }
    tree.file(tool, read(&file)?);
    let root = text(&tools.root)?;
    for library in libraries(&succeeded(&mut tools.loading(&["--list"], &file)).unwrap_or_default())? {
        let path = library.strip_prefix(root).unwrap_or(&library);
        if !tree.has(path) {
            tree.file(path, read(Path::new(&library))?);
        }
    }
    Ok(())
}

/// The files the dynamic loader lists: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for itself.
fn libraries(listed: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        let path = line.split("=>").last().unwrap_or(line).trim();
        if let Some((path, _address)) = path.split_once(" (")
            && path.starts_with('/')
        {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn what_ldd_says_is_read() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n";
        let wanted = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listed).unwrap(), wanted);
        assert!(
            libraries("\tlibnftnl.so.11 => not found\n").unwrap_err().to_string().contains("libnftnl.so.11")
        );
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }
}
