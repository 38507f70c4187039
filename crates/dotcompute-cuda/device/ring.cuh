// The device side of the two rings between host and device: consumer of the input ring, producer of the event ring.
//
// Readiness travels with the slot: its sequence tag is the index plus 1 once the payload is complete. The opposite index is read only
// when the ring appears full.
#ifndef DOTCOMPUTE_RING_CUH
#define DOTCOMPUTE_RING_CUH

#include "protocol.cuh"

namespace dc {

DC_DEVICE unsigned char *slot_of(const Ring &ring, u64 sequence) {
    return reinterpret_cast<unsigned char *>(ring.control + 1) + (sequence & ring.mask) * ring.stride;
}

DC_DEVICE u64 *seq_of(const Ring &ring, u64 sequence) { return reinterpret_cast<u64 *>(slot_of(ring, sequence)); }

// The payload follows the sequence tag.
DC_DEVICE unsigned char *payload_of(const Ring &ring, u64 sequence) { return slot_of(ring, sequence) + sizeof(u64); }

// Copies in units of type Unit, to which both sides are aligned. The calling thread copies unit `first` and every `step`-th after it.
template <class Unit>
DC_DEVICE void copy_units(void *to, const void *from, u32 bytes, u32 first, u32 step) {
    Unit *target = static_cast<Unit *>(to);
    const Unit *source = static_cast<const Unit *>(from);
    for (u32 index = first; index < bytes / sizeof(Unit); index += step) target[index] = source[index];
}

// Copies a T by the largest unit to which both sides are aligned.
template <class T> DC_DEVICE void copy(void *to, const void *from, u32 first, u32 step) {
    if (alignof(T) % 8 == 0) {
        copy_units<u64>(to, from, sizeof(T), first, step);
    } else if (alignof(T) % 4 == 0) {
        copy_units<u32>(to, from, sizeof(T), first, step);
    } else {
        copy_units<unsigned char>(to, from, sizeof(T), first, step);
    }
}

// Producer of the event ring. All threads of a ring kernel share it.
struct EventSender {
    Ring ring;
    Control *control;
    // Index of the next event, and the first index that may not have a free slot. Both are in shared or in device memory.
    u64 *tail;
    u64 *limit;

    // Waits until the slot of event `sequence` is free. Returns false if the host pops no more events.
    __device__ bool wait_for_slot(u64 sequence) const {
        for (u32 pause = 32; sequence >= load_acquire_gpu(limit); pause = pause < 4096 ? 2 * pause : pause) {
            // SYNC POINT: event ring full
            // Acquire: pairs with the host's release store of the head. The host has read every slot below it, so those may be overwritten.
            u64 head = load_relaxed_sys(&ring.control->consumer.head);
            acquire_sys(&ring.control->consumer.head);
            if (sequence <= head + ring.mask) {
                store_release_gpu(limit, head + ring.mask + 1);
                return true;
            }
            if ((load_relaxed_sys(&control->host.command) & COMMAND_MASK) == COMMAND_KILL) return false;
            // A thread that waits for the host is alive: without a heartbeat the watchdog would mark the ring kernel lost.
            store_relaxed_sys(&control->device.heartbeat, time_ns());
            pause_ns(pause);
        }
        return true;
    }

    // Sends an event with event tag `message`. `output` is a T, or null if the event has no output.
    template <class T> __device__ void send(u64 message, u32 kind, int code, const T *output) const {
        u64 sequence = fetch_add_relaxed(tail);
        if (!wait_for_slot(sequence)) return;
        unsigned char *payload = payload_of(ring, sequence);
        EventHeader *header = reinterpret_cast<EventHeader *>(payload);
        header->sequence = message;
        header->kind = kind;
        header->code = code;
        if (output) copy<T>(payload + sizeof(EventHeader), output, 0, 1);
        // SYNC POINT: event slot publish
        // Release: pairs with the acquire in the host's `try_pop`; publishes the payload.
        store_release_sys(seq_of(ring, sequence), sequence + 1);
    }
};

} // namespace dc

#endif
