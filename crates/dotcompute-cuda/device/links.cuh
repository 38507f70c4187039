// Links: rings in device memory that carry outputs to the next ring kernel without the host.
//
// A link has one source kernel and one target kernel. Any thread of the source may send, so a slot is reserved by compare-and-swap and
// always filled. If no slot is free and the kernel must leave, the output goes to the host, which forwards it.
#ifndef DOTCOMPUTE_LINKS_CUH
#define DOTCOMPUTE_LINKS_CUH

#include "ring.cuh"

namespace dc {

// The links of a ring kernel, in the shared memory of each block.
struct Links {
    u32 incoming;
    u32 outgoing;
    // Bit n is set if outgoing link n takes outputs. 0: all outputs go to the host.
    u32 open;
    // Not 0 if outputs go to the host too.
    u32 copy_to_host;
    Control *control;
    Ring in[MAX_LINKS];
    Ring out[MAX_LINKS];
};

// Reads the link table. One thread of each block calls it, once per launch.
DC_DEVICE void find_links(Links &links, const Launch &launch) {
    // SYNC POINT: grid launch
    // Plain loads: the host wrote the table before the launch, which orders those writes before every read of the grid.
    const LinkTable &table = launch.control->table;
    links.control = launch.control;
    links.incoming = (u32)table.incoming;
    links.outgoing = (u32)table.outgoing;
    links.open = 0;
    links.copy_to_host = 0;
    for (u32 link = 0; link < links.incoming; ++link) links.in[link] = table.in[link];
    for (u32 link = 0; link < links.outgoing; ++link) links.out[link] = table.out[link];
}

// Reserves a slot of an outgoing link, and waits for a free one if necessary. Returns false if the ring kernel is to leave, or if the
// link is closed.
DC_DEVICE bool reserve_slot(const Links &links, u32 link, u64 *sequence) {
    RingControl *ring = links.out[link].control;
    u64 mask = links.out[link].mask;
    u64 tail = load_acquire_gpu(&ring->producer.tail);
    for (u32 pause = 32;; pause = pause < 4096 ? 2 * pause : pause) {
        // SYNC POINT: link slot reserve
        // Acquire: pairs with the release store of `head` in `Leader::finish` of the target. The target has read every slot below `head`,
        // so those may be overwritten.
        while (tail - load_acquire_gpu(&ring->consumer.head) <= mask) {
            u64 seen = compare_exchange(&ring->producer.tail, tail, tail + 1);
            if (seen == tail) {
                *sequence = tail;
                return true;
            }
            tail = seen;
        }
        // SYNC POINT: quiesce leave
        u32 command = load_relaxed_sys(&links.control->host.command);
        bool leaves = (command & COMMAND_LEAVE) || (command & COMMAND_MASK) >= COMMAND_STOP;
        if (leaves || (command >> COMMAND_CLOSED_SHIFT >> link & 1)) return false;
        // `sent` lets the host relaunch a target that is off the device; the heartbeat shows that this thread is alive.
        store_relaxed_sys(&links.control->links.sent[link], tail);
        store_relaxed_sys(&links.control->device.heartbeat, time_ns());
        pause_ns(pause);
        tail = load_acquire_gpu(&ring->producer.tail);
    }
}

// Sends an output over every open link. Returns a mask of the links that have taken it.
template <class T> DC_DEVICE u32 send_over_links(const Links &links, u32 priority, const T *output) {
    u32 taken = 0;
    for (u32 link = 0; link < links.outgoing; ++link) {
        u64 sequence;
        if (!(links.open >> link & 1) || !reserve_slot(links, link, &sequence)) continue;
        unsigned char *payload = payload_of(links.out[link], sequence);
        *reinterpret_cast<InputHeader *>(payload) = InputHeader{0, priority};
        copy<T>(payload + sizeof(InputHeader), output, 0, 1);
        // SYNC POINT: link slot publish
        // Release: pairs with the acquire load in `Leader::link_has_message` of the target; publishes the payload.
        store_release_gpu(seq_of(links.out[link], sequence), sequence + 1);
        taken |= 1u << link;
    }
    return taken;
}

} // namespace dc

#endif
