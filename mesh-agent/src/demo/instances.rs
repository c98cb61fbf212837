//! The instances of the demo's services, and whether their places are free.

use super::{
    echo,
    layout::Layout,
    whoami::{self, Identity},
};
use std::{io, net::SocketAddr};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::{AbortHandle, JoinSet},
};

/// Tries every socket that the demo needs; the addresses that are taken, each with what it is for and the reason.
#[must_use]
pub fn taken(layout: &Layout) -> Vec<String> {
    let bind = |address: SocketAddr, protocol: &str| -> io::Result<()> {
        if protocol == "tcp" {
            // As servers do: a port in TIME_WAIT is free.
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(1)
        } else {
            std::net::UdpSocket::bind(address).map(drop)
        }
    };
    let problem = |(address, protocol, purpose): (SocketAddr, &str, String)| {
        bind(address, protocol).err().map(|error| format!("{address}/{protocol} ({purpose}): {error}"))
    };
    layout.needed().filter_map(problem).collect()
}

/// Running instances; dropping this ends them all.
#[derive(Debug, Default)]
pub struct Instances {
    tasks: JoinSet<()>,
}

impl Instances {
    /// Starts every instance of the layout.
    ///
    /// # Errors
    /// The first address that could not be bound, named.
    pub async fn start(layout: &Layout) -> io::Result<Instances> {
        let mut all = Instances::default();
        for service in &layout.services {
            for instance in &service.instances {
                let who = Identity {
                    service: service.name.to_owned(),
                    instance: instance.name.clone(),
                    node: instance.node.clone(),
                };
                all.add(who, service.protocol, (instance.address, service.port).into()).await?;
            }
        }
        Ok(all)
    }

    /// Starts one more: a whoami for `tcp`, an echo for `udp`. The handle ends it alone.
    ///
    /// # Errors
    /// When the address cannot be bound; the message names it.
    pub async fn add(&mut self, who: Identity, protocol: &str, at: SocketAddr) -> io::Result<AbortHandle> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{at}/{protocol}: {error}"));
        Ok(if protocol == "tcp" {
            let listener = TcpListener::bind(at).await.map_err(named)?;
            self.tasks.spawn(whoami::serve(listener, who))
        } else {
            let socket = UdpSocket::bind(at).await.map_err(named)?;
            self.tasks.spawn(echo::serve(socket, who))
        })
    }
}

impl Instances {
    /// Serves one more on a socket that is open already. The handle ends it alone.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub fn adopt(&mut self, who: Identity, socket: Opened) -> io::Result<AbortHandle> {
        Ok(match socket {
            Opened::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                self.tasks.spawn(whoami::serve(TcpListener::from_std(listener)?, who))
            }
            Opened::Udp(socket) => {
                socket.set_nonblocking(true)?;
                self.tasks.spawn(echo::serve(UdpSocket::from_std(socket)?, who))
            }
        })
    }
}

/// A socket of an instance.
#[derive(Debug)]
pub enum Opened {
    /// Of a whoami.
    Tcp(std::net::TcpListener),
    /// Of an echo.
    Udp(std::net::UdpSocket),
}

impl Opened {
    /// Opens one in the calling thread's network namespace: `tcp` or `udp`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn at(protocol: &str, address: SocketAddr) -> io::Result<Opened> {
        if protocol == "tcp" {
            std::net::TcpListener::bind(address).map(Opened::Tcp)
        } else {
            std::net::UdpSocket::bind(address).map(Opened::Udp)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn who() -> Identity {
        Identity { service: "whoami".into(), instance: "whoami-1".into(), node: "node-1".into() }
    }

    async fn free(protocol: &str) -> SocketAddr {
        let any = "127.0.0.1:0";
        if protocol == "tcp" {
            TcpListener::bind(any).await.unwrap().local_addr().unwrap()
        } else {
            UdpSocket::bind(any).await.unwrap().local_addr().unwrap()
        }
    }

    #[tokio::test]
    async fn whoami_names_instance_node_and_client_a_line_each() {
        let at = free("tcp").await;
        let mut instances = Instances::default();
        instances.add(who(), "tcp", at).await.unwrap();
        let mut client = tokio::net::TcpStream::connect(at).await.unwrap();
        let own = client.local_addr().unwrap();
        client.write_all(b"GET /x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        for line in ["Instance: whoami-1", "Node: node-1", "Host: web", &format!("Client: {own}")] {
            assert!(answer.lines().any(|l| l == line), "{line:?} is missing in {answer}");
        }
    }

    #[tokio::test]
    async fn echo_says_who_answered_and_what_came() {
        let at = free("udp").await;
        let mut instances = Instances::default();
        instances.add(who(), "udp", at).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"hello", at).await.unwrap();
        let mut answer = [0u8; 200];
        let length = client.recv(&mut answer).await.unwrap();
        let own = client.local_addr().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..length]), format!("whoami-1 node-1 {own} hello"));
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = holder.local_addr().unwrap();
        let error = Instances::default().add(who(), "tcp", at).await.unwrap_err();
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    }
}
