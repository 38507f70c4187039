// What host and device write to each other. src/protocol.rs has the same, and a test compares sizes, offsets and numbers.
//
// Every word has one writer. What the host writes and what the device writes lie on different lines.
#ifndef DOTCOMPUTE_PROTOCOL_CUH
#define DOTCOMPUTE_PROTOCOL_CUH

#include "access.cuh"

namespace dc {

// The host's commands. KILL is for a host that is gone: the device waits for nobody any more. What is added to a command: LEAVE, to
// leave the device for a while, whatever the command; ALSO_TO_HOST, to send outputs to the host even if links take them; and a bit for
// each outgoing link that is closed.
enum Command : u32 {
    COMMAND_NONE = 0,
    COMMAND_RUN = 1,
    COMMAND_PAUSE = 2,
    COMMAND_STOP = 3,
    COMMAND_KILL = 4,
    COMMAND_MASK = 255,
    COMMAND_LEAVE = 256,
    COMMAND_ALSO_TO_HOST = 512
};

// Where the bits of closed links begin.
enum { COMMAND_CLOSED_SHIFT = 16 };

// What the device is doing. IDLE: it has left for a while, for want of messages or to make way.
enum State : u32 {
    STATE_LAUNCHED = 0,
    STATE_RUNNING = 1,
    STATE_PAUSED = 2,
    STATE_FAULTED = 3,
    STATE_STOPPED = 4,
    STATE_IDLE = 5
};

// LINKED: of a message that came over a link. Its priority is added from the second byte on.
enum EventKind : u32 {
    EVENT_SENT = 1,
    EVENT_REPLIED = 2,
    EVENT_FAILED = 3,
    EVENT_LINKED_SENT = 4,
    EVENT_LINKED_FAILED = 5,
    EVENT_KIND_MASK = 255
};

// Added to the ticket of a LINKED event, which is that of the next message from the host.
static const u64 LINKED_TICKET = 1ull << 63;

// Links in and links out that a ring kernel has at most.
enum { MOST_LINKS = 8 };

// A ring, as the crate dotcompute-ring lays it out.
struct alignas(128) RingHeader {
    u64 magic;
    u32 version;
    u32 stride;
    u64 capacity;
    u32 payload_size;
    u32 payload_offset;
};
struct alignas(128) ProducerLine {
    u64 tail;
};
struct alignas(128) ConsumerLine {
    u64 head;
};
struct alignas(128) RareLine {
    u64 consumer_closed;
};
struct RingControl {
    RingHeader header;
    ProducerLine producer;
    ConsumerLine consumer;
    RareLine rare;
    // Slots follow: a word (the ticket + 1) and a payload each.
};

// The payload of a slot of the input ring: these eight bytes, then the message.
struct MessageHead {
    u32 wants_reply;
    u32 priority;
};

// The payload of a slot of the event ring: these sixteen bytes, then the output; LINKED_FAILED: the message. The code of an output
// is the links that have taken it already, a bit each.
struct EventHead {
    u64 sequence;
    u32 kind;
    int code;
};

// Written by the host.
struct alignas(128) HostLine {
    u32 command;
    // Faults that the host has judged, by which the device knows that it may go on.
    u32 faults_judged;
};

// Written by the device.
struct alignas(128) DeviceLine {
    u32 state;
    u32 faults;
    // Grows while the device is alive.
    u64 heartbeat;
    // Time in handlers, all together.
    u64 handling_ns;
    // The next ticket of the event ring, for whoever continues.
    u64 event_tail;
    // The ticket in hand, plus 1; 0 for none.
    u64 in_hand;
    // The closed links that no output goes to any more.
    u64 closed_links;
    // Messages that came over links and whose handler failed.
    u64 linked_failed;
};

// Written by the device: outputs that each link has taken, messages that have come over each and are done with.
struct alignas(128) LinkLine {
    u64 sent[MOST_LINKS];
    u64 handled[MOST_LINKS];
};

// Where a ring is, with what its header says: the header itself may lie on the far side of PCIe.
struct Ring {
    RingControl *control;
    u64 mask;
    u64 stride;
};

// A link is a ring in device memory, from one ring kernel to another. Written by the host while the ring kernel is away.
struct alignas(128) LinkTable {
    u64 incoming;
    u64 outgoing;
    Ring in[MOST_LINKS];
    Ring out[MOST_LINKS];
};

struct Control {
    HostLine host;
    DeviceLine device;
    LinkLine links;
    LinkTable table;
};

// What the blocks of a grid share, in device memory. Zero at launch.
struct alignas(128) GridLine {
    // Arrivals at the grid's barrier, and how often it has opened.
    u32 arrived;
    u32 round;
    // What the leader has decided.
    u32 action;
    u32 wants_reply;
    u32 priority;
    int code;
    u64 sequence;
    u64 event_tail;
    u64 event_limit;
    // What the message's events are to say, and where outputs go.
    u64 tag;
    u32 open;
    u32 also_to_host;
};

// A launch's one argument.
struct Launch {
    Ring input;
    Ring events;
    Control *control;
    GridLine *grid;
    // Device memory for the message in hand of a grid.
    void *grid_message;
    void *state;
    // Whether it holds after a fault.
    u32 holds_after_fault;
    // Nanoseconds between beats of the heart, and of the longest pause between looks.
    u32 beat_ns;
    u32 longest_pause_ns;
    u32 reserved;
    // Nanoseconds without a message before it leaves, and before it leaves in any case; 0: it stays.
    u64 grace_ns;
    u64 stay_ns;
};

} // namespace dc

#endif
