// The words that host and device share. src/protocol.rs has the same in the same order; a test compares sizes, offsets and constants.
//
// Each word is written by one side at a time. Words written by the host and words written by the device are on different cache lines.
//
// Handshakes. A `SYNC POINT` comment with its name marks each side, in src/ and in device/; a test checks that the marks are paired.
//
//   SYNC POINT: input slot publish   host posts a message                device finds it by the sequence tag of its slot
//   SYNC POINT: input head publish   device completes a message          host reuses the slot and settles the accounting
//   SYNC POINT: event slot publish   device sends an event               host pops it
//   SYNC POINT: event ring full      device waits for a free slot        host frees slots by popping
//   SYNC POINT: command              host stores a command               device obeys it at the next message boundary
//   SYNC POINT: state                device publishes what it does       host reads it
//   SYNC POINT: pause                device stops between two messages   host reads or writes the state of the handler
//   SYNC POINT: fault acknowledge    device holds after a fault          host resets the state and acknowledges the fault
//   SYNC POINT: idle exit            device leaves without work          host posts, then watches the state
//   SYNC POINT: quiesce leave        host asks every ring kernel to go   device leaves at the next message boundary
//   SYNC POINT: relaunch             host launches the grid again        device continues from the words of the last grid
//   SYNC POINT: grid launch          host writes memory, then launches   device reads it without ordering of its own
//   SYNC POINT: grid exit            device stops using shared memory    host waits until the grid has exited
//   SYNC POINT: kill                 host gives up a handler              device ends the grid within the handler
//   SYNC POINT: link slot reserve    target frees a slot of a link       source reserves it (both on the device)
//   SYNC POINT: link slot publish    source fills a slot of a link       target finds it (both on the device)
//   SYNC POINT: link counts          device counts sent and handled      host reads the counts
//   SYNC POINT: link close           host closes a link                  source confirms that it sends no more
#ifndef DOTCOMPUTE_PROTOCOL_CUH
#define DOTCOMPUTE_PROTOCOL_CUH

#include "atomics.cuh"

namespace dc {

// Bits 0 to 7 of `HostLine.command`: the command. Flags are or-ed into the bits above.
enum Command : u32 {
    // No command yet: handle no message.
    COMMAND_NONE = 0,
    // Handle messages.
    COMMAND_RUN = 1,
    // Handle no message, and stay resident.
    COMMAND_PAUSE = 2,
    // Exit at the next message boundary.
    COMMAND_STOP = 3,
    // As COMMAND_STOP, without waiting for the host to pop events: it pops no more.
    COMMAND_KILL = 4,
    // Mask of the command in the word.
    COMMAND_MASK = 255,
    // Flag, bit 8: leave the device at the next message boundary, whatever the command; the host relaunches the grid later.
    COMMAND_LEAVE = 256,
    // Flag, bit 9: send outputs to the host even if links take them.
    COMMAND_COPY_TO_HOST = 512
};

// Flags, bits 16 to 23: bit 16 + n is set once outgoing link n is closed.
enum { COMMAND_CLOSED_SHIFT = 16 };

// Values of `StateLine.state`: what the device does.
enum State : u32 {
    // Launched, no command obeyed yet.
    STATE_LAUNCHED = 0,
    // Handling messages, or polling for them.
    STATE_RUNNING = 1,
    // Paused: no handler runs until COMMAND_RUN.
    STATE_PAUSED = 2,
    // Holding after a fault: no handler runs until the host has acknowledged the fault.
    STATE_FAULTED = 3,
    // Exiting or exited on COMMAND_STOP or COMMAND_KILL.
    STATE_STOPPED = 4,
    // Exiting or exited for a relaunch: after idle_timeout_ns or max_residency_ns, or on COMMAND_LEAVE. Final: only the host stores another
    // state, after the grid has exited.
    STATE_OFF_DEVICE = 5
};

// Bits 0 to 7 of `EventHeader.kind`: the kind of an event.
enum EventKind : u32 {
    // The handler sent an output.
    EVENT_SENT = 1,
    // The handler replied.
    EVENT_REPLIED = 2,
    // The handler returned an error.
    EVENT_FAILED = 3,
    // As EVENT_SENT, for a message that came over a link. Bits 8 to 15 hold the priority of the message.
    EVENT_LINKED_SENT = 4,
    // As EVENT_FAILED, for a message that came over a link: the message follows in place of an output. Bits 8 to 15 as above.
    EVENT_LINKED_FAILED = 5,
    // The handler replied to a message without a caller that waits. The event has no output.
    EVENT_UNASKED_REPLY = 6,
    // Mask of the kind in the word.
    EVENT_KIND_MASK = 255
};

// Bit 63 of `EventHeader.sequence`: the message came over a link. The other bits then hold the sequence number of the next message
// from the host, which orders the event among those of the host's messages.
static const u64 LINKED_FLAG = 1ull << 63;

// Maximum number of incoming links of a ring kernel, and of outgoing links.
enum { MAX_LINKS = 8 };

// A ring as the crate dotcompute-ring lays it out: four control lines, then the slots. The host writes the header line once, before
// the first launch; the device takes `mask` and `stride` from `Ring` instead.
struct alignas(128) RingHeader {
    u64 magic;
    u32 version;
    u32 stride;
    u64 capacity;
    u32 payload_size;
    u32 payload_offset;
};
// Index of the next slot to fill.
// Input ring: written by the host; the device does not read it. Event ring: unused, see `DeviceLine.event_tail`.
// Link: written by threads of the source by compare-exchange (a reservation); read by the leader of the source.
struct alignas(128) ProducerLine {
    u64 tail;
};
// Index of the next slot to read; all messages below it are completed.
// Input ring: written by the leader (release), read by the host (acquire). Event ring: written by the host (release), read by the
// device when the ring appears full. Link: written by the leader of the target (release), read by threads of the source (acquire).
struct alignas(128) ConsumerLine {
    u64 head;
};
// Whether the consumer has closed the ring. Not used between host and device.
struct alignas(128) FlagsLine {
    u64 consumer_closed;
};
// The slots follow. A slot is a sequence tag (u64) and a payload. The tag is the index of the slot's value + 1 once the payload is
// complete. The producer stores it with release; the consumer loads it and then acquires.
struct RingControl {
    RingHeader header;
    ProducerLine producer;
    ConsumerLine consumer;
    FlagsLine flags;
};

// The first 8 bytes of a payload in the input ring or in a link. The message follows.
struct InputHeader {
    // 1 if a caller waits for a reply, otherwise 0. Always 0 in a link.
    u32 wants_reply;
    // Priority, 0 to 255.
    u32 priority;
};

// The first 16 bytes of a payload in the event ring. The output follows, or for EVENT_LINKED_FAILED the message.
struct EventHeader {
    // Event tag: the sequence number of the message from the host, or LINKED_FLAG and the sequence number of the host's next message.
    u64 sequence;
    // Bits 0 to 7: EventKind. Bits 8 to 15: the priority, for events of linked messages; otherwise 0.
    u32 kind;
    // Outputs: bit n is set if outgoing link n has taken the output already. Failures: what the handler returned, not 0. Replies: 0.
    int code;
};

// Written by the host, read by the device.
struct alignas(128) HostLine {
    // Bits 0 to 7: Command. Bit 8: COMMAND_LEAVE. Bit 9: COMMAND_COPY_TO_HOST. Bits 16 to 23: closed outgoing links.
    // Writers: host threads, by atomic read-modify-write (release). Readers: the leader at every poll, and
    // device threads that wait for a free slot. They load relaxed; an acquire fence follows before data that the host published.
    u32 command;
    // The value of `StateLine.faults` up to which the host has handled faults. The device holds while the two differ.
    // Writer: the host, release, after it has reset the state. Reader: the leader, relaxed load, then an acquire fence.
    u32 faults_acknowledged;
};

// Written by the device when it does something else, polled by the host. No word is written per message: a host thread that polls the state
// keeps the line in its cache.
struct alignas(128) StateLine {
    // A State.
    // Writer: the leader, release, when it changes; the host stores STATE_LAUNCHED before a relaunch, while no grid runs.
    // Readers: host threads, acquire; the watchdog, relaxed.
    u32 state;
    // Number of faults after which the device held (`Launch.holds_after_fault`); wraps.
    // Writer: the leader, release, before STATE_FAULTED. Reader: the host, acquire. The next grid continues from it.
    u32 faults;
    // Bit n is set once the device sends nothing more over outgoing link n.
    // Writer: the leader, release, after the last send. Reader: the host, acquire.
    u64 closed_links;
};

// Written by the device for each message and with each heartbeat, read by the host when it settles the accounting and checks the heartbeat.
struct alignas(128) DeviceLine {
    // Device time in nanoseconds; any change proves that the device is alive.
    // Writers: the leader every `heartbeat_interval_ns`, and device threads that wait for a free slot; relaxed.
    // Reader: the watchdog, relaxed.
    u64 heartbeat;
    // Nanoseconds spent in handlers of messages from the host, in total.
    // Writer: the leader, relaxed, before it publishes the input ring's head. Reader: the host, relaxed, after it has acquired that head.
    u64 handler_ns;
    // Index of the next event.
    // Writer: the leader, relaxed, when the grid exits. Reader: the leader of the next grid. The host does not read it.
    u64 event_tail;
    // Sequence number of the current message in its ring, plus 1; 0 between messages. For diagnostics only.
    // Writer: the leader, relaxed. Reader: the watchdog, relaxed.
    u64 current_message;
    // Number of messages from links whose handler failed.
    // Writer: the leader, relaxed, before it publishes `LinkLine.handled`. Reader: the host, relaxed, after it has acquired that count.
    u64 linked_failed;
};

// Written by the device, read by the host.
struct alignas(128) LinkLine {
    // Outputs that outgoing link n has taken: its tail.
    // Writers: the leader, release, after each message; a device thread that waits for a free slot, relaxed. Reader: the host, acquire.
    u64 sent[MAX_LINKS];
    // Messages of incoming link n that are completed: its head.
    // Writer: the leader, release, after `linked_failed`. Reader: the host, acquire.
    u64 handled[MAX_LINKS];
};

// Written by the host, read by the device. A word of its own line: the leader, which polls the commands, does not read it.
struct alignas(128) KillLine {
    // 0, or 1: the grid is to end without reaching a message boundary, because a handler does not return.
    // Writer: the host, release, once. Reader: the watching warp (`watch_for_kill`), relaxed; on the emulated device every thread.
    u32 kill;
};

// Where a ring is, and what its header says. The header itself may be on the other side of PCIe.
struct Ring {
    // Device address of the control lines.
    RingControl *control;
    // Number of slots - 1; the number of slots is a power of two.
    u64 mask;
    // Bytes from one slot to the next.
    u64 stride;
};

// The links of a ring kernel; each is a ring in device memory.
// Writer: the host, relaxed, while no grid runs; the launch publishes it. Reader: thread 0 of each block, once after the launch.
struct alignas(128) LinkTable {
    // Number of entries of `in`, 0 to MAX_LINKS.
    u64 incoming;
    // Number of entries of `out`, 0 to MAX_LINKS.
    u64 outgoing;
    Ring in[MAX_LINKS];
    Ring out[MAX_LINKS];
};

// The control block: the first bytes of the host-device channel. The input ring and the event ring follow.
struct Control {
    HostLine host;
    StateLine status;
    DeviceLine device;
    LinkLine links;
    LinkTable table;
    KillLine kill;
};

// The words that the blocks of a grid share, in device memory. The host zeroes them before the first launch, and does not read them.
struct alignas(128) GridLine {
    // Blocks that have arrived at the barrier in this round. Added to by thread 0 of each block, acquire-release; the last resets it.
    u32 arrived;
    // Rounds completed; wraps. Stored by the last block to arrive, release; loaded by the others, acquire.
    u32 round;
    // The words from here to `copy_to_host` are written by the leader, unless noted, and published by the barrier.
    // 1: handle a message. 0: exit.
    u32 action;
    // The message's InputHeader.
    u32 wants_reply;
    u32 priority;
    // The first return value other than 0; any thread sets it by compare-exchange. The leader clears it before each message.
    int code;
    // Sequence number of the message in its ring.
    u64 sequence;
    // Index of the next event. Any thread takes one by a relaxed fetch-add.
    u64 event_tail;
    // First event index that may not have a free slot. Any thread stores a larger one, release; loaded with acquire.
    u64 event_limit;
    // Event tag of the message: what EventHeader.sequence of its events is.
    u64 tag;
    // Bit n is set if outgoing link n takes outputs.
    u32 open;
    // Not 0 if the host takes outputs too: COMMAND_COPY_TO_HOST.
    u32 copy_to_host;
};

// The argument of a launch. The driver copies it, so it is constant while the grid runs. Addresses are the device's.
struct Launch {
    Ring input;
    Ring events;
    Control *control;
    GridLine *grid;
    // Device memory for the current message of a grid.
    void *grid_message;
    // The state of the handler.
    void *state;
    // 1: hold after a fault until the host acknowledges it. 0: continue with the next message.
    u32 holds_after_fault;
    // Nanoseconds between heartbeats.
    u32 heartbeat_interval_ns;
    // Longest pause between two polls of an idle ring kernel, in nanoseconds.
    u32 max_poll_pause_ns;
    // Threads per block that run the handler. The block may have more: they leave at once, or watch for `KillLine.kill`.
    u32 threads;
    // Nanoseconds without a message after which the ring kernel leaves the device; 0: never.
    u64 idle_timeout_ns;
    // Nanoseconds after which it leaves in any case; 0: never.
    u64 max_residency_ns;
};

} // namespace dc

#endif
