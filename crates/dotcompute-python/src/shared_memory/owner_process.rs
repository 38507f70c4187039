//! Which process owns an endpoint of a ring, as a word in shared memory, and whether that process still runs.
//!
//! The word combines process id and start time: process ids are reused, but the combination is not. Both processes must be in the same PID
//! namespace, which two containers usually are not.

use std::fs;
use std::io::ErrorKind;

use rustix::process::{Pid, test_kill_process};

/// Bits of the word for the start time. A process id has at most 22 bits on Linux and 17 on macOS.
const TIME_BITS: u32 = 40;

/// A process, as a word that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process(u64);

impl Process {
    /// The current process. Not cached, since a fork changes it.
    pub(super) fn current() -> Self {
        let id = std::process::id();
        let started = stat_of(id).map_or(0, |stat| stat.started);
        Self(u64::from(id) << TIME_BITS | started & ((1 << TIME_BITS) - 1))
    }

    /// The process in a word. `None` for 0.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn id(self) -> u32 {
        (self.0 >> TIME_BITS) as u32
    }

    /// Returns whether the process runs. A zombie, whose parent has not waited for it, does not run.
    pub(super) fn is_alive(self) -> bool {
        if let Some(stat) = stat_of(self.id()) {
            let same = stat.started & ((1 << TIME_BITS) - 1) == self.0 & ((1 << TIME_BITS) - 1);
            return same && !stat.ended;
        }
        // Without the file, the process has ended, this is not Linux, or `/proc` hides the processes of other users.
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

struct Stat {
    ended: bool,
    /// In clock ticks since boot.
    started: u64,
}

/// Reads `/proc/<id>/stat`.
fn stat_of(id: u32) -> Option<Stat> {
    let text = match fs::read(format!("/proc/{id}/stat")) {
        Ok(text) => text,
        // The process ended between open and read.
        Err(error) if error.kind() != ErrorKind::NotFound && error.raw_os_error() == Some(libc::ESRCH) => {
            return Some(Stat { ended: true, started: 0 });
        }
        Err(_) => return None,
    };
    // The name, in parentheses, may contain any characters, so fields are counted from its end. State is field 3, start time field 22.
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { ended: matches!(state, "Z" | "X" | "x"), started })
}
