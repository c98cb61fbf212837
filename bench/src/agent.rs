//! The real agent as a child process, `mesh-agent run` with a generated configuration, and what to ask of it.

use crate::process;
use anyhow::{Context as _, bail, ensure};
use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long any condition is waited for.
const BOUND: Duration = Duration::from_secs(300);

/// Two neighbouring loopback networks, the first for nodes and the second for VIPs, kept from other runs by a port.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: u8,
    _lock: TcpListener,
}

impl Network {
    /// Takes the first free pair out of 127.50.0.0/16 to 127.59.0.0/16.
    pub(crate) fn take() -> anyhow::Result<Self> {
        for nodes in (50..60).step_by(2) {
            if let Ok(lock) = TcpListener::bind((Ipv4Addr::new(127, nodes, 255, 1), 7900)) {
                return Ok(Network { nodes, _lock: lock });
            }
        }
        bail!("127.50.0.0/16 to 127.59.0.0/16 are all in use: wait for the other runs to end")
    }

    /// The address of node `i`.
    pub(crate) fn node(&self, i: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.nodes, 0, i)
    }

    /// The network of VIPs.
    pub(crate) fn vips(&self) -> String {
        format!("127.{}.0.0/16", self.nodes + 1)
    }
}

/// Which services a mesh declares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Services {
    /// How many.
    pub(crate) count: usize,
    /// Endpoints of each.
    pub(crate) endpoints: usize,
    /// Whether each has a port, and so a listening socket at its VIP on every node.
    pub(crate) port: bool,
}

/// Services in one file.
const PER_FILE: usize = 1000;

impl Services {
    /// Writes them into `folder`; the endpoints belong to `nodes` in turn.
    pub(crate) fn write(&self, folder: &Path, nodes: &[String]) -> anyhow::Result<()> {
        ensure!(!nodes.is_empty() && self.endpoints < 250, "a node and less than 250 endpoints a service");
        fs::create_dir_all(folder)?;
        for first in (0..self.count).step_by(PER_FILE) {
            let mut text = String::from("services:\n");
            for s in first..self.count.min(first + PER_FILE) {
                writeln!(text, "  service-{s}:")?;
                if self.port {
                    writeln!(text, "    expose: [\"80\"]")?;
                }
                writeln!(text, "    x-mesh:\n      endpoints:")?;
                for e in 0..self.endpoints {
                    let [high, low] = u16::try_from(s).context("at most 65,536 services")?.to_be_bytes();
                    let node = &nodes[e % nodes.len()];
                    writeln!(
                        text,
                        "        - {{name: service-{s}-{e}, address: 10.{e}.{high}.{low}, node: {node}}}"
                    )?;
                }
            }
            fs::write(folder.join(format!("services-{first}.yaml")), text)?;
        }
        Ok(())
    }
}

/// What a node is to be.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// From 1 to 250.
    pub(crate) number: u8,
    /// Whom it joins, by number.
    pub(crate) join: &'a [u8],
    /// The folder of its services.
    pub(crate) services: Option<&'a Path>,
}

/// A running agent. Killed on drop.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's binary, which stands beside this one.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("mesh-agent");
    ensure!(path.exists(), "{} is not there: cargo build --release -p mesh-agent", path.display());
    Ok(path)
}

/// The name of node `i`.
pub(crate) fn name(i: u8) -> String {
    format!("node-{i}")
}

impl Agent {
    /// Starts one in `folder`, which lives longer than it.
    pub(crate) fn start(
        network: &Network,
        key: &str,
        folder: &Path,
        plan: &Plan<'_>,
    ) -> anyhow::Result<Self> {
        let (me, address) = (name(plan.number), network.node(plan.number));
        let (socket, log) = (folder.join(format!("{me}.sock")), folder.join(format!("{me}.log")));
        let seeds: Vec<String> = plan.join.iter().map(|i| format!("\"{}:7946\"", network.node(*i))).collect();
        let mut config = format!(
            "node: {{name: {me}, address: {address}}}\n\
             cluster:\n  bind: {address}:7946\n  join: [{}]\n  keys: [\"{key}\"]\n\
             vip_cidr: [{}]\n\
             data_plane: userspace\nuserspace: {{workers: 1}}\n\
             publish: {{addresses: [{address}]}}\n\
             dns: {{listen: [\"{address}:5300\"], upstreams: []}}\n\
             admin: {{socket: {}}}\n\
             metrics: {{listen: \"{address}:9480\"}}\n\
             log: {{format: logfmt, level: warn}}\n",
            seeds.join(", "),
            network.vips(),
            socket.display(),
        );
        if let Some(services) = plan.services {
            writeln!(config, "sources: {{files: {{path: {}}}}}", services.display())?;
        }
        let file = folder.join(format!("{me}.yaml"));
        fs::write(&file, config)?;
        let output = fs::File::create(&log)?;
        let child = Command::new(binary()?)
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("mesh-agent run")?;
        Ok(Agent { child, socket, log })
    }

    /// `GET /v1/status`.
    pub(crate) fn status(&self) -> anyhow::Result<serde_json::Value> {
        get(&self.socket, "/v1/status")
    }

    /// Waits until it serves `services` services with `endpoints` ready ones and its data plane has followed; the
    /// time since now and the last status.
    pub(crate) fn until_complete(
        &mut self,
        services: usize,
        endpoints: usize,
    ) -> anyhow::Result<(Duration, serde_json::Value)> {
        let start = Instant::now();
        let mut last = serde_json::Value::Null;
        while start.elapsed() < BOUND {
            if let Some(code) = self.child.try_wait()? {
                bail!("the agent ended with {code}: {}", self.log_tail());
            }
            if let Ok(status) = self.status() {
                let number = |at: &str| status.pointer(at).and_then(serde_json::Value::as_u64);
                if number("/services") == Some(services as u64)
                    && number("/endpoints/ready").unwrap_or(0) == endpoints as u64
                    && status["ready"] == true
                    && number("/plane/revision") == number("/revision")
                {
                    return Ok((start.elapsed(), status));
                }
                last = status;
            }
            pause(Duration::from_millis(100));
        }
        bail!("not complete after {BOUND:?}; the last status: {last}; the log: {}", self.log_tail())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(2000).map_or(0, |(i, _)| i);
        text[from..].to_owned()
    }

    /// A size out of `/proc/PID/status`, as `VmRSS` or `VmHWM`, in bytes.
    pub(crate) fn memory(&self, field: &str) -> anyhow::Result<u64> {
        process::memory(self.child.id(), field)
    }

    /// Processor time of all its threads.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        process::processor_time(self.child.id())
    }
}

/// GETs an object from the admin API at `socket`.
pub(crate) fn get(socket: &Path, path: &str) -> anyhow::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    // Whether or not the body came in chunks: it is one object.
    let object = body.find('{').zip(body.rfind('}')).context("no JSON object")?;
    Ok(serde_json::from_str(&body[object.0..=object.1])?)
}

/// The hard limit of open descriptors that children get (`/proc/self/limits`); the agent raises its own to it.
pub(crate) fn descriptor_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// The wait between two looks at a process that cannot tell, and the time for it to come to rest.
#[expect(clippy::disallowed_methods, reason = "the bench looks at another process from outside")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
