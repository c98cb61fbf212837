//! Questions, encoded once.

/// What a question should get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The question back: of the floor.
    Echo,
    /// At least one answer.
    Answer,
    /// NOERROR and none.
    NoData,
    /// NXDOMAIN.
    Absent,
}

/// A repeating row of questions.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    packets: Vec<Vec<u8>>,
    want: Want,
}

/// A record type's number.
pub(crate) const A: u16 = 1;
/// A record type's number.
pub(crate) const AAAA: u16 = 28;

impl Questions {
    /// One for each of `names`, in this order, each with EDNS (1,232 octets).
    pub(crate) fn new(names: impl Iterator<Item = String>, kind: u16, want: Want) -> Questions {
        Questions { packets: names.map(|name| packet(&name, kind)).collect(), want }
    }

    /// The same questions for a server that only echoes.
    pub(crate) fn to_echo(&self) -> Questions {
        Questions { want: Want::Echo, ..self.clone() }
    }

    /// The `i`-th, round and round; its id is 0.
    pub(crate) fn packet(&self, i: usize) -> &[u8] {
        &self.packets[i % self.packets.len()]
    }

    /// Whether a reply says what is wanted. It has at least a header.
    pub(crate) fn fits(&self, reply: &[u8]) -> bool {
        let (code, answers) = (reply[3] & 0x0f, u16::from_be_bytes([reply[6], reply[7]]));
        match self.want {
            Want::Echo => true,
            Want::Answer => code == 0 && answers > 0,
            Want::NoData => code == 0 && answers == 0,
            Want::Absent => code == 3,
        }
    }
}

/// A query (RFC 1035 section 4) with an OPT record (RFC 6891 section 6.1), recursion desired.
pub(crate) fn packet(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    packet
}
