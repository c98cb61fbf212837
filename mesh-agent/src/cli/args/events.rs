//! The arguments of `events`.

use clap::Args;
use std::time::Duration;

/// `events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on with what happens, until interrupted or until the agent stops
    #[arg(long, short)]
    pub follow: bool,
    /// Begin after the event of this number (0: the first), at a moment (2026-11-21T07:00:00Z), or so long ago (10m)
    #[arg(long, value_name = "NUMBER|TIME", value_parser = from)]
    pub since: Option<From>,
}

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// After the event of this number.
    Number(u64),
    /// At this moment, Unix time in milliseconds.
    Moment(u64),
    /// So long before now.
    Ago(Duration),
}

fn from(text: &str) -> Result<From, String> {
    if let Ok(number) = text.parse() {
        return Ok(From::Number(number));
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(From::Ago(ago));
    }
    let moment = humantime::parse_rfc3339_weak(text).ok();
    let since = moment.and_then(|m| m.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|d| u64::try_from(d.as_millis()).ok()).map(From::Moment).ok_or_else(|| {
        "write a number of an event, a time span as 10m, or a moment in UTC as 2026-11-21T07:00:00Z"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_read() {
        for (text, want) in [
            ("0", From::Number(0)),
            ("17", From::Number(17)),
            ("10m", From::Ago(Duration::from_secs(600))),
            ("1h 30s", From::Ago(Duration::from_secs(3630))),
            ("1970-01-01T00:00:01Z", From::Moment(1000)),
            ("1970-01-01 00:00:01.5", From::Moment(1500)),
        ] {
            assert_eq!(from(text), Ok(want), "{text}");
        }
        for bad in ["", "-1", "soon", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }
}
