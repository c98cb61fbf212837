//! Proxies as child processes.

use super::load::Backends;
use crate::{cores::pinned, process};
use anyhow::{Context as _, bail};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A running proxy. Killed on drop.
#[derive(Debug)]
pub(super) struct Peer {
    /// As the table shows it.
    pub(super) name: &'static str,
    /// Its process.
    pub(super) child: Child,
    /// Leads to the backend that sends without end.
    pub(super) tcp_bulk: SocketAddr,
    /// Leads to the backend of short exchanges.
    pub(super) tcp_short: SocketAddr,
    /// Leads to the echo.
    pub(super) udp: SocketAddr,
    /// Whether `udp` is served.
    pub(super) has_udp: bool,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Processor time of all its threads so far.
    pub(super) fn processor_time(&self) -> anyhow::Result<Duration> {
        process::processor_time(self.child.id()).context(self.name)
    }
}

/// Three ports that are free now, on 127.0.0.1.
pub(super) fn free_ports() -> anyhow::Result<[SocketAddr; 3]> {
    let one = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [one()?, one()?, one()?];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// Waits until the proxy takes connections.
#[expect(clippy::disallowed_methods, reason = "the wait between two looks at a process that cannot tell")]
pub(super) fn ready(peer: &Peer) -> anyhow::Result<()> {
    let start = Instant::now();
    while TcpStream::connect(peer.tcp_short).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            bail!("{} does not answer at {} after 10 s", peer.name, peer.tcp_short);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn program(paths: &[&'static str], name: &str) -> anyhow::Result<&'static str> {
    let found = paths.iter().copied().find(|path| Path::new(path).exists());
    found.with_context(|| format!("{name} is not installed (apt-get install {name})"))
}

/// HAProxy with one thread. It does not balance UDP.
pub(super) fn haproxy(backends: &Backends, folder: &Path) -> anyhow::Result<Peer> {
    let path = program(&["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"], "haproxy")?;
    let [tcp_bulk, tcp_short, udp] = free_ports()?;
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen bulk\n  bind {tcp_bulk}\n  server b {}\n\
         listen short\n  bind {tcp_short}\n  server b {}\n",
        backends.bulk, backends.short
    );
    fs::write(&file, text)?;
    let child = quiet(pinned(path).arg("-db").arg("-f").arg(&file)).spawn().context("haproxy")?;
    let peer = Peer { name: "haproxy", child, tcp_bulk, tcp_short, udp, has_udp: false };
    ready(&peer)?;
    Ok(peer)
}

/// nginx with the stream module and one process.
pub(super) fn nginx(backends: &Backends, folder: &Path) -> anyhow::Result<Peer> {
    let path = program(&["/usr/sbin/nginx", "/usr/local/sbin/nginx"], "nginx")?;
    let module = program(&["/usr/lib/nginx/modules/ngx_stream_module.so"], "libnginx-mod-stream")?;
    let [tcp_bulk, tcp_short, udp] = free_ports()?;
    let file = folder.join("nginx.conf");
    let base = folder.display();
    let text = format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\nworker_processes 1;\n\
         pid {base}/nginx.pid;\nerror_log stderr crit;\nevents {{ worker_connections 4096; }}\n\
         stream {{\n  proxy_buffer_size 64k;\n\
         server {{ listen {tcp_bulk}; proxy_pass {}; }}\n\
         server {{ listen {tcp_short}; proxy_pass {}; }}\n\
         server {{ listen {udp} udp reuseport; proxy_pass {}; proxy_timeout 60s; }}\n}}\n",
        backends.bulk, backends.short, backends.udp
    );
    fs::write(&file, text)?;
    let mut command = pinned(path);
    let child = quiet(command.arg("-p").arg(folder).arg("-c").arg(&file)).spawn().context("nginx")?;
    let peer = Peer { name: "nginx stream", child, tcp_bulk, tcp_short, udp, has_udp: true };
    ready(&peer)?;
    Ok(peer)
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null())
}
