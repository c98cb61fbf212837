//! `token join` and `token show`: what a token says, and the files of a new node. No agent is asked.

use super::{
    args::{JoinArgs, TokenCommand},
    exit::{Code, Failure},
    input,
    output::Output,
};
use mesh_control::JoinToken;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Longest input that is read, in bytes.
const MOST: u64 = 64 * 1024;

/// Runs what needs no agent; `Some` gives the command back that does.
pub(crate) fn run(command: TokenCommand, output: Output) -> Result<Option<TokenCommand>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match command {
        TokenCommand::Join(args) => join(&args, now, output).map(|()| None),
        TokenCommand::Show { token } => show(&read(&token)?, now, output).map(|()| None),
        create @ TokenCommand::Create(_) => Ok(Some(create)),
    }
}

fn read(token: &str) -> Result<JoinToken, Failure> {
    let text = match token {
        "-" => String::from_utf8_lossy(&input::read(Path::new("-"), MOST)?).into_owned(),
        text => text.to_owned(),
    };
    JoinToken::decode(&text).map_err(|e| Failure::new(Code::Data, e.to_string()))
}

fn in_words(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn show(token: &JoinToken, now: u64, output: Output) -> Result<(), Failure> {
    let expired = token.expires <= now;
    if output.json {
        let keys: Vec<String> = token.keys.iter().map(|key| key.id().to_string()).collect();
        let expires = token.expires.saturating_mul(1000);
        return output.json(
            &serde_json::json!({"seeds": token.seeds, "expires": expires, "expired": expired, "keys": keys}),
        );
    }
    let mut text = String::new();
    for (i, seed) in token.seeds.iter().enumerate() {
        text.push_str(&format!("{:<8} {seed}\n", if i == 0 { "seeds" } else { "" }));
    }
    let expires = match expired {
        true => format!("{} ago", in_words(now - token.expires)),
        false => format!("in {}", in_words(token.expires - now)),
    };
    text.push_str(&format!("{:<8} {expires}\n", if expired { "expired" } else { "expires" }));
    for key in &token.keys {
        text.push_str(&format!("{:<8} {}\n", "key id", key.id()));
    }
    output.print(&text)
}

fn join(args: &JoinArgs, now: u64, output: Output) -> Result<(), Failure> {
    let token = read(&args.token)?;
    if token.expires <= now {
        let text = format!("this join token expired {} ago", in_words(now - token.expires));
        return Err(Failure::new(Code::Data, text)
            .fix("make a new one with `mesh-agent token create` on a running node"));
    }
    let (key_file, config) = (args.dir.join("cluster.key"), args.dir.join("config.yaml"));
    let fail = |path: &Path, e: io::Error| Failure::new(Code::Failure, format!("{}: {e}", path.display()));
    let taken = |path: &Path| {
        Failure::new(Code::Failure, format!("{} exists, and nothing is overwritten", path.display()))
            .fix("move it away, or write elsewhere with --dir")
    };
    if key_file.symlink_metadata().is_ok() {
        return Err(taken(&key_file));
    }
    let has_config = config.symlink_metadata().is_ok();
    // A folder that is there keeps its mode.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&args.dir).map_err(|e| fail(&args.dir, e))?;
    create(&key_file, 0o600, &key_text(&token)).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => taken(&key_file),
        _ => fail(&key_file, e),
    })?;
    if !has_config && let Err(e) = create(&config, 0o644, &config_text(&token)) {
        // Half a node is none: the next try must not stumble over it.
        let _ = fs::remove_file(&key_file);
        return Err(fail(&config, e));
    }
    if output.json {
        let files =
            serde_json::json!({"key_file": key_file, "config": config, "config_written": !has_config});
        return output.json(&files);
    }
    let mut text = format!("wrote {}\n", key_file.display());
    if has_config {
        let seeds = token.seeds.join("\", \"");
        text.push_str(&format!(
            "{} is there and stays as it is; it needs:\n  cluster:\n    join: [\"{seeds}\"]\n    key_file: cluster.key\n",
            config.display()
        ));
    } else {
        text.push_str(&format!("wrote {}\n", config.display()));
    }
    text.push_str(&format!("next: mesh-agent run --config {}\n", config.display()));
    output.print(&text)
}

/// Writes a new file, never over another.
fn create(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn key_text(token: &JoinToken) -> String {
    let keys: Vec<String> =
        token.keys.iter().map(|key| format!("# key {}\n{}\n", key.id(), key.expose())).collect();
    keys.concat()
}

fn config_text(token: &JoinToken) -> String {
    format!(
        "# Written by `mesh-agent token join`. `domain`, `vip_cidr` and `dynamic_ports` must be those of the other nodes:\n\
         # add them here where they are not the defaults.\n\
         cluster:\n  join: [\"{}\"]\n  key_file: cluster.key\n  \
         # With kept state a restart follows key rotations that this file does not know of.\n  \
         # data_dir: /var/lib/mesh-agent\n",
        token.seeds.join("\", \"")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use mesh_control::ClusterKey;
    use std::os::unix::fs::PermissionsExt;

    const NOW: u64 = 1_790_000_000;

    fn token(expires: u64) -> JoinToken {
        let seeds = vec!["192.0.2.1:7946".into(), "[fd00::1]:7946".into()];
        JoinToken { expires, seeds, keys: vec![ClusterKey::generate().unwrap()] }
    }

    fn args(token: &JoinToken, dir: &Path) -> JoinArgs {
        JoinArgs { token: token.encode(), dir: dir.to_owned() }
    }

    #[test]
    fn a_token_makes_the_files_of_a_node_and_overwrites_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("etc");
        let (output, token) = (Output::new(true), token(NOW + 60));
        join(&args(&token, &dir), NOW, output).unwrap();
        let key_file = dir.join("cluster.key");
        assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
        let config = Config::load(&dir.join("config.yaml")).unwrap();
        assert_eq!(config.cluster.join, token.seeds);
        assert_eq!(config.cluster.keys[0].expose(), token.keys[0].expose());

        let again = join(&args(&token, &dir), NOW, output).unwrap_err();
        assert!(again.message.contains("cluster.key exists") && again.fix.is_some(), "{again}");
        fs::remove_file(&key_file).unwrap();
        fs::write(dir.join("config.yaml"), "mine").unwrap();
        join(&args(&token, &dir), NOW, output).unwrap();
        assert_eq!(fs::read_to_string(dir.join("config.yaml")).unwrap(), "mine");
    }

    #[test]
    fn an_expired_or_damaged_token_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let late = join(&args(&token(NOW - 3 * 3600), folder.path()), NOW, Output::new(true)).unwrap_err();
        assert_eq!(late.code, Code::Data);
        assert!(late.message.contains("expired 3h ago") && late.fix.unwrap().contains("token create"));
        let mut cut = args(&token(NOW + 9), folder.path());
        cut.token.pop();
        assert!(join(&cut, NOW, Output::new(true)).unwrap_err().message.contains("cut short"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
