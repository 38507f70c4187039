//! The words that host and device share: the Rust side of `device/protocol.cuh`.
//!
//! Each word is written by one side at a time. Words written by the host and words written by the device are on different cache lines. The
//! rings are those of [`dotcompute_ring::record`].
//!
//! Handshakes. A `SYNC POINT` comment with its name marks each side, in `src/` and in `device/`; a test checks that the marks are
//! paired.
//!
//! | name | writer | reader |
//! | --- | --- | --- |
//! | SYNC POINT: input slot publish | host posts a message | device finds it by the sequence tag of its slot |
//! | SYNC POINT: input head publish | device completes a message | host reuses the slot and settles the accounting |
//! | SYNC POINT: event slot publish | device sends an event | host pops it |
//! | SYNC POINT: event ring full | device waits for a free slot | host frees slots by popping |
//! | SYNC POINT: command | host stores a command | device obeys it at the next message boundary |
//! | SYNC POINT: state | device publishes what it does | host reads it |
//! | SYNC POINT: pause | device stops between two messages | host reads or writes the state of the handler |
//! | SYNC POINT: fault acknowledge | device holds after a fault | host resets the state and acknowledges the fault |
//! | SYNC POINT: idle exit | device leaves without work | host posts, then watches the state |
//! | SYNC POINT: quiesce leave | host asks every ring kernel to go | device leaves at the next message boundary |
//! | SYNC POINT: relaunch | host launches the grid again | device continues from the words of the last grid |
//! | SYNC POINT: grid launch | host writes memory, then launches | device reads it without ordering of its own |
//! | SYNC POINT: grid exit | device stops using shared memory | host waits until the grid has exited |
//! | SYNC POINT: kill | host gives up a handler | device ends the grid within the handler |
//! | SYNC POINT: link slot reserve | target frees a slot of a link | source reserves it (both on the device) |
//! | SYNC POINT: link slot publish | source fills a slot of a link | target finds it (both on the device) |
//! | SYNC POINT: link counts | device counts sent and handled | host reads the counts |
//! | SYNC POINT: link close | host closes a link | source confirms that it sends no more |

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

// Bits 0 to 7 of `HostLine.command`: the command. Flags are or-ed into the bits above. 0 stands for no command yet.

/// Handle messages.
pub(crate) const COMMAND_RUN: u32 = 1;
/// Handle no message, and stay resident.
pub(crate) const COMMAND_PAUSE: u32 = 2;
/// Exit at the next message boundary.
pub(crate) const COMMAND_STOP: u32 = 3;
/// As [`COMMAND_STOP`], without waiting for the host to pop events: it pops no more.
pub(crate) const COMMAND_KILL: u32 = 4;

/// Mask of the command in the word.
pub(crate) const COMMAND_MASK: u32 = 255;
/// Flag, bit 8: leave the device at the next message boundary, whatever the command; the host relaunches the grid later.
pub(crate) const COMMAND_LEAVE: u32 = 256;
/// Flag, bit 9: send outputs to the host even if links take them.
pub(crate) const COMMAND_COPY_TO_HOST: u32 = 512;
/// Flags, bits 16 to 23: bit 16 + n is set once outgoing link n is closed.
pub(crate) const COMMAND_CLOSED_SHIFT: u32 = 16;

// Values of `StateLine.state`: what the device does.

/// Launched, no command obeyed yet.
pub(crate) const STATE_LAUNCHED: u32 = 0;
/// Handling messages, or polling for them.
pub(crate) const STATE_RUNNING: u32 = 1;
/// Paused: no handler runs until [`COMMAND_RUN`].
pub(crate) const STATE_PAUSED: u32 = 2;
/// Holding after a fault: no handler runs until the host has acknowledged the fault.
pub(crate) const STATE_FAULTED: u32 = 3;
/// Exiting or exited on [`COMMAND_STOP`] or [`COMMAND_KILL`].
pub(crate) const STATE_STOPPED: u32 = 4;
/// Exiting or exited for a relaunch: after `idle_timeout_ns` or `max_residency_ns`, or on [`COMMAND_LEAVE`]. Final: only the host stores
/// another state, after the grid has exited.
pub(crate) const STATE_OFF_DEVICE: u32 = 5;

// Bits 0 to 7 of `EventHeader.kind`: the kind of an event.

/// The handler sent an output.
pub(crate) const EVENT_SENT: u32 = 1;
/// The handler replied.
pub(crate) const EVENT_REPLIED: u32 = 2;
/// The handler returned an error.
pub(crate) const EVENT_FAILED: u32 = 3;
/// As [`EVENT_SENT`], for a message that came over a link. Bits 8 to 15 hold the priority of the message.
pub(crate) const EVENT_LINKED_SENT: u32 = 4;
/// As [`EVENT_FAILED`], for a message that came over a link: the message follows in place of an output. Bits 8 to 15 as above.
pub(crate) const EVENT_LINKED_FAILED: u32 = 5;
/// The handler replied to a message without a caller that waits. The event has no output.
pub(crate) const EVENT_UNASKED_REPLY: u32 = 6;
/// Mask of the kind in the word.
pub(crate) const EVENT_KIND_MASK: u32 = 255;

/// Bit 63 of `EventHeader.sequence`: the message came over a link. The other bits then hold the sequence number of the next message
/// from the host, which orders the event among those of the host's messages.
pub(crate) const LINKED_FLAG: u64 = 1 << 63;

/// Maximum number of incoming links of a ring kernel, and of outgoing links.
pub(crate) const MAX_LINKS: usize = 8;

// A ring as `dotcompute_ring::layout` lays it out: four control lines, then the slots. `RingControl` in `protocol.cuh` says which side
// reads and writes `tail`, `head` and the sequence tags of each ring.

/// The first 8 bytes of a payload in the input ring or in a link. The message follows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InputHeader {
    /// 1 if a caller waits for a reply, otherwise 0. Always 0 in a link.
    pub(crate) wants_reply: u32,
    /// Priority, 0 to 255.
    pub(crate) priority: u32,
}

/// The first 16 bytes of a payload in the event ring. The output follows, or for [`EVENT_LINKED_FAILED`] the message.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventHeader {
    /// Event tag: the sequence number of the message from the host, or [`LINKED_FLAG`] and the sequence number of the host's next
    /// message.
    pub(crate) sequence: u64,
    /// Bits 0 to 7: the kind. Bits 8 to 15: the priority, for events of linked messages; otherwise 0.
    pub(crate) kind: u32,
    /// Outputs: bit n is set if outgoing link n has taken the output already. Failures: what the handler returned, not 0. Replies: 0.
    pub(crate) code: i32,
}

/// Written by the host, read by the device.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct HostLine {
    /// Bits 0 to 7: the command. Bit 8: [`COMMAND_LEAVE`]. Bit 9: [`COMMAND_COPY_TO_HOST`]. Bits 16 to 23: closed outgoing links.
    ///
    /// Writers: host threads, by atomic read-modify-write (release). Readers: the leader at every poll, and
    /// device threads that wait for a free slot. They load relaxed; an acquire fence follows before data that the host published.
    pub(crate) command: AtomicU32,
    /// The value of `StateLine.faults` up to which the host has handled faults. The device holds while the two differ.
    ///
    /// Writer: the host, release, after it has reset the state. Reader: the leader, relaxed load, then an acquire fence.
    pub(crate) faults_acknowledged: AtomicU32,
}

/// Written by the device when it does something else, polled by the host. No word is written per message: a host thread that polls the state
/// keeps the line in its cache.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct StateLine {
    /// A `STATE_*` constant.
    ///
    /// Writer: the leader, release, when it changes; the host stores [`STATE_LAUNCHED`] before a relaunch, while no grid runs.
    /// Readers: host threads, acquire; the watchdog, relaxed.
    pub(crate) state: AtomicU32,
    /// Number of faults after which the device held (`Launch.holds_after_fault`); wraps.
    ///
    /// Writer: the leader, release, before [`STATE_FAULTED`]. Reader: the host, acquire. The next grid continues from it.
    pub(crate) faults: AtomicU32,
    /// Bit n is set once the device sends nothing more over outgoing link n.
    ///
    /// Writer: the leader, release, after the last send. Reader: the host, acquire.
    pub(crate) closed_links: AtomicU64,
}

/// Written by the device for each message and with each heartbeat, read by the host when it settles the accounting and checks the heartbeat.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct DeviceLine {
    /// Device time in nanoseconds; any change proves that the device is alive.
    ///
    /// Writers: the leader every `heartbeat_interval_ns`, and device threads that wait for a free slot; relaxed. Reader: the watchdog,
    /// relaxed.
    pub(crate) heartbeat: AtomicU64,
    /// Nanoseconds spent in handlers of messages from the host, in total.
    ///
    /// Writer: the leader, relaxed, before it publishes the input ring's head. Reader: the host, relaxed, after it has acquired that
    /// head.
    pub(crate) handler_ns: AtomicU64,
    /// Index of the next event.
    ///
    /// Writer: the leader, relaxed, when the grid exits. Reader: the leader of the next grid. The host does not read it.
    pub(crate) event_tail: AtomicU64,
    /// Sequence number of the current message in its ring, plus 1; 0 between messages. For diagnostics only.
    ///
    /// Writer: the leader, relaxed. Reader: the watchdog, relaxed.
    pub(crate) current_message: AtomicU64,
    /// Number of messages from links whose handler failed.
    ///
    /// Writer: the leader, relaxed, before it publishes `LinkLine.handled`. Reader: the host, relaxed, after it has acquired that count.
    pub(crate) linked_failed: AtomicU64,
}

/// Written by the device, read by the host.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct LinkLine {
    /// Outputs that outgoing link n has taken: its tail.
    ///
    /// Writers: the leader, release, after each message; a device thread that waits for a free slot, relaxed. Reader: the host, acquire.
    pub(crate) sent: [AtomicU64; MAX_LINKS],
    /// Messages of incoming link n that are completed: its head.
    ///
    /// Writer: the leader, release, after `linked_failed`. Reader: the host, acquire.
    pub(crate) handled: [AtomicU64; MAX_LINKS],
}

/// Written by the host, read by the device. A word of its own line: the leader, which polls the commands, does not read it.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct KillLine {
    /// 0, or 1: the grid is to end without reaching a message boundary, because a handler does not return.
    ///
    /// Writer: the host, release, once. Reader: the watching warp (`watch_for_kill`), relaxed; on the emulated device every thread.
    pub(crate) kill: AtomicU32,
}

/// Where a ring is, and what its header says. The header itself may be on the other side of PCIe.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// Device address of the control lines.
    pub(crate) control: u64,
    /// Number of slots - 1; the number of slots is a power of two.
    pub(crate) mask: u64,
    /// Bytes from one slot to the next.
    pub(crate) stride: u64,
}

/// A [`Ring`] in words that the device reads.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct RingControlWords {
    control: AtomicU64,
    mask: AtomicU64,
    stride: AtomicU64,
}

impl RingControlWords {
    /// Stores `ring`. No grid runs that reads it.
    pub(crate) fn set(&self, ring: Ring) {
        // Relaxed: the launch of the grid publishes these words.
        self.control.store(ring.control, Ordering::Relaxed);
        self.mask.store(ring.mask, Ordering::Relaxed);
        self.stride.store(ring.stride, Ordering::Relaxed);
    }
}

/// The links of a ring kernel; each is a ring in device memory.
///
/// Writer: the host, relaxed, while no grid runs; the launch publishes it. Reader: thread 0 of each block, once after the launch.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    /// Number of entries of `into`, 0 to [`MAX_LINKS`].
    pub(crate) incoming: AtomicU64,
    /// Number of entries of `out`, 0 to [`MAX_LINKS`].
    pub(crate) outgoing: AtomicU64,
    pub(crate) into: [RingControlWords; MAX_LINKS],
    pub(crate) out: [RingControlWords; MAX_LINKS],
}

/// The control block: the first bytes of the host-device channel. The input ring and the event ring follow.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) host: HostLine,
    pub(crate) status: StateLine,
    pub(crate) device: DeviceLine,
    pub(crate) links: LinkLine,
    pub(crate) table: LinkTable,
    pub(crate) kill: KillLine,
}

/// The words that the blocks of a grid share, in device memory. The host zeroes them before each launch, and does not read them.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GridLine {
    /// Blocks that have arrived at the barrier in this round. Added to by thread 0 of each block, acquire-release; the last resets it.
    arrived: u32,
    /// Rounds completed; wraps. Stored by the last block to arrive, release; loaded by the others, acquire.
    round: u32,
    // The words from here to `copy_to_host` are written by the leader, unless noted, and published by the barrier.
    /// 1: handle a message. 0: exit.
    action: u32,
    /// From the message's [`InputHeader`].
    wants_reply: u32,
    /// From the message's [`InputHeader`].
    priority: u32,
    /// The first return value other than 0; any thread sets it by compare-exchange. The leader clears it before each message.
    code: i32,
    /// Sequence number of the message in its ring.
    sequence: u64,
    /// Index of the next event. Any thread takes one by a relaxed fetch-add.
    event_tail: u64,
    /// First event index that may not have a free slot. Any thread stores a larger one, release; loaded with acquire.
    event_limit: u64,
    /// Event tag of the message: what [`EventHeader::sequence`] of its events is.
    tag: u64,
    /// Bit n is set if outgoing link n takes outputs.
    open: u32,
    /// Not 0 if the host takes outputs too: [`COMMAND_COPY_TO_HOST`].
    copy_to_host: u32,
}

/// The argument of a launch. The driver copies it, so it is constant while the grid runs. Addresses are the device's.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) input: Ring,
    pub(crate) events: Ring,
    /// Address of the [`Control`] block.
    pub(crate) control: u64,
    /// Address of the [`GridLine`].
    pub(crate) grid: u64,
    /// Device memory for the current message of a grid.
    pub(crate) grid_message: u64,
    /// The state of the handler.
    pub(crate) state: u64,
    /// 1: hold after a fault until the host acknowledges it. 0: continue with the next message.
    pub(crate) holds_after_fault: u32,
    /// Nanoseconds between heartbeats.
    pub(crate) heartbeat_interval_ns: u32,
    /// Longest pause between two polls of an idle ring kernel, in nanoseconds.
    pub(crate) max_poll_pause_ns: u32,
    /// Threads per block that run the handler. The block may have more: they leave at once, or watch for [`KillLine::kill`].
    pub(crate) threads: u32,
    /// Nanoseconds without a message after which the ring kernel leaves the device; 0: never.
    pub(crate) idle_timeout_ns: u64,
    /// Nanoseconds after which it leaves in any case; 0: never.
    pub(crate) max_residency_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
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
        sizes! { InputHeader EventHeader HostLine StateLine DeviceLine LinkLine LinkTable KillLine Control GridLine Ring Launch }
        offsets! {
            InputHeader: wants_reply priority;
            EventHeader: sequence kind code;
            HostLine: command faults_acknowledged;
            StateLine: state faults closed_links;
            DeviceLine: heartbeat handler_ns event_tail current_message linked_failed;
            LinkLine: sent handled;
            LinkTable: incoming outgoing out;
            KillLine: kill;
            Control: host status device links table kill;
            Ring: control mask stride;
            Launch: input events control grid grid_message state holds_after_fault heartbeat_interval_ns max_poll_pause_ns threads idle_timeout_ns max_residency_ns;
        }
        numbers! {
            COMMAND_RUN COMMAND_PAUSE COMMAND_STOP COMMAND_KILL COMMAND_MASK COMMAND_LEAVE COMMAND_COPY_TO_HOST
            COMMAND_CLOSED_SHIFT
            STATE_LAUNCHED STATE_RUNNING STATE_PAUSED STATE_FAULTED STATE_STOPPED STATE_OFF_DEVICE
            EVENT_SENT EVENT_REPLIED EVENT_FAILED EVENT_LINKED_SENT EVENT_LINKED_FAILED EVENT_UNASKED_REPLY EVENT_KIND_MASK
            LINKED_FLAG MAX_LINKS
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
        for (line, offset) in
            [("header", 0), ("producer", CACHE_LINE), ("consumer", 2 * CACHE_LINE), ("flags", 3 * CACHE_LINE)]
        {
            all.push((format!("offsetof(dc::RingControl, {line})"), offset));
        }
        let slots = dotcompute_ring::record::required_bytes::<[u64; 7]>(16).unwrap() - 16 * 64;
        all.push((String::from("sizeof(dc::RingControl)"), slots));
    }

    #[test]
    fn the_cpp_compiler_agrees_on_every_offset_and_constant() {
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

    /// A word that one side polls shares no line with a word that the other side writes for each message.
    #[test]
    fn words_of_different_writers_and_purposes_are_on_different_lines() {
        let ring = |word: usize| size_of::<Control>() + word;
        let lines = [
            ("the host's commands", offset_of!(Control, host)),
            ("the state, polled by the host", offset_of!(Control, status)),
            ("what the device writes per message", offset_of!(Control, device)),
            ("the counts of links", offset_of!(Control, links)),
            ("the table of links", offset_of!(Control, table)),
            ("the word that kills", offset_of!(Control, kill)),
            ("the header of the input ring", ring(0)),
        ];
        for pair in lines.windows(2) {
            assert!(pair[0].1 / 128 < pair[1].1 / 128, "{} and {} share a line", pair[0].0, pair[1].0);
        }
        let last = offset_of!(StateLine, closed_links) + size_of::<AtomicU64>();
        assert!(last <= 128 && size_of::<StateLine>() == 128, "the polled words are one line");
    }

    /// The names marked as a sync point in the files of a directory that end in `extension`, with how often each occurs. The lists in
    /// `protocol.rs` and `protocol.cuh` are not counted.
    fn sync_points(directory: &Path, extension: &str) -> BTreeMap<String, usize> {
        let mut marks = BTreeMap::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|found| found == extension)
                    && path.file_stem().is_some_and(|stem| stem != "protocol")
                {
                    for name in names(&std::fs::read_to_string(path).unwrap()) {
                        *marks.entry(name).or_insert(0) += 1;
                    }
                }
            }
        }
        marks
    }

    /// The names after the marks in a text: up to a `|`, two spaces or the end of the line.
    fn names(text: &str) -> impl Iterator<Item = String> {
        let marker = concat!("SYNC POINT", ": ");
        text.lines().filter_map(move |line| line.split_once(marker)).filter_map(|(comment, rest)| {
            let name = rest.split(" |").next()?.split("  ").next()?.trim();
            comment.trim_start().starts_with("//").then(|| name.to_owned())
        })
    }

    #[test]
    fn sync_points_are_marked_on_both_sides() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let [sources, headers] = [root.join("src"), root.join("device")];
        if !sources.is_dir() || !headers.is_dir() {
            println!("skipped: this machine has no sources at {}", root.display());
            return;
        }
        let list = |path| names(&std::fs::read_to_string(path).unwrap()).collect::<Vec<String>>();
        let listed = list(sources.join("protocol.rs"));
        assert_eq!(
            listed,
            list(headers.join("protocol.cuh")),
            "both files list the same names in the same order"
        );
        assert!(!listed.is_empty());
        let [host, device] = [sync_points(&sources, "rs"), sync_points(&headers, "cuh")];
        let is_paired = |name: &String| {
            let marks = device.get(name).copied().unwrap_or_default();
            // The slots of a link are passed between two ring kernels: both sides are the device's.
            if name.starts_with("link slot") { marks >= 2 } else { marks >= 1 && host.contains_key(name) }
        };
        let unlisted = host.keys().chain(device.keys()).filter(|name| !listed.contains(name));
        let unpaired: Vec<&String> = listed.iter().filter(|name| !is_paired(name)).chain(unlisted).collect();
        assert!(
            unpaired.is_empty(),
            "sync points without a partner, or missing in protocol.rs: {unpaired:?}"
        );
    }
}
