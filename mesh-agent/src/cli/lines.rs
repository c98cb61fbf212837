//! Putting the lines of a stream together. Pure.

/// Most bytes of a line.
pub(super) const LONGEST: usize = 64 << 10;

/// A line is longer than [`LONGEST`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a line of more than {LONGEST} bytes")]
pub(super) struct TooLong;

/// What came of a line that is not whole yet.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that are whole now, without empty ones; what is no UTF-8 in them is replaced.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let end = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let tail = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, tail);
        if self.rest.len() > LONGEST || whole.split(|b| *b == b'\n').any(|line| line.len() > LONGEST) {
            return Err(TooLong);
        }
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::wire::StreamLine;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"on"), Ok(vec![]));
        assert_eq!(lines.add(b"e\n\ntwo\nth").unwrap(), ["one", "two"]);
        assert_eq!(lines.add(b"ree\r\n").unwrap(), ["three"]);
        assert_eq!(lines.add(b"\n"), Ok(vec![]));
        assert_eq!(lines.add(&vec![b'x'; LONGEST]), Ok(vec![]));
        assert_eq!(lines.add(b"x"), Err(TooLong));
        assert_eq!(Lines::default().add(&[vec![b'x'; LONGEST + 1], vec![b'\n']].concat()), Err(TooLong));
    }

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_lines() {
        let good =
            br#"{"seq":1,"at":2,"revision":3,"kind":"node-up","trouble":false,"subject":"n","text":"t"}"#;
        for seed in 0..500 {
            println!("seed {seed}");
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut bytes = good.repeat(3);
            for _ in 0..rng.random_range(0..20) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = if rng.random_bool(0.5) { b'\n' } else { rng.random() };
            }
            let whole = Lines::default().add(&bytes).unwrap();
            let (mut lines, mut pieces, mut rest) = (Lines::default(), Vec::new(), bytes.as_slice());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(rng.random_range(1..=rest.len()));
                pieces.extend(lines.add(piece).unwrap());
                rest = tail;
            }
            assert_eq!(pieces, whole, "seed {seed}");
            // Whatever a line is, reading it is no panic.
            whole.iter().for_each(|line| drop(serde_json::from_str::<StreamLine>(line)));
        }
    }
}
