//! `healthcheck:` of Compose (a command) and `x-mesh.health` (over the network).

use crate::{
    config::yaml::{Field, Map},
    source::local::ExecCheck,
};
use mesh_control::model::{CheckKind, HealthCheck};
use std::time::Duration;

const MILLIS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;

/// How often, how long, how many.
struct Timing {
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
    start_period: Duration,
}

fn timing(map: &Map<'_>, defaults: &Timing, fall: &'static str) -> Timing {
    let time = |key, range, default| map.get(key).and_then(|f| f.duration(range)).unwrap_or(default);
    let count = |key, default| map.get(key).and_then(|f| f.number(1..=1000)).unwrap_or(default);
    Timing {
        interval: time("interval", MILLIS(100)..=SECS(86_400), defaults.interval),
        timeout: time("timeout", MILLIS(1)..=SECS(300), defaults.timeout),
        start_period: time("start_period", SECS(0)..=SECS(86_400), defaults.start_period),
        rise: if fall == "fall" { count("rise", defaults.rise) } else { defaults.rise },
        fall: count(fall, defaults.fall),
    }
}

/// Reads `healthcheck:` with Docker's defaults; absent when it checks nothing.
pub(super) fn healthcheck(field: &Field<'_>) -> Option<ExecCheck> {
    let mut map = field.map()?;
    map.ignore(&["start_interval"]);
    let defaults =
        Timing { interval: SECS(30), timeout: SECS(30), rise: 1, fall: 3, start_period: Duration::ZERO };
    let Timing { interval, timeout, rise, fall, start_period } = timing(&map, &defaults, "retries");
    let disabled = map.get("disable").and_then(|f| f.bool()).unwrap_or(false);
    let command = map.get("test").and_then(|f| command(&f));
    map.finish();
    if disabled {
        return None;
    }
    Some(ExecCheck { command: command?, interval, timeout, rise, fall, start_period })
}

fn command(field: &Field<'_>) -> Option<Vec<String>> {
    let shell = |line: &str| Some(vec!["/bin/sh".to_owned(), "-c".into(), line.to_owned()]);
    let fail = || {
        field.fail("is no command: write [\"CMD\", PROGRAM, ARGUMENT…], [\"CMD-SHELL\", LINE] or [\"NONE\"]");
        None
    };
    let words: Vec<&str> = match field.one_or_list() {
        items if items.len() > 256 => {
            field.fail(format!("has {} words: at most 256", items.len()));
            return None;
        }
        items => items.iter().map(Field::text).collect::<Option<_>>()?,
    };
    let line = matches!(field.value(), crate::config::yaml::Value::Scalar { .. });
    match words.as_slice() {
        // An empty line would always succeed.
        [text] if line && !text.trim().is_empty() => shell(text),
        _ if line => fail(),
        ["NONE"] => None,
        ["CMD-SHELL", line] if !line.trim().is_empty() => shell(line),
        ["CMD", program, rest @ ..] if !program.is_empty() => {
            Some([program].into_iter().chain(rest).map(|w| (*w).to_owned()).collect())
        }
        _ => fail(),
    }
}

/// Reads `x-mesh.health`: `tcp: PORT` or `http: {port, path, host}`.
pub(super) fn health(field: &Field<'_>) -> Option<HealthCheck> {
    let map = field.map()?;
    let defaults =
        Timing { interval: SECS(5), timeout: SECS(2), rise: 2, fall: 3, start_period: Duration::ZERO };
    let Timing { interval, timeout, rise, fall, start_period } = timing(&map, &defaults, "fall");
    let kind = match (map.get("tcp"), map.get("http")) {
        (Some(tcp), None) => tcp_check(&tcp),
        (None, Some(http)) => http_check(&http),
        _ => {
            field.fail("must say what is asked: write either tcp: PORT or http: {path: /}");
            None
        }
    };
    map.finish();
    Some(HealthCheck { kind: kind?, interval, timeout, rise, fall, start_period })
}

fn tcp_check(field: &Field<'_>) -> Option<CheckKind> {
    if field.is_null() {
        return Some(CheckKind::Tcp { port: None });
    }
    Some(CheckKind::Tcp { port: Some(field.number(1..=65_535)?) })
}

fn http_check(field: &Field<'_>) -> Option<CheckKind> {
    let map = field.map()?;
    let port = map.get("port").map(|f| f.number(1..=65_535));
    let path = map.get("path").map(|f| {
        f.with(|t| match t {
            _ if !t.starts_with('/') => Err("must begin with /, as /healthz"),
            _ if t.len() > 1024 || !t.bytes().all(|b| b.is_ascii_graphic()) => {
                Err("must be at most 1024 visible ASCII characters: percent-encode others")
            }
            _ => Ok(t.to_owned()),
        })
    });
    let host = map.get("host").map(|f| {
        f.with(|t| match t {
            _ if t.is_empty() || t.len() > 255 || !t.bytes().all(|b| b.is_ascii_graphic()) => {
                Err("is no host name: write one, as www.example.com")
            }
            _ => Ok(t.to_owned()),
        })
    });
    map.finish();
    // A key with a wrong value is not a key that was left out.
    Some(CheckKind::Http {
        port: port.map_or(Some(None), |p| p.map(Some))?,
        path: path.unwrap_or_else(|| Some("/".to_owned()))?,
        host: host.map_or(Some(None), |h| h.map(Some))?,
    })
}
