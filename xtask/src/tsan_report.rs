//! Parser for reports of ThreadSanitizer.

use std::fmt;

/// One report: two unordered accesses to the same memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Race {
    /// ThreadSanitizer's name for it.
    kind: String,
    accesses: Vec<Access>,
}

/// An access and its call stack, innermost function first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Access {
    what: String,
    frames: Vec<String>,
}

/// Number of stack frames that are shown.
const MAX_SHOWN: usize = 6;

impl Race {
    /// The reports in a log.
    pub fn read(log: &str) -> Vec<Race> {
        let reports = log.split("==================\n");
        reports.filter_map(|report| Self::parse(report.split_once("WARNING: ThreadSanitizer: ")?.1)).collect()
    }

    fn parse(report: &str) -> Option<Self> {
        let mut lines = report.lines();
        let kind = lines.next()?.split(" (pid=").next()?.to_owned();
        let mut accesses: Vec<Access> = Vec::new();
        let mut in_access = false;
        for line in lines {
            match line.strip_prefix("  ") {
                // A section's title is indented by two spaces, its content by more.
                Some(title) if !title.starts_with(' ') => {
                    let word =
                        |word: &&str| word.eq_ignore_ascii_case("read") || word.eq_ignore_ascii_case("write");
                    in_access = title.split(' ').take(3).any(|each| word(&each));
                    if in_access {
                        accesses.push(Access { what: title.to_owned(), frames: Vec::new() });
                    }
                }
                Some(frame) if in_access && frame.trim_start().starts_with('#') => {
                    if let Some(access) = accesses.last_mut() {
                        // The rest is the same for all frames of a file.
                        let frame = frame.trim_start().split(" (BuildId").next().unwrap_or_default();
                        access.frames.push(frame.to_owned());
                    }
                }
                _ => {}
            }
        }
        Some(Race { kind, accesses })
    }

    /// Whether one of its accesses was made by this library.
    pub fn is_in(&self, library: &str) -> bool {
        let module = format!("({library}+0x");
        self.accesses.iter().flat_map(|access| &access.frames).any(|frame| frame.contains(&module))
    }
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for Access { what, frames } in &self.accesses {
            write!(f, "\n  {what}")?;
            frames.iter().take(MAX_SHOWN).try_for_each(|frame| write!(f, "\n    {frame}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
==================
WARNING: ThreadSanitizer: data race (pid=7)
  Write of size 8 at 0x7a by thread T3 (mutexes: write M0):
    #0 send ring.cuh:70:5 (kernel.so+0x1499) (BuildId: 21ec)
    #1 run machine.rs:122 (emulated-c6+0x51)

  Previous atomic read of size 8 at 0x7a by main thread:
    #0 try_pop spsc.rs:330 (emulated-c6+0x42)

  Thread T3 'kernel' (tid=9, running) created by main thread at:
    #0 pthread_create (kernel.so+0x1)

SUMMARY: ThreadSanitizer: data race ring.cuh:70:5 in send
==================
==================
WARNING: ThreadSanitizer: data race (pid=7)
  Write of size 1 at 0x7b by main thread:
    #0 free tsan.cpp:1 (emulated-c6+0x1)

  Previous write of size 1 at 0x7b by thread T1:
    [failed to restore the stack]

  Thread T1 'kernel' (tid=9, running) created by main thread at:
    #0 start (kernel.so+0x1)
SUMMARY: ThreadSanitizer: data race
==================
ThreadSanitizer: reported 2 warnings
";

    #[test]
    fn a_race_is_in_the_library_of_its_accesses_and_not_in_that_of_its_threads() {
        let races = Race::read(LOG);
        let in_kernel: Vec<bool> = races.iter().map(|race| race.is_in("kernel.so")).collect();
        assert_eq!(in_kernel, [true, false]);
        assert_eq!(races[0].accesses.iter().map(|access| access.frames.len()).collect::<Vec<_>>(), [2, 1]);
        let shown = races[0].to_string();
        assert!(shown.starts_with("data race\n  Write of size 8 at 0x7a by thread T3"), "{shown}");
        assert!(shown.contains("#0 try_pop spsc.rs:330"), "{shown}");
    }

    #[test]
    fn a_log_without_reports_has_none() {
        assert_eq!(Race::read(""), []);
        assert_eq!(Race::read("running 1 test\n"), []);
    }
}
