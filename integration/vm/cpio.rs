//! An initramfs: a cpio archive in the "newc" format, as the kernel unpacks it.
//!
//! The format: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

/// One thing in the archive.
#[derive(Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(Vec<u8>),
    Link(String),
}

/// What the archive holds, by absolute path. A folder sorts before what is in it, as the kernel needs it.
#[derive(Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds an executable file with its folders. What is there already stays.
    pub(crate) fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.add(path, Node::File(content.into()));
    }

    /// Adds a symbolic link, likewise.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.add(path, Node::Link(to.to_owned()));
    }

    /// Whether something has that path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn add(&mut self, path: &str, node: Node) {
        for folder in Path::new(path).ancestors().skip(1).filter_map(Path::to_str).filter(|f| *f != "/") {
            self.0.entry(folder.to_owned()).or_insert(Node::Folder);
        }
        self.0.entry(path.to_owned()).or_insert(node);
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Of `out`, and of a file of 4 GiB or more, which the format cannot hold.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, node)) in (1..).zip(&self.0) {
            let (mode, content): (u32, &[u8]) = match node {
                Node::Folder => (0o040_755, &[]),
                Node::File(content) => (0o100_755, content),
                Node::Link(to) => (0o120_777, to.as_bytes()),
            };
            entry(out, inode, mode, path.trim_start_matches('/'), content)?;
        }
        entry(out, 0, 0, "TRAILER!!!", &[])
    }
}

/// One entry: 110 bytes of header in hex, the name with its NUL and the content, both padded to 4 bytes.
fn entry(out: &mut impl Write, inode: u32, mode: u32, name: &str, content: &[u8]) -> io::Result<()> {
    let size =
        |bytes: usize| u32::try_from(bytes).map_err(|_| io::Error::other(format!("{name}: {bytes} bytes")));
    let (links, named) = (1, name.len() + 1);
    let fields = [inode, mode, 0, 0, links, 0, size(content.len())?, 0, 0, 0, 0, size(named)?, 0];
    write!(out, "070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0; 4][..1 + padding(110 + named)])?;
    out.write_all(content)?;
    out.write_all(&[0; 3][..padding(content.len())])
}

/// How many bytes are missing to a multiple of 4.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut tree = Tree::default();
        tree.file("/a/bc", "hello");
        let mut out = Vec::new();
        tree.write(&mut out).unwrap();
        assert_eq!(out.len() % 4, 0);
        // The folder: header, "a", NUL, no content. 110 + 2 bytes need no padding.
        assert_eq!(&out[..14], b"07070100000001");
        assert_eq!(&out[14..22], b"000041ED");
        assert_eq!(&out[110..112], b"a\0");
        // The file: "a/bc" and NUL and one byte of padding; five bytes and three of padding.
        let file = &out[112..];
        assert_eq!(&file[..14], b"07070100000002");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[94..102], b"00000005");
        assert_eq!(&file[110..124], b"a/bc\0\0hello\0\0\0");
        assert!(out.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn what_is_there_stays_and_folders_are_made_once() {
        let mut tree = Tree::default();
        tree.file("/x/y", "first");
        tree.file("/x/y", "second");
        tree.link("/x/z", "y");
        let mut out = Vec::new();
        tree.write(&mut out).unwrap();
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("first") && !text.contains("second"));
        assert_eq!(text.matches("070701").count(), 4, "x, x/y, x/z and the trailer");
        assert!(tree.has("/x") && !tree.has("/y"));
    }
}
