//! What host and device write to each other: the Rust side of `device/protocol.cuh`.
//!
//! Every word has one writer. What the host writes and what the device writes lie on different lines. The rings are those of
//! [`dotcompute_ring::record`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Handle messages.
pub(crate) const COMMAND_RUN: u32 = 1;
/// Handle none, and stay.
pub(crate) const COMMAND_PAUSE: u32 = 2;
/// Leave at the next message boundary.
pub(crate) const COMMAND_STOP: u32 = 3;
/// As stop, and wait for nobody: the host is gone.
pub(crate) const COMMAND_KILL: u32 = 4;

/// The command in the word of that name.
pub(crate) const COMMAND_MASK: u32 = 255;
/// Added to a command: leave the device for a while, whatever the command.
pub(crate) const COMMAND_LEAVE: u32 = 256;
/// Added to a command: send outputs to the host even if links take them.
pub(crate) const COMMAND_ALSO_TO_HOST: u32 = 512;
/// Added to a command: a bit for each outgoing link that is closed, from this one on.
pub(crate) const COMMAND_CLOSED_SHIFT: u32 = 16;

/// Waiting for the first command.
pub(crate) const STATE_LAUNCHED: u32 = 0;
/// Handling messages, or waiting for some.
pub(crate) const STATE_RUNNING: u32 = 1;
/// Paused.
pub(crate) const STATE_PAUSED: u32 = 2;
/// Holding after a fault, until the host has judged it.
pub(crate) const STATE_FAULTED: u32 = 3;
/// Gone, as commanded.
pub(crate) const STATE_STOPPED: u32 = 4;
/// Gone for a while: for want of messages, or to make way.
pub(crate) const STATE_IDLE: u32 = 5;

/// The handler sent an output.
pub(crate) const EVENT_SENT: u32 = 1;
/// The handler answered.
pub(crate) const EVENT_REPLIED: u32 = 2;
/// The handler reported an error.
pub(crate) const EVENT_FAILED: u32 = 3;
/// As sent, for a message that came over a link. Its priority is added from the second byte on.
pub(crate) const EVENT_LINKED_SENT: u32 = 4;
/// As failed, for a message that came over a link: the message follows in place of an output.
pub(crate) const EVENT_LINKED_FAILED: u32 = 5;
/// The kind without the priority.
pub(crate) const EVENT_KIND_MASK: u32 = 255;

/// Added to the ticket of a linked event, which is that of the next message from the host.
pub(crate) const LINKED_TICKET: u64 = 1 << 63;

/// Links in and links out that a ring kernel has at most.
pub(crate) const MOST_LINKS: usize = 8;

/// What stands before a message in its slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageHead {
    pub(crate) wants_reply: u32,
    pub(crate) priority: u32,
}

/// What stands before an output in its slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventHead {
    pub(crate) sequence: u64,
    pub(crate) kind: u32,
    pub(crate) code: i32,
}

/// Written by the host.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct HostLine {
    pub(crate) command: AtomicU32,
    pub(crate) faults_judged: AtomicU32,
}

/// Written by the device.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct DeviceLine {
    pub(crate) state: AtomicU32,
    pub(crate) faults: AtomicU32,
    pub(crate) heartbeat: AtomicU64,
    pub(crate) handling_ns: AtomicU64,
    pub(crate) event_tail: AtomicU64,
    pub(crate) in_hand: AtomicU64,
    pub(crate) closed_links: AtomicU64,
    pub(crate) linked_failed: AtomicU64,
}

/// Written by the device: outputs that each link has taken, messages that have come over each and are done with.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct LinkLine {
    pub(crate) sent: [AtomicU64; MOST_LINKS],
    pub(crate) handled: [AtomicU64; MOST_LINKS],
}

/// A [`Ring`] in words that the device reads.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct RingWords {
    control: AtomicU64,
    mask: AtomicU64,
    stride: AtomicU64,
}

impl RingWords {
    pub(crate) fn set(&self, ring: Ring) {
        // Relaxed: the device is started after this.
        self.control.store(ring.control, Ordering::Relaxed);
        self.mask.store(ring.mask, Ordering::Relaxed);
        self.stride.store(ring.stride, Ordering::Relaxed);
    }
}

/// A ring kernel's links. Written by the host while the ring kernel is away.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    pub(crate) incoming: AtomicU64,
    pub(crate) outgoing: AtomicU64,
    pub(crate) into: [RingWords; MOST_LINKS],
    pub(crate) out: [RingWords; MOST_LINKS],
}

/// The words by which host and device of one ring kernel steer and watch each other.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) host: HostLine,
    pub(crate) device: DeviceLine,
    pub(crate) links: LinkLine,
    pub(crate) table: LinkTable,
}

/// What the blocks of a grid share, in device memory; all zero at launch. The host only makes room for it.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GridLine {
    arrived: u32,
    round: u32,
    action: u32,
    wants_reply: u32,
    priority: u32,
    code: i32,
    sequence: u64,
    event_tail: u64,
    event_limit: u64,
    tag: u64,
    open: u32,
    copy_to_host: u32,
}

/// Where a ring is, as the device sees it, with what its header says.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    pub(crate) control: u64,
    pub(crate) mask: u64,
    pub(crate) stride: u64,
}

/// A launch's one argument. Addresses are the device's.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) input: Ring,
    pub(crate) events: Ring,
    pub(crate) control: u64,
    pub(crate) grid: u64,
    pub(crate) grid_message: u64,
    pub(crate) state: u64,
    pub(crate) holds_after_fault: u32,
    pub(crate) beat_ns: u32,
    pub(crate) longest_pause_ns: u32,
    pub(crate) reserved: u32,
    pub(crate) grace_ns: u64,
    pub(crate) stay_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::mem::offset_of;
    use std::path::Path;
    use std::process::Command;

    /// What the C++ side has to agree with: an expression in C++, and its value here.
    fn agreed() -> Vec<(String, usize)> {
        let mut all = Vec::new();
        macro_rules! sizes { ($($t:ident)*) => { $(
            all.push((format!("sizeof(dc::{})", stringify!($t)), size_of::<$t>()));
            all.push((format!("alignof(dc::{})", stringify!($t)), align_of::<$t>()));
        )* } }
        macro_rules! offsets { ($($t:ident: $($f:ident)*;)*) => { $($(
            all.push((format!("offsetof(dc::{}, {})", stringify!($t), stringify!($f)), offset_of!($t, $f)));
        )*)* } }
        macro_rules! numbers { ($($n:ident)*) => { $(
            all.push((format!("(size_t)dc::{}", stringify!($n)), $n as usize));
        )* } }
        sizes! { MessageHead EventHead HostLine DeviceLine LinkLine LinkTable Control GridLine Ring Launch }
        offsets! {
            MessageHead: wants_reply priority;
            EventHead: sequence kind code;
            HostLine: command faults_judged;
            DeviceLine: state faults heartbeat handling_ns event_tail in_hand closed_links linked_failed;
            LinkLine: sent handled;
            LinkTable: incoming outgoing out;
            Control: host device links table;
            Ring: control mask stride;
            Launch: input events control grid grid_message state holds_after_fault beat_ns longest_pause_ns grace_ns stay_ns;
        }
        numbers! {
            COMMAND_RUN COMMAND_PAUSE COMMAND_STOP COMMAND_KILL COMMAND_MASK COMMAND_LEAVE COMMAND_ALSO_TO_HOST
            COMMAND_CLOSED_SHIFT
            STATE_LAUNCHED STATE_RUNNING STATE_PAUSED STATE_FAULTED STATE_STOPPED STATE_IDLE
            EVENT_SENT EVENT_REPLIED EVENT_FAILED EVENT_LINKED_SENT EVENT_LINKED_FAILED EVENT_KIND_MASK
            LINKED_TICKET MOST_LINKS
        }
        ring(&mut all);
        all
    }

    /// The ring's layout, from the crate that defines it and from a ring made by it.
    fn ring(all: &mut Vec<(String, usize)>) {
        use dotcompute_ring::layout::{CACHE_LINE, Header};
        for (field, offset) in [
            ("magic", offset_of!(Header, magic)),
            ("stride", offset_of!(Header, stride)),
            ("capacity", offset_of!(Header, capacity)),
            ("payload_offset", offset_of!(Header, payload_offset)),
        ] {
            all.push((format!("offsetof(dc::RingHeader, {field})"), offset));
        }
        for (line, place) in
            [("header", 0), ("producer", CACHE_LINE), ("consumer", 2 * CACHE_LINE), ("rare", 3 * CACHE_LINE)]
        {
            all.push((format!("offsetof(dc::RingControl, {line})"), place));
        }
        let slots = dotcompute_ring::record::required_bytes::<[u64; 7]>(16).unwrap() - 16 * 64;
        all.push((String::from("sizeof(dc::RingControl)"), slots));
    }

    #[test]
    fn the_cpp_compiler_agrees_on_every_place_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = String::from("#include \"protocol.cuh\"\n");
        for (expression, value) in agreed() {
            writeln!(text, "static_assert({expression} == {value}, \"{expression}\");").unwrap();
        }
        let source = folder.path().join("agreed.cpp");
        std::fs::write(&source, &text).unwrap();
        let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("device");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| String::from("c++"));
        let output = Command::new(compiler)
            .args(["-std=c++17", "-fsyntax-only", "-DDOTCOMPUTE_EMULATED", "-I"])
            .arg(headers)
            .arg(&source)
            .output()
            .expect("a C++ compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
