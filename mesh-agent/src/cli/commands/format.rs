//! Numbers and lists as people read them.

use crate::{admin::wire::PortJson, cli::output::Output};

/// Whole seconds, as `3h 12m`.
pub(super) fn age(seconds: f64) -> String {
    if !(0.0..1e15).contains(&seconds) {
        return "-".to_owned();
    }
    let whole = std::time::Duration::from_secs_f64(seconds.floor());
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A difference of clocks: `+12ms`, `-1.5s`.
pub(super) fn offset(seconds: f64) -> String {
    let ms = (seconds * 1e3).round();
    if ms.abs() < 1000.0 { format!("{ms:+}ms") } else { format!("{seconds:+.1}s") }
}

/// Bytes in binary units, as `1.2 MiB`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(super) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `80/tcp`, `80→8080/tcp`, with `published 8000` behind it.
pub(super) fn port(p: &PortJson) -> String {
    let target = if p.port == p.target.to_string() { String::new() } else { format!("->{}", p.target) };
    let published = match &p.published {
        None => String::new(),
        Some(published) => {
            let port = published.port.as_deref().unwrap_or("?");
            let mode = if published.mode == "host" { " on its hosts" } else { "" };
            let conflict = match &published.conflict {
                Some(holder) => format!(" (conflict: {holder} holds it)"),
                None => String::new(),
            };
            format!(" published {port}{mode}{conflict}")
        }
    };
    format!("{}{target}/{}{published}", p.port, p.protocol)
}

/// The outcome of a write.
pub(super) fn done(output: Output, done: &crate::admin::wire::Done) -> Result<(), crate::cli::exit::Failure> {
    if output.json {
        return output.json(done);
    }
    output.print(&format!("{}\n", crate::cli::output::clean(&done.done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(age(3725.9), "1h 2m");
        assert_eq!(age(f64::NAN), "-");
        let clocks =
            [(0.012, "+12ms"), (-1.5, "-1.5s"), (0.0, "+0ms"), (-0.9996, "-1.0s"), (3600.04, "+3600.0s")];
        for (seconds, want) in clocks {
            assert_eq!(offset(seconds), want);
        }
        assert_eq!((bytes(512), bytes(1536)), ("512 B".into(), "1.5 KiB".into()));
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
