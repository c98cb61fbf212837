//! Percent-encoding (RFC 3986 section 2.1) of paths and queries, both ways.

use std::fmt::Write;

/// Decodes `%XX`; in a query `+` is a blank too. None when it is broken or no UTF-8.
pub(crate) fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
                (digit()? << 4) | digit()?
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Encodes everything but RFC 3986's unreserved characters, so that the result stands anywhere in a URI.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        for text in ["web.shop", "[::1]:80", "a b&c=d", "ü", ""] {
            assert_eq!(decode(&encode(text), true).as_deref(), Some(text));
        }
        assert_eq!(decode("a+b", true).as_deref(), Some("a b"));
        assert_eq!(decode("a+b", false).as_deref(), Some("a+b"));
        for bad in ["%", "%1", "%zz", "%ff"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
    }
}
