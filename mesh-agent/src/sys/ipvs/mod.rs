//! The kernel's virtual server, IPVS, over generic netlink (uapi `linux/ip_vs.h`): services, destinations, what they
//! count, timeouts.
//!
//! Calls block, though only as long as the kernel works. Each touches the network namespace that the socket was opened
//! in.

mod message;
#[cfg(test)]
mod tests;

pub use message::{Command, Destination, Seen, Service, Stats, Timeouts, Virtual, flags};

use super::nfnetlink::{ACK, Attributes, Channel, REQUEST, Request, malformed};
use std::{io, net::SocketAddr};

/// Most services, and most destinations of one, that are read: more are nobody's wish.
const MOST: usize = 1 << 20;
/// `GENL_ID_CTRL`, and its command and attributes (uapi `linux/genetlink.h`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// What the kernel says to a command, in words.
#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    /// `ENOENT` of the family.
    #[error("this kernel has no IPVS: modprobe ip_vs, or set data_plane: auto")]
    Missing,
    /// `EPERM`
    #[error("not allowed to: run as root, or with CAP_NET_ADMIN in this network namespace")]
    Denied,
    /// `EEXIST`
    #[error("there is one like it already")]
    Exists,
    /// `ESRCH`
    #[error("there is no such virtual service")]
    NoService,
    /// `ENOENT`
    #[error("there is no such destination, or no such scheduler (modprobe ip_vs_mh and the like)")]
    NotFound,
    /// `EINVAL`
    #[error("IPVS takes no such address, flag or number")]
    Invalid,
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for IpvsError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => IpvsError::Denied,
            Some(libc::EEXIST) => IpvsError::Exists,
            Some(libc::ESRCH) => IpvsError::NoService,
            Some(libc::ENOENT) => IpvsError::NotFound,
            Some(libc::EINVAL) => IpvsError::Invalid,
            _ => IpvsError::Other(error),
        }
    }
}

impl From<IpvsError> for io::Error {
    fn from(error: IpvsError) -> Self {
        let kind = match &error {
            IpvsError::Missing => io::ErrorKind::Unsupported,
            IpvsError::Denied => io::ErrorKind::PermissionDenied,
            IpvsError::Exists => io::ErrorKind::AlreadyExists,
            IpvsError::NoService | IpvsError::NotFound => io::ErrorKind::NotFound,
            IpvsError::Invalid => io::ErrorKind::InvalidInput,
            IpvsError::Other(error) => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// A socket to the IPVS of one network namespace.
pub struct Ipvs {
    channel: Channel,
    family: u16,
}

impl std::fmt::Debug for Ipvs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ipvs").field("family", &self.family).finish_non_exhaustive()
    }
}

impl Ipvs {
    /// Opens one in the calling thread's network namespace. The kernel loads its module, if it may.
    ///
    /// # Errors
    /// [`IpvsError::Missing`] when it has none.
    pub fn open() -> Result<Ipvs, IpvsError> {
        let mut channel = Channel::generic()?;
        let mut request = Request::generic(CONTROL, GET_FAMILY, 1, REQUEST | ACK);
        request.put_text(FAMILY_NAME, "IPVS");
        let mut family = None;
        let asked = channel.ask(request, |_, attributes| {
            family = { attributes }.find(|(kind, _)| *kind == FAMILY_ID).and_then(|(_, v)| v.bytes());
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Err(IpvsError::Missing),
            other => other?,
        }
        let family = u16::from_ne_bytes(family.ok_or_else(malformed)?);
        Ok(Ipvs { channel, family })
    }

    /// Does commands one after the other; one that is refused stops no other. Returns those that were, by their place.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn run(&mut self, commands: &[Command]) -> Result<Vec<(usize, IpvsError)>, IpvsError> {
        let requests = commands.iter().map(|command| command.request(self.family)).collect();
        let refused = self.channel.row(requests)?;
        Ok(refused.into_iter().map(|(at, errno)| (at, io::Error::from_raw_os_error(errno).into())).collect())
    }

    /// Does one command.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn one(&mut self, command: Command) -> Result<(), IpvsError> {
        self.run(&[command])?.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    fn list<T>(
        &mut self,
        request: Request,
        read: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, IpvsError> {
        let mut all = Vec::new();
        let mut more = false;
        self.channel.ask(request, |_, attributes| {
            if all.len() < MOST {
                all.extend(read(attributes));
            } else {
                more = true;
            }
        })?;
        if more {
            Err(io::Error::other(format!("IPVS holds more than {MOST} of a kind")).into())
        } else {
            Ok(all)
        }
    }

    /// All virtual services of the namespace, whoever made them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn services(&mut self) -> Result<Vec<(Virtual, Seen<Service>)>, IpvsError> {
        self.list(message::get_services(self.family), message::read_service)
    }

    /// The destinations of a service.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn destinations(&mut self, of: &Virtual) -> Result<Vec<(SocketAddr, Seen<Destination>)>, IpvsError> {
        let v6 = of.is_ipv6();
        self.list(message::get_destinations(self.family, of), |attributes| {
            message::read_destination(attributes, v6)
        })
    }

    /// How long the namespace's connections are remembered.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        let mut found = None;
        let request = Request::generic(self.family, message::GET_CONFIG, message::VERSION, REQUEST | ACK);
        self.channel.ask(request, |_, attributes| found = message::read_timeouts(attributes))?;
        found.ok_or_else(|| malformed().into())
    }
}
