//! DNS servers as child processes, each pinned to the first core with one thread.

use super::{
    questions,
    zone::{FOREIGN, Zone},
};
use crate::{cores::pinned, process};
use anyhow::{Context as _, bail};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long a server may take until it answers: some read a zone of 100,000 names slowly.
const BOUND: Duration = Duration::from_secs(60);

/// A running server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    /// As the table shows it.
    pub(crate) name: &'static str,
    /// Where it answers, UDP and, but for the floor, TCP.
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `command` and waits until it answers for `probe`.
    pub(crate) fn start(
        name: &'static str,
        address: SocketAddr,
        command: &mut Command,
        probe: &str,
    ) -> anyhow::Result<Server> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Server { name, address, child: command.spawn().context(name)? };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (question, start, mut reply) =
            (questions::packet(probe, questions::A), Instant::now(), [0; 1500]);
        while start.elapsed() < BOUND {
            if let Some(code) = server.child.try_wait()? {
                bail!("{name} ended with {code}");
            }
            if socket.send(&question).is_ok() && socket.recv(&mut reply).is_ok() && reply[3] & 0x0f == 0 {
                return Ok(server);
            }
        }
        bail!("{name} does not answer at {address} after {BOUND:?}")
    }

    /// Lets one of our own end by itself, as it does when its standard input ends.
    pub(crate) fn finish(mut self) -> anyhow::Result<ExitStatus> {
        drop(self.child.stdin.take());
        self.child.wait().context(self.name)
    }

    /// Processor time of all its threads so far.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        process::processor_time(self.child.id()).context(self.name)
    }

    /// A size out of `/proc/PID/status`, in bytes.
    pub(crate) fn memory(&self, field: &str) -> anyhow::Result<u64> {
        process::memory(self.child.id(), field)
    }
}

/// A port that is free now for TCP and UDP, on 127.0.0.1.
pub(crate) fn free_port() -> anyhow::Result<SocketAddr> {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free for both TCP and UDP")
}

fn program(name: &str, package: &str) -> anyhow::Result<String> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(|folder| format!("{folder}/{name}"));
    let found = found.into_iter().find(|path| Path::new(path).exists());
    found.with_context(|| format!("{name} is not installed (apt-get install {package})"))
}

/// A server and how it is started: with a zone, in a folder of its own.
pub(crate) type Start = fn(&Zone, &Path) -> anyhow::Result<Server>;

/// Knot with one UDP and one TCP worker.
pub(crate) fn knot(zone: &Zone, folder: &Path) -> anyhow::Result<Server> {
    knot_of(zone.name(), &zone.master_file(), &zone.present(0), folder)
}

/// Knot as an upstream: another zone, with a TTL of an hour.
pub(crate) fn knot_upstream(zone: &Zone, folder: &Path) -> anyhow::Result<Server> {
    knot_of(FOREIGN, &zone.foreign_file(), &zone.foreign(0), folder)
}

fn knot_of(name: &str, text: &str, probe: &str, folder: &Path) -> anyhow::Result<Server> {
    let (path, address) = (program("knotd", "knot")?, free_port()?);
    let base = folder.display();
    fs::write(folder.join("zone"), text)?;
    let file = folder.join("knot.conf");
    fs::write(
        &file,
        format!(
            "server:\n  rundir: {base}\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\n  tcp-reuseport: off\n\
             database:\n  storage: {base}\n\
             template:\n  - id: default\n    storage: {base}\n    journal-content: none\n    semantic-checks: off\n\
             zone:\n  - domain: {name}\n    file: zone\n",
            address.ip(),
            address.port(),
        ),
    )?;
    Server::start("knot", address, pinned(&path).arg("-c").arg(&file), probe)
}

/// Unbound with one thread and the zone as local data.
pub(crate) fn unbound(zone: &Zone, folder: &Path) -> anyhow::Result<Server> {
    unbound_with(&zone.local_data(), "", &zone.present(0), folder)
}

/// Unbound with one thread that forwards everything.
pub(crate) fn unbound_forward(zone: &Zone, upstream: SocketAddr, folder: &Path) -> anyhow::Result<Server> {
    let forward =
        format!("forward-zone:\n  name: \".\"\n  forward-addr: {}@{}\n", upstream.ip(), upstream.port());
    unbound_with("", &forward, &zone.foreign(0), folder)
}

fn unbound_with(local: &str, forward: &str, probe: &str, folder: &Path) -> anyhow::Result<Server> {
    let (path, address) = (program("unbound", "unbound")?, free_port()?);
    let data = folder.join("local");
    fs::write(&data, local)?;
    let file = folder.join("unbound.conf");
    fs::write(
        &file,
        format!(
            "server:\n  interface: {}@{}\n  num-threads: 1\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  verbosity: 0\n  module-config: \"iterator\"\n  \
             do-not-query-localhost: no\n  so-rcvbuf: 0\n  so-sndbuf: 0\n  include: {}\n\
             remote-control:\n  control-enable: no\n{forward}",
            address.ip(),
            address.port(),
            data.display()
        ),
    )?;
    Server::start("unbound", address, pinned(&path).arg("-d").arg("-c").arg(&file), probe)
}

/// dnsmasq with the zone as a hosts file.
pub(crate) fn dnsmasq(zone: &Zone, folder: &Path) -> anyhow::Result<Server> {
    let hosts = folder.join("hosts");
    fs::write(&hosts, zone.hosts())?;
    let options = [format!("--addn-hosts={}", hosts.display()), format!("--local=/{}/", zone.name())];
    dnsmasq_with(&options, &zone.present(0))
}

/// dnsmasq that forwards everything to these, in this order.
pub(crate) fn dnsmasq_forward(zone: &Zone, upstreams: &[SocketAddr]) -> anyhow::Result<Server> {
    let options: Vec<String> =
        upstreams.iter().map(|u| format!("--server={}#{}", u.ip(), u.port())).collect();
    dnsmasq_with(&options, &zone.foreign(0))
}

fn dnsmasq_with(options: &[String], probe: &str) -> anyhow::Result<Server> {
    let (path, address) = (program("dnsmasq", "dnsmasq-base")?, free_port()?);
    let mut command = pinned(&path);
    command.args([
        "-k",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
    ]);
    command.args([&format!("--listen-address={}", address.ip()), &format!("--port={}", address.port())]);
    command.args(options).args(["--pid-file=", "--cache-size=10000"]);
    Server::start("dnsmasq", address, &mut command, probe)
}

/// BIND with one worker and the zone as primary.
pub(crate) fn bind(zone: &Zone, folder: &Path) -> anyhow::Result<Server> {
    let (path, address) = (program("named", "bind9")?, free_port()?);
    fs::write(folder.join("zone"), zone.master_file())?;
    let file = folder.join("named.conf");
    let base = folder.display();
    fs::write(
        &file,
        format!(
            "options {{ directory \"{base}\"; pid-file none; session-keyfile none; lock-file none; \
             listen-on port {} {{ {}; }}; listen-on-v6 {{ none; }}; recursion no; querylog no; \
             dnssec-validation no; notify no; }};\n\
             controls {{ }};\nlogging {{ category default {{ null; }}; }};\n\
             zone \"{}\" {{ type primary; file \"zone\"; }};\n",
            address.port(),
            address.ip(),
            zone.name()
        ),
    )?;
    let mut command = pinned(&path);
    command.args(["-f", "-n", "1"]).arg("-c").arg(&file);
    Server::start("bind", address, &mut command, &zone.present(0))
}
