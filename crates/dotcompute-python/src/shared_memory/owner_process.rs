//! Who has an end of a ring, in a word of shared memory, and whether that process still runs.
//!
//! The word is the process's id and the time at which it was started: ids are used again, the two together are not. Both sides have to
//! see each other's processes: not so in two containers with process ids of their own.

use std::fs;
use std::io::ErrorKind;

use rustix::process::{Pid, test_kill_process};

/// Bits of the word for the time; an id has 22 at the most on Linux, and 17 on macOS.
const TIME_BITS: u32 = 40;

/// A process, as a word that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process(u64);

impl Process {
    /// This one. Read anew each time: a fork makes another process of it.
    pub(super) fn current() -> Self {
        let id = std::process::id();
        let started = stat_of(id).map_or(0, |stat| stat.started);
        Self(u64::from(id) << TIME_BITS | started & ((1 << TIME_BITS) - 1))
    }

    /// The process in a word, if there is one.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn id(self) -> u32 {
        (self.0 >> TIME_BITS) as u32
    }

    /// Whether it runs. A process that was killed does not, though its parent may not have taken note of that yet.
    pub(super) fn is_alive(self) -> bool {
        if let Some(stat) = stat_of(self.id()) {
            let same = stat.started & ((1 << TIME_BITS) - 1) == self.0 & ((1 << TIME_BITS) - 1);
            return same && !stat.ended;
        }
        // No such file: it has ended, or this is not Linux, or processes of other users are hidden.
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

struct Stat {
    ended: bool,
    /// Clock ticks after the machine was started.
    started: u64,
}

/// What Linux says of a process.
fn stat_of(id: u32) -> Option<Stat> {
    let text = match fs::read(format!("/proc/{id}/stat")) {
        Ok(text) => text,
        // The process ended between the opening and the reading.
        Err(error) if error.kind() != ErrorKind::NotFound && error.raw_os_error() == Some(libc::ESRCH) => {
            return Some(Stat { ended: true, started: 0 });
        }
        Err(_) => return None,
    };
    // The name, in parentheses, may have anything in it: fields are counted from its end. The state is field 3, the time field 22.
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { ended: matches!(state, "Z" | "X" | "x"), started })
}
