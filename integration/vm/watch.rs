//! What the console says, judged.

use std::{collections::VecDeque, time::Duration};

/// How many of the last lines are told when a guest ends otherwise than it should.
const TAIL: usize = 20;
/// What the kernel says when the sum that it has over a packet does not fit: somebody has changed the one without the other.
const BAD_SUM: &str = "hw csum failure";
/// How many names a report keeps: of tests that failed, of what was skipped.
const NAMES: usize = 50;

/// How a group went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Its name.
    pub(crate) name: String,
    /// Its exit status; none when it did not end.
    pub(crate) status: Option<i32>,
    /// How many tests passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: Vec<String>,
    /// What tests said they did not do.
    pub(crate) skipped: Vec<String>,
    /// What the kernel said that it must not say.
    pub(crate) complaints: Vec<String>,
    /// How long it took, as this machine saw it.
    pub(crate) took: Duration,
}

/// What a guest has said so far.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    tag: String,
    /// Of the groups that began.
    pub(crate) reports: Vec<Report>,
    /// The kernel's release, once the groups begin.
    pub(crate) release: Option<String>,
    /// The kernel's last words.
    pub(crate) panic: Option<String>,
    /// All groups ended.
    pub(crate) done: bool,
    /// When the group that runs began.
    began: Duration,
    tail: VecDeque<String>,
}

impl Watch {
    /// Of a guest whose own lines begin with `tag`.
    pub(crate) fn new(tag: &str) -> Watch {
        Watch { tag: tag.to_owned(), ..Watch::default() }
    }

    /// Hears a line, `now` after power-on. Whether a person wants to read it.
    pub(crate) fn hear(&mut self, line: &str, now: Duration) -> bool {
        if let Some((_, said)) = line.split_once(self.tag.as_str()) {
            self.tagged(said.trim(), now);
            return false;
        }
        if line.contains("Kernel panic - not syncing") {
            self.panic.get_or_insert_with(|| line.to_owned());
        }
        self.tail.push_back(line.to_owned());
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        if let Some(report) = self.reports.last_mut().filter(|r| r.status.is_none()) {
            tested(report, line);
        }
        !line.is_empty()
    }

    /// A line of the guest's first process.
    fn tagged(&mut self, said: &str, now: Duration) {
        let (verb, rest) = said.split_once(' ').unwrap_or((said, ""));
        match verb {
            "ready" => self.release = rest.split_once(' ').map(|(_, release)| release.to_owned()),
            "start" => {
                self.began = now;
                self.reports.push(Report { name: rest.to_owned(), ..Report::default() });
            }
            "end" => {
                let (name, status) = rest.rsplit_once(' ').unwrap_or((rest, ""));
                if let Some(report) = self.reports.last_mut().filter(|r| r.name == name) {
                    report.status = Some(status.parse().unwrap_or(-1));
                    report.took = now.saturating_sub(self.began);
                }
            }
            "done" => self.done = true,
            _ => {}
        }
    }

    /// What runs, or what comes before.
    pub(crate) fn running(&self) -> &str {
        match self.reports.last() {
            Some(report) if report.status.is_none() => &report.name,
            Some(_) => "between two groups",
            None => "the boot",
        }
    }

    /// The last lines that are not the guest's own.
    pub(crate) fn tail(&self) -> String {
        self.tail.iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// What cargo's test harness says, and the tests' own word for what they do not do.
fn tested(report: &mut Report, line: &str) {
    if line.contains(BAD_SUM) {
        // The name of the test that runs may be in front of it.
        keep(&mut report.complaints, line);
    }
    if let Some(result) = line.strip_prefix("test result: ") {
        let passed =
            result.split_whitespace().zip(result.split_whitespace().skip(1)).find(|(_, w)| *w == "passed;");
        report.passed += passed.and_then(|(n, _)| n.parse::<u64>().ok()).unwrap_or(0);
    } else if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
        keep(&mut report.failed, name);
    } else if line.starts_with("SKIPPED") && !report.skipped.iter().any(|s| s == line) {
        keep(&mut report.skipped, line);
    }
}

fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < NAMES {
        names.push(name.to_owned());
    }
}

impl Report {
    /// Whether it is as it should be: exit status 0, at least one test, and a kernel that has nothing against it.
    pub(crate) fn good(&self) -> bool {
        self.status == Some(0) && self.passed > 0 && self.complaints.is_empty()
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let word = match self.status {
            Some(0) if self.good() => "ok".to_owned(),
            Some(0) if self.passed > 0 => "FAILED: the kernel complains".to_owned(),
            Some(0) => "FAILED: no test ran".to_owned(),
            // 128 + SIGKILL: nothing else kills here.
            Some(137) => "FAILED: took too long".to_owned(),
            Some(status) => format!("FAILED with status {status}"),
            None => "FAILED: did not end".to_owned(),
        };
        let Report { name, passed, failed, skipped, complaints, took, .. } = self;
        let mut line =
            format!("{name}: {word}, {passed} passed, {} failed, {} s", failed.len(), took.as_secs());
        for (what, names) in [("failed", failed), ("kernel", complaints), ("", skipped)] {
            for name in names {
                line += &format!("\n    {what}{}{name}", if what.is_empty() { "" } else { ": " });
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;
    use std::time::Duration;

    fn heard(lines: &str) -> Watch {
        let mut watch = Watch::new("mesh-vm-7");
        for (second, line) in (0..).zip(lines.lines()) {
            watch.hear(line, Duration::from_secs(second));
        }
        watch
    }

    #[test]
    fn a_good_guest() {
        let watch = heard(
            "booting\nmesh-vm-7 ready 3.1 6.12.1\nmesh-vm-7 start one\nrunning 2 tests\ntest a ... ok\n\
             SKIPPED: b: no such thing on 6.12\nSKIPPED: b: no such thing on 6.12\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s\n\
             mesh-vm-7 end one 0\n[ 5.0] words of the kernel mesh-vm-7 done",
        );
        assert!(watch.done && watch.panic.is_none());
        assert_eq!(watch.release.as_deref(), Some("6.12.1"));
        assert_eq!(watch.running(), "between two groups");
        let [report] = watch.reports.as_slice() else { panic!("{:?}", watch.reports) };
        assert!(report.good());
        assert_eq!(report.took, Duration::from_secs(6));
        assert_eq!(report.line(), "one: ok, 2 passed, 0 failed, 6 s\n    SKIPPED: b: no such thing on 6.12");
    }

    #[test]
    fn a_failing_group_is_told_with_its_tests() {
        let watch = heard(
            "mesh-vm-7 start one\ntest a::b ... FAILED\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored\nmesh-vm-7 end one 101\nmesh-vm-7 start two\n\
             test result: ok. 0 passed; 0 failed\nmesh-vm-7 end two 0\nmesh-vm-7 start three\nmesh-vm-7 end three 137",
        );
        let lines: Vec<String> = watch.reports.iter().map(super::Report::line).collect();
        assert_eq!(lines[0], "one: FAILED with status 101, 3 passed, 1 failed, 3 s\n    failed: a::b");
        assert!(lines[1].starts_with("two: FAILED: no test ran"), "{lines:?}");
        assert!(lines[2].starts_with("three: FAILED: took too long"), "{lines:?}");
        assert!(watch.reports.iter().all(|r| !r.good()));
    }

    #[test]
    fn a_kernel_that_complains_fails_its_group() {
        let watch = heard(
            "mesh-vm-7 start one\ntest a ... [   95.68] node-1: hw csum failure\nok\n\
             test result: ok. 1 passed; 0 failed\nmesh-vm-7 end one 0",
        );
        let [report] = watch.reports.as_slice() else { panic!("{:?}", watch.reports) };
        assert!(!report.good());
        assert!(
            report.line().starts_with("one: FAILED: the kernel complains, 1 passed"),
            "{}",
            report.line()
        );
        assert!(report.line().ends_with("node-1: hw csum failure"));
    }

    #[test]
    fn a_panic_and_what_ran_are_named() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let panic = "[   9.9] Kernel panic - not syncing: Fatal exception";
        let watch = heard(&format!("mesh-vm-7 start one\n{}\n{panic}", lines.join("\n")));
        assert_eq!(watch.panic.as_deref(), Some(panic));
        assert_eq!(watch.running(), "one");
        assert!(!watch.done && !watch.reports[0].good());
        assert_eq!(watch.tail().lines().count(), super::TAIL);
        assert!(watch.tail().contains("line 99") && watch.tail().ends_with("Fatal exception\n"));
    }

    /// Whatever a test prints, and however the console tears it.
    #[test]
    fn any_line_is_borne() {
        let words = [
            "mesh-vm-7",
            " ",
            "start",
            "end",
            "one",
            "test ",
            "test result: ",
            " passed;",
            "9",
            "-1",
            "é",
            "\0",
        ];
        let mut state: u64 = 20_261_121;
        let mut watch = Watch::new("mesh-vm-7");
        for _ in 0..20_000 {
            let mut line = String::new();
            for _ in 0..6 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                line += words[usize::try_from(state >> 33).unwrap() % words.len()];
            }
            watch.hear(&line, Duration::ZERO);
        }
        assert!(watch.reports.iter().all(|r| r.failed.len() <= super::NAMES));
    }
}
