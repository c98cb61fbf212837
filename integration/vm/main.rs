//! Tests on kernels that this machine does not run: `mesh-vm test` boots Debian's kernels in QEMU and runs the groups
//! of `groups.rs` in them. docs/vm.md tells how to use it and how to add to it.

mod boot;
mod cargo;
mod cpio;
mod groups;
mod initrd;
mod kernels;
mod modules;
mod packages;
mod watch;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use groups::{GROUPS, Group};
use kernels::{BESIDE, BY_DEFAULT, KERNELS, Kernel};
use packages::{Cache, Tools};
use std::{
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};
use watch::Watch;

/// A guest's memory, MiB. Half of it is for the file system, whose content comes with it.
const MEMORY: u32 = 1536;

/// Runs tests on other kernels, in virtual machines.
#[derive(Debug, Parser)]
#[command(name = "mesh-vm")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Builds the test binaries and runs groups of tests in a guest per kernel, all guests at once
    Test {
        /// Kernels, by their version's first two numbers [default: the newest, the oldest, and one for `clsact`]
        #[arg(long, value_name = "VERSION")]
        kernel: Vec<String>,
        /// Groups [default: the short ones]
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// The long groups too
        #[arg(long, conflicts_with = "group")]
        all: bool,
        /// What the test harness is told in place of what the group says: filters, `--skip NAME`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Runs one program of this machine in a guest, and ends with its exit status
    Run {
        /// The kernel
        #[arg(long, value_name = "VERSION", default_value = BY_DEFAULT[0])]
        kernel: String,
        /// Longest time in seconds
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// The guest's memory in MiB
        #[arg(long, default_value_t = MEMORY)]
        memory: u32,
        /// A path on this machine, or the name of a program that the guest has
        program: String,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Lists kernels and groups
    List,
}

/// What is done with a line of the console, so long after power-on.
type Show<'a> = &'a dyn Fn(&str, Duration);

/// Something the guest is to run.
/// The last task of each guest: whether all modules of the table can be loaded.
const MODULES: &str = "modules";

struct Task {
    name: String,
    limit: Duration,
    words: Vec<String>,
    /// The oldest kernel that can.
    since: (u16, u16),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("mesh-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    match &cli.what {
        What::List => {
            for kernel in KERNELS {
                println!("kernel {} ({}, {})", kernel.name, kernel.suite, kernel.package);
            }
            for group in GROUPS {
                let when = if group.short { "short" } else { "long" };
                println!("group {}: {when}, {:?} {}", group.name, group.binary, group.arguments.join(" "));
            }
            Ok(0)
        }
        What::Test { kernel, group, all, arguments } => {
            let mut names =
                if kernel.is_empty() { BY_DEFAULT.map(str::to_owned).into() } else { kernel.clone() };
            let mut groups = the_groups(group, *all)?;
            let by_default = kernel.is_empty() && group.is_empty();
            if by_default {
                names.push(BESIDE.0.to_owned());
                groups.extend(GROUPS.iter().filter(|g| !all && g.name == BESIDE.1));
            }
            let kernels = names.iter().map(|n| the_kernel(n)).collect::<Result<Vec<_>>>()?;
            let meant = |kernel: &Kernel, group: &str| {
                !by_default || *all || group == MODULES || (kernel.name == BESIDE.0) == (group == BESIDE.1)
            };
            test(&kernels, &groups, arguments, &meant)
        }
        What::Run { kernel, limit, memory, program, arguments } => {
            let (kernel, lane) = (the_kernel(kernel)?, Lane::new(*memory)?);
            let here = PathBuf::from(program).canonicalize().ok().filter(|p| p.is_file());
            let path = here.as_ref().map_or_else(|| program.clone(), |p| p.display().to_string());
            let words = [path].into_iter().chain(arguments.iter().cloned()).collect();
            let task =
                Task { name: program.clone(), limit: Duration::from_secs(*limit), words, since: (0, 0) };
            let (watch, ended) = lane.guest(kernel, here.as_slice(), &[&task], &|line, _| println!("{line}"));
            ended?;
            let status = watch.reports.first().and_then(|r| r.status).context("the program did not run")?;
            Ok(u8::try_from(status).unwrap_or(1))
        }
    }
}

fn the_kernel(name: &str) -> Result<&'static Kernel> {
    let known = || KERNELS.map(|k| k.name).join(", ");
    KERNELS
        .iter()
        .find(|k| k.name == name)
        .with_context(|| format!("no kernel {name:?}: there are {}", known()))
}

fn the_groups(names: &[String], all: bool) -> Result<Vec<&'static Group>> {
    for name in names {
        let known = || GROUPS.iter().map(|g| g.name).collect::<Vec<_>>().join(", ");
        ensure!(GROUPS.iter().any(|g| g.name == name), "no group {name:?}: there are {}", known());
    }
    let wanted = |g: &&Group| names.iter().any(|n| n == g.name) || names.is_empty() && (all || g.short);
    Ok(GROUPS.iter().filter(wanted).collect())
}

/// What a guest is made of, but for the kernel.
struct Lane {
    cache: Cache,
    tools: Tools,
    /// MiB.
    memory: u32,
}

impl Lane {
    fn new(memory: u32) -> Result<Lane> {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            bail!("the kernels and tools are those of Debian for x86-64, and this is another machine");
        }
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).context("this program is not in a target folder")?;
        let cache = Cache::at(target.join("vm"))?;
        let tools = cache.tools()?;
        Ok(Lane { cache, tools, memory })
    }

    /// Boots a kernel with these programs of the machine and runs the tasks; the console goes to standard output. What
    /// was heard, and whether the guest ended as it should.
    fn guest(
        &self,
        kernel: &Kernel,
        programs: &[PathBuf],
        tasks: &[&Task],
        show: Show<'_>,
    ) -> (Watch, Result<()>) {
        let tag = format!("mesh-vm[{}]", std::process::id());
        let mut watch = Watch::new(&tag);
        let mut boots = || {
            let image = self.cache.kernel(kernel, &self.tools)?;
            let folder = self.cache.scratch()?;
            let initrd = folder.path().join("initrd");
            let line =
                |t: &Task| format!("group {} {}{}\n", quoted(&t.name), t.limit.as_secs(), words(&t.words));
            let script: String = tasks.iter().copied().map(line).collect();
            initrd::write(&initrd, &image, &self.tools, programs, (&tag, &script))?;
            let limit =
                |name: &str| tasks.iter().find(|t| t.name == name).map_or(Duration::ZERO, |t| t.limit);
            boot::boot((&self.tools, &image, &initrd, self.memory), &mut watch, limit, show)
        };
        let ended = boots();
        (watch, ended)
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn words(all: &[String]) -> String {
    all.iter().map(|w| format!(" {}", quoted(w))).collect()
}

/// Where no guest can be had, tests that pass would say nothing: loud, and an error in CI.
fn cannot(error: &anyhow::Error) -> Result<u8> {
    ensure!(std::env::var_os("CI").is_none(), "CI skips nothing: no virtual machine to test in: {error:#}");
    eprintln!("SKIPPED: NOTHING WAS TESTED ON OTHER KERNELS: no virtual machine to test in: {error:#}");
    Ok(0)
}

/// Whether a kernel runs the group of that name.
type Meant<'a> = &'a (dyn Fn(&Kernel, &str) -> bool + Sync);

fn test(kernels: &[&Kernel], groups: &[&Group], arguments: &[String], meant: Meant<'_>) -> Result<u8> {
    let start = Instant::now();
    let ready = Lane::new(MEMORY).and_then(|lane| {
        kernels.iter().try_for_each(|k| lane.cache.kernel(k, &lane.tools).map(drop))?;
        Ok(lane)
    });
    let lane = match ready {
        Ok(lane) => lane,
        Err(error) => return cannot(&error),
    };
    let built = cargo::Binaries::build(&groups.iter().map(|g| g.binary).collect::<Vec<_>>())?;
    let mut programs: Vec<PathBuf> = built.programs().cloned().collect();
    let mut tasks = Vec::new();
    for group in groups {
        let file = built.file(group.binary)?;
        programs.push(file.clone());
        let mut words = vec![file.display().to_string(), "--show-output".to_owned()];
        if arguments.is_empty() {
            words.extend(group.arguments.iter().map(|&a| a.to_owned()));
        }
        words.extend_from_slice(arguments);
        tasks.push(Task { name: group.name.to_owned(), limit: group.limit, words, since: group.since });
    }
    let words = ["sh", initrd::LOAD_MODULES].map(str::to_owned).into();
    tasks.push(Task { name: MODULES.to_owned(), limit: Duration::from_secs(60), words, since: (0, 0) });
    let booted = Instant::now();
    let guest = &|kernel: &Kernel| {
        let tasks = tasks.iter().filter(|task| meant(kernel, &task.name));
        let (tasks, old): (Vec<&Task>, Vec<&Task>) = tasks.partition(|t| kernel.version() >= t.since);
        for task in old {
            println!("{:4} LEFT OUT: group {}: it tests what later kernels have", kernel.name, task.name);
        }
        let show = |line: &str, at: Duration| println!("{:4} {:3} s | {line}", kernel.name, at.as_secs());
        lane.guest(kernel, &programs, &tasks, &show)
    };
    let runs: Vec<(Watch, Result<()>)> = thread::scope(|scope| {
        let runs: Vec<_> = kernels.iter().map(|k| scope.spawn(move || guest(k))).collect();
        let panicked = |_| (Watch::default(), Err(anyhow::anyhow!("mesh-vm itself panicked")));
        runs.into_iter().map(|run| run.join().unwrap_or_else(panicked)).collect()
    });
    let mut good = true;
    for (kernel, (watch, ended)) in kernels.iter().zip(runs) {
        println!("{} is {}", kernel.name, watch.release.as_deref().unwrap_or("unknown"));
        for report in &watch.reports {
            println!("{} {}", kernel.name, report.line());
            good &= report.good();
        }
        if let Err(error) = ended {
            println!("{} FAILED: {error:#}", kernel.name);
            good = false;
        }
    }
    println!("mesh-vm: {} s, of them {} s in guests", start.elapsed().as_secs(), booted.elapsed().as_secs());
    Ok(u8::from(!good))
}
