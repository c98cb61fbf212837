//! The kernel's virtual server, IPVS, over generic netlink (uapi `linux/ip_vs.h`): services, destinations, what they
//! count, timeouts.
//!
//! Calls block, though only as long as the kernel works. Each touches the network namespace that the socket was opened
//! in.

mod message;
#[cfg(test)]
mod tests;

pub use message::{Command, Destination, Seen, Service, Stats, Timeouts, Virtual, flags};

use super::{
    genl::Family,
    nfnetlink::{ACK, Attributes, Request, malformed},
};
use std::{io, net::SocketAddr};

/// Most services, and most destinations of one, that are read: more are nobody's wish.
const MOST: usize = 1 << 20;

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
pub struct Ipvs(Family);

impl std::fmt::Debug for Ipvs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ipvs").field(&self.0.id).finish()
    }
}

impl Ipvs {
    /// Opens one in the calling thread's network namespace. The kernel loads its module, if it may.
    ///
    /// # Errors
    /// [`IpvsError::Missing`] when it has none.
    pub fn open() -> Result<Ipvs, IpvsError> {
        match Family::open("IPVS", message::VERSION) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Err(IpvsError::Missing),
            other => Ok(Ipvs(other?)),
        }
    }

    /// Does commands one after the other; one that is refused stops no other. Returns those that were, by their place.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn run(&mut self, commands: &[Command]) -> Result<Vec<(usize, IpvsError)>, IpvsError> {
        let requests = commands.iter().map(|command| command.request(self.0.id)).collect();
        let refused = self.0.row(requests)?;
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
        self.0.ask(request, |attributes| {
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
        self.list(message::get_services(self.0.id), message::read_service)
    }

    /// The destinations of a service.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn destinations(&mut self, of: &Virtual) -> Result<Vec<(SocketAddr, Seen<Destination>)>, IpvsError> {
        let v6 = of.is_ipv6();
        self.list(message::get_destinations(self.0.id, of), |attributes| {
            message::read_destination(attributes, v6)
        })
    }

    /// How long the namespace's connections are remembered.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        let mut found = None;
        let request = self.0.id.request(message::GET_CONFIG, ACK);
        self.0.ask(request, |attributes| found = message::read_timeouts(attributes))?;
        found.ok_or_else(|| malformed().into())
    }
}
