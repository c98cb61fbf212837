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

/// A family, spoken with in one network namespace.
pub(super) struct Family {
    channel: Channel,
    number: u16,
    version: u8,
}

impl Family {
    /// Opens a socket in the calling thread's network namespace. The kernel loads the family's module if it has one.
    ///
    /// # Errors
    /// What the kernel says: `ENOENT` when it has no such family.
    pub(super) fn open(name: &str, version: u8) -> io::Result<Family> {
        let mut channel = Channel::open_to(NETLINK_GENERIC)?;
        let mut request = Request::of_type(CONTROL, REQUEST | ACK, [GET_FAMILY, 1, 0, 0]);
        request.put(FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let mut number = None;
        channel.ask(request, |_, mut attributes| {
            let id = attributes.find(|(kind, _)| *kind == FAMILY_ID);
            number = id.and_then(|(_, value)| value.bytes()).map(u16::from_ne_bytes);
        })?;
        Ok(Family { channel, number: number.ok_or_else(malformed)?, version })
    }

    /// A request of the family; `flags` are `NLM_F_*` beside `NLM_F_REQUEST`.
    pub(super) fn request(&self, command: u8, flags: u16) -> Request {
        Request::of_type(self.number, REQUEST | flags, [command, self.version, 0, 0])
    }

    /// Sends a request, which asks for a dump or an acknowledgement, and hands out the objects of its answer.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn ask(&mut self, request: Request, mut each: impl FnMut(Attributes<'_>)) -> io::Result<()> {
        self.channel.ask(request, |_, attributes| each(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_by_name() {
        // The controller is a family too, and the only one that every kernel has.
        assert_eq!(Family::open("nlctrl", 2).unwrap().number, CONTROL);
        let none = Family::open("mesh-none", 1).err().unwrap();
        assert_eq!(none.raw_os_error(), Some(libc::ENOENT));
    }
}
