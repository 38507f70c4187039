// Links: rings in device memory by which a ring kernel's outputs reach the next one without the host.
//
// A link has one ring kernel at each end, but any of its threads may send: so a place is taken by compare-and-exchange, once there is
// room, and never given up. Who finds no room and is to leave hands the output to the host instead, which knows the way.
#ifndef DOTCOMPUTE_LINKS_CUH
#define DOTCOMPUTE_LINKS_CUH

#include "ring.cuh"

namespace dc {

// The links of a ring kernel, in the memory of each block.
struct Links {
    u32 incoming;
    u32 outgoing;
    // The outgoing ones that are open, a bit each; 0 where all outputs go to the host.
    u32 open;
    u32 copy_to_host;
    Control *control;
    Ring in[MAX_LINKS];
    Ring out[MAX_LINKS];
};

// Reads where the links are. One thread of each block.
DC_DEVICE void find_links(Links &links, const Launch &launch) {
    const LinkTable &table = launch.control->table;
    links.control = launch.control;
    links.incoming = (u32)table.incoming;
    links.outgoing = (u32)table.outgoing;
    links.open = 0;
    links.copy_to_host = 0;
    for (u32 link = 0; link < links.incoming; ++link) links.in[link] = table.in[link];
    for (u32 link = 0; link < links.outgoing; ++link) links.out[link] = table.out[link];
}

// Takes a place in an outgoing link, waiting for room. False if it is time to leave, or the link is closed.
DC_DEVICE bool reserve_slot(const Links &links, u32 link, u64 *sequence) {
    RingControl *ring = links.out[link].control;
    u64 mask = links.out[link].mask;
    u64 tail = load_acquire_gpu(&ring->producer.tail);
    for (u32 pause = 32;; pause = pause < 4096 ? 2 * pause : pause) {
        // Acquire: what is free by this head has been read, and is about to be written.
        while (tail - load_acquire_gpu(&ring->consumer.head) <= mask) {
            u64 seen = compare_exchange(&ring->producer.tail, tail, tail + 1);
            if (seen == tail) {
                *sequence = tail;
                return true;
            }
            tail = seen;
        }
        u32 command = load_relaxed_sys(&links.control->host.command);
        bool leaves = (command & COMMAND_LEAVE) || (command & COMMAND_MASK) >= COMMAND_STOP;
        if (leaves || (command >> COMMAND_CLOSED_SHIFT >> link & 1)) return false;
        // By this the host brings back whoever is to read, and sees that this one is alive.
        store_relaxed_sys(&links.control->links.sent[link], tail);
        store_relaxed_sys(&links.control->device.heartbeat, time_ns());
        pause_ns(pause);
        tail = load_acquire_gpu(&ring->producer.tail);
    }
}

// Sends over all links that are open; says which have taken it.
template <class T> DC_DEVICE u32 send_over_links(const Links &links, u32 priority, const T *output) {
    u32 taken = 0;
    for (u32 link = 0; link < links.outgoing; ++link) {
        u64 sequence;
        if (!(links.open >> link & 1) || !reserve_slot(links, link, &sequence)) continue;
        unsigned char *payload = payload_of(links.out[link], sequence);
        *reinterpret_cast<InputHeader *>(payload) = InputHeader{0, priority};
        copy<T>(payload + sizeof(InputHeader), output, 0, 1);
        store_release_gpu(seq_of(links.out[link], sequence), sequence + 1);
        taken |= 1u << link;
    }
    return taken;
}

} // namespace dc

#endif
