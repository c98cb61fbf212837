//! Join tokens: what a new node needs to find and to enter a mesh, as one line of text.
//!
//! ```text
//! "mesh1_" | base64url( postcard(expires, seeds, keys) | first 16 bytes of SHA-256 of what is before )
//! ```
//! The hash is against cutting and mistyping. It cannot be more: whoever reads a token has the cluster key. The expiry
//! binds honest people; a token that got into wrong hands is a leaked key (docs/control-plane.md).

use crate::keyring::{ClusterKey, KEY_LEN, MAX_KEYS};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

/// What a token begins with; the digit is the format's version.
const PREFIX: &str = "mesh1_";
/// Longest token that is read, in bytes.
const MAX_TOKEN: usize = 8 * 1024;
/// Most seeds of a token.
pub const MAX_SEEDS: usize = 16;
/// Longest seed, in bytes.
const MAX_SEED: usize = 300;
const SUM: usize = 16;

/// What a join token carries. Its `Debug` does not show the keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinToken {
    /// When it ends, in Unix seconds.
    pub expires: u64,
    /// `host:port` of nodes to join, 1 to 16.
    pub seeds: Vec<String>,
    /// Cluster keys, 1 to 8, the one that seals first.
    pub keys: Vec<ClusterKey>,
}

/// Why a text is no join token. Never holds what the text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error("this is no join token: one begins with `mesh1_`; make one with `mesh-agent token create`")]
    Foreign,
    /// Of another release.
    #[error(
        "this join token is of another release: use the mesh-agent that made it, or make one with this release"
    )]
    Version,
    /// Not whole.
    #[error("this join token is cut short or altered: copy it whole, from `mesh1_` to its end")]
    Damaged,
}

/// Expiry, seeds, keys.
type Body = (u64, Vec<String>, Vec<[u8; KEY_LEN]>);

impl JoinToken {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let keys: Vec<&[u8; KEY_LEN]> = self.keys.iter().map(ClusterKey::bytes).collect();
        // Vectors grow: encoding cannot fail.
        let mut body = postcard::to_stdvec(&(self.expires, &self.seeds, keys)).unwrap_or_default();
        let sum = digest(&SHA256, &body);
        body.extend_from_slice(&sum.as_ref()[..SUM]);
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(body))
    }

    /// Reads a text; blanks around it do not count. Whether it ended is the caller's to see.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let version = text.strip_prefix("mesh").and_then(|rest| rest.split_once('_'));
            let later = version.is_some_and(|(v, _)| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
            return Err(if later { TokenError::Version } else { TokenError::Foreign });
        };
        if body.len() > MAX_TOKEN {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<SUM>().ok_or(TokenError::Damaged)?;
        if digest(&SHA256, body).as_ref()[..SUM] != sum[..] {
            return Err(TokenError::Damaged);
        }
        let ((expires, seeds, keys), rest) =
            postcard::take_from_bytes::<Body>(body).map_err(|_| TokenError::Damaged)?;
        let good = rest.is_empty()
            && (1..=MAX_SEEDS).contains(&seeds.len())
            && seeds.iter().all(|seed| is_seed(seed))
            && (1..=MAX_KEYS).contains(&keys.len());
        if !good {
            return Err(TokenError::Damaged);
        }
        Ok(JoinToken { expires, seeds, keys: keys.into_iter().map(ClusterKey::new).collect() })
    }
}

/// Whether a text is `host:port`, as in `node1:7946` or `[fd00::1]:7946`.
#[must_use]
pub fn is_seed(text: &str) -> bool {
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && (!host.contains(':') || host.starts_with('[')))
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c);
    port.is_some_and(|port| port > 0) && text.len() <= MAX_SEED && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn token() -> JoinToken {
        let seeds = vec!["192.0.2.1:7946".into(), "node-2.example:7946".into(), "[fd00::1]:7946".into()];
        JoinToken { expires: 1_790_000_000, seeds, keys: vec![ClusterKey::new([0x41; KEY_LEN])] }
    }

    #[test]
    fn a_token_survives_and_shows_no_key() {
        let text = token().encode();
        assert!(
            text.starts_with("mesh1_")
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_eq!(JoinToken::decode(&format!(" {text}\n")), Ok(token()));
        let shown = format!("{:?}", token());
        assert!(!shown.contains("65, 65") && !shown.contains(&token().keys[0].expose()), "{shown}");
    }

    #[test]
    fn what_is_cut_altered_or_foreign_is_refused_by_name() {
        let text = token().encode();
        for cut in PREFIX.len()..text.len() {
            assert_eq!(JoinToken::decode(&text[..cut]), Err(TokenError::Damaged), "{cut}");
        }
        assert_eq!(JoinToken::decode(&text.replace("mesh1_", "mesh2_")), Err(TokenError::Version));
        for foreign in ["", "mesh", "mesh1", "mesh_x", "SWMTKN-1-49nj1cmql0", "meshx_abc", &text[1..]] {
            assert_eq!(JoinToken::decode(foreign), Err(TokenError::Foreign), "{foreign}");
        }
        let long = format!("mesh1_{}", "A".repeat(MAX_TOKEN + 1));
        assert_eq!(JoinToken::decode(&long), Err(TokenError::Damaged));
        let mut rng = StdRng::seed_from_u64(8);
        for _ in 0..20_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(PREFIX.len()..bytes.len());
                bytes[at] = rng.random_range(0x20..0x7f);
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            let bad = String::from_utf8(bytes).unwrap();
            let read = JoinToken::decode(&bad);
            assert!(read.is_err() || bad.trim() == text, "{bad}");
        }
    }

    #[test]
    fn a_right_sum_alone_makes_no_token() {
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..20_000 {
            let mut body = postcard::to_stdvec(&(1u64, &token().seeds, vec![[7u8; KEY_LEN]])).unwrap();
            let at = rng.random_range(0..body.len());
            body[at] = rng.random();
            body.truncate(rng.random_range(0..=body.len()));
            let sum = digest(&SHA256, &body);
            body.extend_from_slice(&sum.as_ref()[..SUM]);
            // Whatever it says, it says it within the limits.
            if let Ok(read) = JoinToken::decode(&format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(&body)))
            {
                assert!(!read.keys.is_empty() && read.seeds.iter().all(|seed| is_seed(seed)), "{read:?}");
            }
        }
        for (seeds, keys) in [
            (vec![], 1),
            (vec!["a:1".to_owned(); 17], 1),
            (vec!["a:1".into()], 0),
            (vec!["a:1".into()], 9),
            (vec!["a b:1".into()], 1),
        ] {
            let keys = vec![ClusterKey::new([1; KEY_LEN]); keys];
            let bad = JoinToken { seeds, keys, ..token() };
            assert_eq!(JoinToken::decode(&bad.encode()), Err(TokenError::Damaged));
        }
    }
}
