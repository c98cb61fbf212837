//! Generic netlink (uapi `linux/genetlink.h`): families of messages that have a name, whose number the kernel tells.

use super::nfnetlink::{ACK, Attributes, Channel, REQUEST, Request, malformed};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use std::io;

/// `GENL_ID_CTRL`, the one family with a number of its own.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`
const GET_FAMILY: u8 = 3;
// `CTRL_ATTR_*`
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// A family's number, and which version of it is spoken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id {
    pub(super) number: u16,
    pub(super) version: u8,
}

impl Id {
    /// A request of the family; `flags` are `NLM_F_*` beside `NLM_F_REQUEST`.
    pub(super) fn request(self, command: u8, flags: u16) -> Request {
        Request::of_type(self.number, REQUEST | flags, [command, self.version, 0, 0])
    }
}

/// A family, spoken with in one network namespace.
pub(super) struct Family {
    channel: Channel,
    pub(super) id: Id,
}

impl Family {
    /// Opens a socket in the calling thread's network namespace. The kernel loads the family's module if it has one.
    ///
    /// # Errors
    /// What the kernel says: `ENOENT` when it has no such family.
    pub(super) fn open(name: &str, version: u8) -> io::Result<Family> {
        let mut channel = Channel::open_to(NETLINK_GENERIC)?;
        let mut request = Id { number: CONTROL, version: 1 }.request(GET_FAMILY, ACK);
        request.put_text(FAMILY_NAME, name);
        let mut number = None;
        channel.ask(request, |_, mut attributes| {
            let id = attributes.find(|(kind, _)| *kind == FAMILY_ID);
            number = id.and_then(|(_, value)| value.bytes()).map(u16::from_ne_bytes);
        })?;
        Ok(Family { channel, id: Id { number: number.ok_or_else(malformed)?, version } })
    }

    /// Sends a request, which asks for a dump or an acknowledgement, and hands out the objects of its answer.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn ask(&mut self, request: Request, mut each: impl FnMut(Attributes<'_>)) -> io::Result<()> {
        self.channel.ask(request, |_, attributes| each(attributes))
    }

    /// Sends requests in a row, each for itself: which were refused, by their place, with the error number.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn row(&mut self, requests: Vec<Request>) -> io::Result<Vec<(usize, i32)>> {
        self.channel.row(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_by_name() {
        // The controller is a family too, and the only one that every kernel has.
        assert_eq!(Family::open("nlctrl", 2).unwrap().id.number, CONTROL);
        let none = Family::open("mesh-none", 1).err().unwrap();
        assert_eq!(none.raw_os_error(), Some(libc::ENOENT));
    }
}
