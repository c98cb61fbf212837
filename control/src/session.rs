//! Sealed TCP connections, without the sockets.
//!
//! ```text
//! initiator → version 1 | key id 4 | salt 16        responder → version 1 | salt 16
//! then both → length 4 | AES-256-GCM(frame) | tag 16, ...
//! ```
//! Both salts go into the keys, one for each direction, so a recorded connection opens nothing later. The nonce counts
//! frames: dropped, repeated or reordered ones do not authenticate.

use crate::{
    keyring::{Keyring, WireId},
    packet::{VERSION, nonce},
};
use ring::aead::{Aad, LessSafeKey};

/// Bytes of the initiator's greeting.
pub(crate) const GREETING: usize = 1 + 4 + 16;
/// Bytes of the responder's answer.
pub(crate) const ANSWER: usize = 1 + 16;
/// Largest frame before the peer has proven that it has the key.
pub(crate) const MAX_FIRST_FRAME: usize = 256 * 1024;
/// Largest frame.
pub(crate) const MAX_FRAME: usize = 2 * 1024 * 1024;
/// Bytes that sealing adds to a frame, without its length.
pub(crate) const TAG: usize = 16;

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("another wire version: use one release on all nodes")]
    Version,
    #[error("a cluster key that this node does not hold: it was removed, or never added")]
    UnknownKey,
    #[error("the peer hung up at the greeting")]
    HungUp,
    #[error("a frame that does not authenticate")]
    Forged,
    #[error("a frame beyond the size limit")]
    TooLarge,
}

/// One direction of a connection.
pub(crate) struct Half {
    key: LessSafeKey,
    counter: u64,
}

/// Both directions.
pub(crate) struct Session {
    /// What this side sends.
    pub(crate) send: Half,
    /// What it receives.
    pub(crate) receive: Half,
}

/// The initiator's first bytes, for a connection under the cluster key `id`.
pub(crate) fn greeting(id: WireId, salt: [u8; 16]) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&id);
    bytes[5..].copy_from_slice(&salt);
    bytes
}

/// The responder's side: what to answer, and the session.
pub(crate) fn respond(
    ring: &Keyring,
    greeting: &[u8; GREETING],
    salt: [u8; 16],
) -> Result<([u8; ANSWER], Session), SessionError> {
    if greeting[0] != VERSION {
        return Err(SessionError::Version);
    }
    let (mut id, mut theirs) = (WireId::default(), [0; 16]);
    id.copy_from_slice(&greeting[1..5]);
    theirs.copy_from_slice(&greeting[5..]);
    let (forth, back) = halves(ring, id, &theirs, &salt)?;
    let mut answer = [0; ANSWER];
    answer[0] = VERSION;
    answer[1..].copy_from_slice(&salt);
    Ok((answer, Session { send: back, receive: forth }))
}

/// The initiator's side, after the answer.
pub(crate) fn initiate(
    ring: &Keyring,
    id: WireId,
    salt: [u8; 16],
    answer: &[u8; ANSWER],
) -> Result<Session, SessionError> {
    if answer[0] != VERSION {
        return Err(SessionError::Version);
    }
    let (forth, back) = halves(ring, id, &salt, &answer[1..])?;
    Ok(Session { send: forth, receive: back })
}

fn halves(ring: &Keyring, id: WireId, first: &[u8], second: &[u8]) -> Result<(Half, Half), SessionError> {
    let half = |direction: &[u8]| {
        let key = ring.subkey(id, &[direction, first, second]).ok_or(SessionError::UnknownKey)?;
        Ok(Half { key, counter: 0 })
    };
    Ok((half(b"stream forth")?, half(b"stream back")?))
}

impl Half {
    /// Appends length and sealed frame to `out`.
    pub(crate) fn seal(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), SessionError> {
        let length = u32::try_from(frame.len() + TAG).map_err(|_| SessionError::TooLarge)?;
        if frame.len() + TAG > MAX_FRAME {
            return Err(SessionError::TooLarge);
        }
        out.extend_from_slice(&length.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(frame);
        let nonce = nonce(self.counter);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(length.to_be_bytes()), &mut out[start..])
            .map_err(|_| SessionError::Forged)?;
        out.extend_from_slice(tag.as_ref());
        self.counter += 1;
        Ok(())
    }

    /// The length of the next sealed frame.
    pub(crate) fn length(&self, prefix: [u8; 4]) -> Result<usize, SessionError> {
        let limit = if self.counter == 0 { MAX_FIRST_FRAME } else { MAX_FRAME };
        match usize::try_from(u32::from_be_bytes(prefix)) {
            Ok(length) if length > limit => Err(SessionError::TooLarge),
            Ok(length) if length < TAG => Err(SessionError::Forged),
            Ok(length) => Ok(length),
            Err(_) => Err(SessionError::TooLarge),
        }
    }

    /// Opens a sealed frame.
    pub(crate) fn open(&mut self, mut sealed: Vec<u8>) -> Result<Vec<u8>, SessionError> {
        let length = u32::try_from(sealed.len()).map_err(|_| SessionError::TooLarge)?;
        let body = self
            .key
            .open_in_place(nonce(self.counter), Aad::from(length.to_be_bytes()), &mut sealed)
            .map_err(|_| SessionError::Forged)?
            .len();
        self.counter += 1;
        sealed.truncate(body);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::{tests::ring, wire_id};

    /// The wire's name of the key of [`ring`].
    fn id(byte: u8) -> WireId {
        wire_id(ring(byte).sealing().id())
    }

    fn connect() -> (Session, Session) {
        let hello = greeting(id(1), [1; 16]);
        let (answer, responder) = respond(&ring(1), &hello, [2; 16]).unwrap();
        (initiate(&ring(1), id(1), [1; 16], &answer).unwrap(), responder)
    }

    fn sealed(half: &mut Half, frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        half.seal(frame, &mut out).unwrap();
        let prefix: [u8; 4] = out[..4].try_into().unwrap();
        assert_eq!(u32::from_be_bytes(prefix) as usize, out.len() - 4);
        out.split_off(4)
    }

    #[test]
    fn frames_open_once_in_order_and_in_one_direction() {
        let (mut a, mut b) = connect();
        let (first, second) = (sealed(&mut a.send, b"one"), sealed(&mut a.send, b"two"));
        assert_eq!(b.receive.open(second.clone()).unwrap_err(), SessionError::Forged);
        assert_eq!(b.receive.open(first.clone()).unwrap(), b"one");
        assert_eq!(b.receive.open(first.clone()).unwrap_err(), SessionError::Forged);
        assert_eq!(b.receive.open(second).unwrap(), b"two");
        assert_eq!(a.receive.open(first.clone()).unwrap_err(), SessionError::Forged);
        // A recorded frame opens in no other connection.
        let hello = greeting(id(1), [1; 16]);
        let (_, mut later) = respond(&ring(1), &hello, [3; 16]).unwrap();
        assert_eq!(later.receive.open(first).unwrap_err(), SessionError::Forged);
    }

    #[test]
    fn strangers_other_versions_and_long_frames_are_refused() {
        let mut hello = greeting(id(9), [1; 16]);
        assert_eq!(respond(&ring(1), &hello, [2; 16]).err(), Some(SessionError::UnknownKey));
        hello[0] = 9;
        assert_eq!(respond(&ring(1), &hello, [2; 16]).err(), Some(SessionError::Version));
        let (_, b) = connect();
        assert_eq!(b.receive.length(u32::MAX.to_be_bytes()), Err(SessionError::TooLarge));
        assert_eq!(b.receive.length([0, 16, 0, 0]), Err(SessionError::TooLarge), "first frames are smaller");
        assert_eq!(b.receive.length([0; 4]), Err(SessionError::Forged));
    }
}
