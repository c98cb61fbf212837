//! Durations as Compose writes them.

use std::time::Duration;

/// Reads `1m30s`, `500ms`, `1.5s`: numbers with units `us ms s m h`, as the Compose specification and Go have them.
///
/// # Errors
/// The rule and the fix; the caller puts the value before it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const FIX: &str = "is no duration: write a number and a unit (us, ms, s, m, h), as 1m30s or 500ms";
    let fail = || FIX.to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0f64;
    if rest.is_empty() || rest.len() > 40 {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = match rest[..digits].parse() {
            Ok(n) if rest.starts_with(|c: char| c.is_ascii_digit()) => n,
            _ => return Err(fail()),
        };
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(fail()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    // Rounded to microseconds, the least unit that can be written, so that 0.1s is 100ms and nothing else.
    if total > 366.0 * 86_400.0 {
        return Err("is longer than a year: use at most 8784h".to_owned());
    }
    let whole = Duration::try_from_secs_f64(total).map_err(|_| fail())?;
    let micros = whole.as_nanos().div_ceil(1000).min(u128::from(u64::MAX));
    let rounded = if whole.subsec_nanos() % 1000 < 500 { whole.as_nanos() / 1000 } else { micros };
    Ok(Duration::from_micros(u64::try_from(rounded).map_err(|_| fail())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compose_durations_are_read() {
        for (text, millis) in
            [("500ms", 500), ("1m30s", 90_000), ("1.5s", 1500), ("2h", 7_200_000), ("0", 0), ("0.1s", 100)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1d", "1s5", "..s", "1e9s", "1 s", "9999999999999h", ".5s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
