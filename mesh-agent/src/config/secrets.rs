//! What is kept in files of its own: keys, tokens, certificates. No message shows a secret.

use super::{
    types::Secret,
    values::path,
    yaml::{self, Field},
};
use mesh_control::{ClusterKey, MAX_KEYS};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The cluster keys, out of `cluster.keys` and `cluster.key_file` together.
pub(super) fn keys(
    root: &Field<'_>,
    inline: Option<&Field<'_>>,
    file: Option<&Field<'_>>,
    base: &Path,
) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    let none_given = inline.is_none() && file.is_none();
    let mut add = |field: &Field<'_>, text: &str, place: String| {
        if text.parse::<ClusterKey>().is_err() {
            field.fail(format!(
                "{place}is no key: use the output of `mesh-agent key generate`, base64 of 32 bytes"
            ));
        } else if found.iter().any(|k| k.expose() == text) {
            field.fail(format!("{place}repeats a key: keep one"));
        } else if found.len() == MAX_KEYS {
            field.fail(format!("{place}is one key too many: keep at most {MAX_KEYS}"));
        } else {
            found.push(Secret::new(text));
        }
    };
    for field in inline.into_iter().flat_map(Field::one_or_list) {
        if let Some(text) = field.text() {
            add(&field, text, String::new());
        }
    }
    if let Some(field) = file
        && let Some(text) = read_private(field, base)
    {
        let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
        for (number, line) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).take(64) {
            add(field, line, format!("line {number} of the file "));
        }
    }
    if found.is_empty() && (none_given || root.is_clean_under("cluster.key")) {
        root.fail_at(
            "cluster.keys",
            "is missing: all traffic between nodes is encrypted; put the output of `mesh-agent key generate` here \
             or in cluster.key_file, the same on every node",
        );
    }
    found
}

/// The bearer token in a file: one line of 16 to 512 visible characters.
pub(super) fn token(field: &Field<'_>, base: &Path) -> Option<Secret> {
    let text = read_private(field, base)?;
    let text = text.trim();
    if !(16..=512).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        field.fail("names a file without a token: put one line of 16 to 512 visible characters there");
        return None;
    }
    Some(Secret::new(text))
}

/// A PEM file that is there.
pub(super) fn pem(field: &Field<'_>, base: &Path) -> Option<PathBuf> {
    if !read(field, base)?.contains("-----BEGIN ") {
        field.fail("names a file without PEM: it must hold -----BEGIN …----- blocks");
        return None;
    }
    field.with(|t| path(t, base))
}

/// As [`pem`], for a private key.
pub(super) fn private_pem(field: &Field<'_>, base: &Path) -> Option<PathBuf> {
    let file = pem(field, base)?;
    warn_if_public(field, &file);
    Some(file)
}

fn read_private(field: &Field<'_>, base: &Path) -> Option<String> {
    let text = read(field, base)?;
    warn_if_public(field, &field.with(|t| path(t, base))?);
    Some(text)
}

/// A secret that every user of the host can read is none.
fn warn_if_public(field: &Field<'_>, file: &Path) {
    let mode = fs::metadata(file).map_or(0, |m| m.permissions().mode() & 0o7777);
    if mode & 0o004 != 0 {
        let file = file.display();
        field.warn(format!("every user can read {file} (mode {mode:04o}): run `chmod 600 {file}`"));
    }
}

fn read(field: &Field<'_>, base: &Path) -> Option<String> {
    let file = field.with(|t| path(t, base))?;
    match yaml::read_file(&file) {
        Ok(text) => Some(text),
        Err(problems) => {
            let first = problems.0.first().map_or(String::new(), |p| p.message.clone());
            field.fail_value(&file.display().to_string(), first);
            None
        }
    }
}
