//! Resident memory of a real agent that holds 10,000 services of 10 endpoints each.
//!
//! The agent is `mesh-agent` beside this binary, run on loopback addresses of its own with the services in files, as a
//! node that declares everything itself: sources, records, snapshot, plan, DNS and 10,000 listening sockets in one.

use crate::table::{Table, median};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fmt::Write,
    fs,
    io::{Read, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
/// Services of one file: a file holds at most 4 MiB.
const PER_FILE: usize = 2_000;
const METRICS: &str = "127.49.0.1:9480";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A child that ends with this value.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures an empty agent and a full one.
///
/// # Errors
/// When the agent is not there or does not become ready.
pub(crate) fn run(json: bool) -> Result<()> {
    let binary = binary()?;
    let folder = tempfile::tempdir()?;
    let empty = measure(&binary, folder.path(), 0)?;
    let full = measure(&binary, folder.path(), SERVICES)?;
    let mut table = Table::new(
        "resident memory of one agent, 10 endpoints a service, a listener a service (goal: at most 150 MiB at 10,000)",
        &["services", "MiB", "per endpoint", "of the goal"],
    );
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let endpoints = (SERVICES * ENDPOINTS) as f64;
    table.row(&["0".into(), format!("{:.0}", mib(empty)), "-".into(), "-".into()]);
    table.row(&[
        SERVICES.to_string(),
        format!("{:.0}", mib(full)),
        format!("{:.0} B", (full - empty) / endpoints),
        format!("{:.2}", mib(full) / 150.0),
    ]);
    table.print(json);
    Ok(())
}

/// The agent's binary, built with the same profile.
fn binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("mesh-agent");
    ensure!(path.exists(), "{} is not there: cargo build --release -p mesh-agent", path.display());
    Ok(path)
}

/// The median of a few looks at the resident memory once everything is programmed, bytes.
fn measure(binary: &Path, folder: &Path, services: usize) -> Result<f64> {
    let files = folder.join(format!("services-{services}"));
    fs::create_dir_all(&files)?;
    for from in (0..services).step_by(PER_FILE) {
        fs::write(files.join(format!("{from}.yaml")), text(from, services.min(from + PER_FILE)))?;
    }
    let config = folder.join("mesh.yaml");
    fs::write(&config, configuration(folder, &files))?;
    let log = fs::File::create(folder.join("log"))?;
    let mut command = Command::new(binary);
    command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let agent = Agent(command.spawn().context("cannot start the agent")?);
    let wanted = format!("mesh_frontends {services}");
    let start = Instant::now();
    while !scrape().is_ok_and(|text| text.lines().any(|line| line == wanted)) {
        if start.elapsed() > READY_WITHIN {
            bail!("no `{wanted}` after {READY_WITHIN:?}: {}", fs::read_to_string(folder.join("log"))?);
        }
        pause();
    }
    let looks: Result<Vec<f64>> = (0..5).map(|_| resident(agent.0.id())).collect();
    Ok(median(&looks?))
}

#[expect(clippy::disallowed_methods, reason = "the wait between two looks at a process that cannot tell")]
fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

fn text(from: usize, to: usize) -> String {
    let mut text = String::from("services:\n");
    for i in from..to {
        let _ = writeln!(text, "  s{i}:\n    expose: [\"80\"]\n    x-mesh:\n      endpoints:");
        for e in 0..ENDPOINTS {
            let (b, c) = (i / 250, i % 250);
            let _ = writeln!(text, "        - {{name: s{i}-{e}, address: 10.{b}.{c}.{}}}", e + 1);
        }
    }
    text
}

fn configuration(folder: &Path, files: &Path) -> String {
    format!(
        "node: {{name: bench, address: 127.49.0.1}}\n\
         cluster: {{bind: \"127.49.0.1:7946\", keys: [AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=]}}\n\
         vip_cidr: [127.48.0.0/16]\nuserspace: {{workers: 1}}\n\
         dns: {{listen: [\"127.49.0.1:1053\"]}}\nadmin: {{socket: {}}}\nmetrics: {{listen: \"{METRICS}\"}}\n\
         sources: {{files: {{path: {}}}}}\n",
        folder.join("admin.sock").display(),
        files.display(),
    )
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.49.0.1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Resident bytes of a process (`/proc/PID/status`, VmRSS).
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("the agent has ended")?;
    let kib: f64 = line.split_whitespace().nth(1).context("odd VmRSS")?.parse()?;
    Ok(kib * 1024.0)
}
