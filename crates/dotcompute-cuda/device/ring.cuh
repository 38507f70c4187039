// The device's ends of the two rings between it and the host: it consumes messages and produces events.
//
// Readiness travels with the slot: its word is the ticket plus 1 once the payload is there. The opposite index is read only when
// the ring looks full.
#ifndef DOTCOMPUTE_RING_CUH
#define DOTCOMPUTE_RING_CUH

#include "protocol.cuh"

namespace dc {

DC_DEVICE unsigned char *slot_of(const Ring &ring, u64 sequence) {
    return reinterpret_cast<unsigned char *>(ring.control + 1) + (sequence & ring.mask) * ring.stride;
}

DC_DEVICE u64 *seq_of(const Ring &ring, u64 sequence) { return reinterpret_cast<u64 *>(slot_of(ring, sequence)); }

// Payloads begin right behind the word.
DC_DEVICE unsigned char *payload_of(const Ring &ring, u64 sequence) { return slot_of(ring, sequence) + sizeof(u64); }

// Copies by the largest units that both sides are aligned to; the threads from `first` on take every `step`-th.
template <class Unit>
DC_DEVICE void copy_units(void *to, const void *from, u32 bytes, u32 first, u32 step) {
    Unit *target = static_cast<Unit *>(to);
    const Unit *source = static_cast<const Unit *>(from);
    for (u32 index = first; index < bytes / sizeof(Unit); index += step) target[index] = source[index];
}

template <class T> DC_DEVICE void copy(void *to, const void *from, u32 first, u32 step) {
    if (alignof(T) % 8 == 0) {
        copy_units<u64>(to, from, sizeof(T), first, step);
    } else if (alignof(T) % 4 == 0) {
        copy_units<u32>(to, from, sizeof(T), first, step);
    } else {
        copy_units<unsigned char>(to, from, sizeof(T), first, step);
    }
}

// The producer's end of the event ring, for all threads of a ring kernel at once.
struct EventSender {
    Ring ring;
    Control *control;
    // The next ticket, and the first that there is no room for as far as is known: in shared or in device memory.
    u64 *tail;
    u64 *limit;

    // Waits until this ticket has a slot. False if the host is gone.
    __device__ bool wait_for_slot(u64 sequence) const {
        for (u32 pause = 32; sequence >= load_acquire_gpu(limit); pause = pause < 4096 ? 2 * pause : pause) {
            u64 head = load_relaxed_sys(&ring.control->consumer.head);
            // What is free by this head has been read out, and is about to be written.
            acquire_sys(&ring.control->consumer.head);
            if (sequence <= head + ring.mask) {
                store_release_gpu(limit, head + ring.mask + 1);
                return true;
            }
            if ((load_relaxed_sys(&control->host.command) & COMMAND_MASK) == COMMAND_KILL) return false;
            // Waiting for the host is no sign of death.
            store_relaxed_sys(&control->device.heartbeat, time_ns());
            pause_ns(pause);
        }
        return true;
    }

    // Sends an event; `output` is a T, or null for none.
    template <class T> __device__ void send(u64 message, u32 kind, int code, const T *output) const {
        u64 sequence = fetch_add_relaxed(tail);
        if (!wait_for_slot(sequence)) return;
        unsigned char *payload = payload_of(ring, sequence);
        EventHeader *head = reinterpret_cast<EventHeader *>(payload);
        head->sequence = message;
        head->kind = kind;
        head->code = code;
        if (output) copy<T>(payload + sizeof(EventHeader), output, 0, 1);
        store_release_sys(seq_of(ring, sequence), sequence + 1);
    }
};

} // namespace dc

#endif
