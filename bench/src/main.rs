//! Side-by-side benchmarks. Peers and floors run interleaved with ours in one run; medians and ratios are printed.

mod agent;
mod churn;
mod cores;
mod dns;
mod ebpf;
mod memory;
mod nftables;
mod plan;
mod planes;
mod process;
mod proxy;
mod serf;
mod services;
mod space;
mod table;

use clap::{Parser, Subcommand};

/// Benchmarks that print ratios against peers and floors.
#[derive(Parser)]
struct Args {
    /// One JSON object a row instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything, one after the other.
    All,
    /// Resident memory of a real agent with 10,000 services.
    Memory(memory::Options),
    /// The eBPF data plane against programs that do as little as can be, or as much as others. Needs root.
    Ebpf(ebpf::Options),
    /// The nftables data plane and the overlay against iptables, nft and plain forwarding. Needs root.
    Nftables(nftables::Options),
    /// All data planes and kube-proxy's shape beside each other, and IPVS against `ipvsadm -R`. Needs root, and a kernel
    /// with IPVS (`make bench-vm`).
    Planes(planes::Options),
    /// Cost of compile and diff at 100, 1,000 and 10,000 services.
    Plan,
    /// Time from one change to snapshot, DNS and data plane at 100, 1,000 and 10,000 services.
    Churn(churn::Options),
    /// The userspace data plane against HAProxy and nginx, one worker each.
    Proxy(proxy::Options),
    /// Against serf: bytes at rest, time until a crash is seen by all, false failures under loss. Needs root.
    Serf(serf::Options),
    /// The DNS against a bare echo, Knot, Unbound, dnsmasq and BIND, one core each.
    Dns(dns::Options),
    /// The DNS under test or the echo, in a process of its own.
    #[command(hide = true)]
    ServeDns(dns::Serve),
    /// The proxy under test, in a process of its own.
    #[command(hide = true)]
    ServeProxy(proxy::Serve),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.what {
        What::All => {
            plan::run(args.json);
            proxy::run(&proxy::Options::default(), args.json)?;
            dns::run(&dns::Options::default(), args.json)?;
            churn::run(&churn::Options::default(), args.json)?;
            memory::run(&memory::Options::default(), args.json)?;
            match nftables::possible() {
                Ok(()) => nftables::run(&nftables::Options::default(), args.json)?,
                Err(error) => eprintln!("SKIPPED: nftables: {error:#}"),
            }
            match ebpf::possible() {
                Ok(()) => ebpf::run(&ebpf::Options::default(), args.json)?,
                Err(error) => eprintln!("SKIPPED: ebpf: {error:#}"),
            }
            match serf::possible() {
                Ok(()) => serf::run(&serf::Options::default(), args.json)?,
                Err(error) => eprintln!("SKIPPED: serf: {error:#}"),
            }
        }
        What::Churn(options) => churn::run(&options, args.json)?,
        What::Dns(options) => dns::run(&options, args.json)?,
        What::ServeDns(serve) => dns::serve(&serve)?,
        What::Memory(options) => memory::run(&options, args.json)?,
        What::Ebpf(options) => ebpf::run(&options, args.json)?,
        What::Nftables(options) => nftables::run(&options, args.json)?,
        What::Planes(options) => planes::run(&options, args.json)?,
        What::Plan => plan::run(args.json),
        What::Proxy(options) => proxy::run(&options, args.json)?,
        What::Serf(options) => serf::run(&options, args.json)?,
        What::ServeProxy(serve) => proxy::serve(&serve)?,
    }
    Ok(())
}
