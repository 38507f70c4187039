// One thread of a ring kernel, its leader, talks to the host: it waits for messages, obeys commands, and says what is done.
#ifndef DOTCOMPUTE_LEADER_CUH
#define DOTCOMPUTE_LEADER_CUH

#include "links.cuh"

namespace dc {

// Looks without a pause after a message: the next is often close behind.
static const u64 HOT_POLL_NS = 50000;

// A message's source: the host, or an incoming link.
static const u32 FROM_HOST = 0;
static const u32 FROM_LINK = 1;

// The leader's side of the talk with the host and with the ring kernels that are linked to this one.
struct Leader {
    u64 head;
    u64 arrived;
    u64 last_message;
    u64 last_beat;
    u64 handler_ns;
    u64 handler_start;
    u32 pause;
    u32 state;
    u32 faults;
    bool faulted;
    // Where the message in hand came from: FROM_LINK + the link.
    u32 source;
    u32 closed;
    u64 linked_failed;
    // The next message of each incoming link.
    u64 link_head[MAX_LINKS];
    // The next place in each outgoing link, and up to which there was room for a message's outputs.
    u64 link_tail[MAX_LINKS];
    u64 link_limit[MAX_LINKS];

    // Goes on where the launch before this one has left off.
    __device__ void start(const Launch &launch, const Links &links) {
        head = launch.input.control->consumer.head;
        handler_ns = launch.control->device.handler_ns;
        faults = launch.control->device.faults;
        state = launch.control->device.state;
        faulted = load_relaxed_sys(&launch.control->host.faults_acknowledged) != faults;
        arrived = last_message = time_ns();
        last_beat = 0;
        pause = 32;
        source = FROM_HOST;
        closed = ~0u;
        linked_failed = launch.control->device.linked_failed;
        for (u32 link = 0; link < links.incoming; ++link) link_head[link] = links.in[link].control->consumer.head;
        for (u32 link = 0; link < links.outgoing; ++link) {
            link_tail[link] = load_acquire_gpu(&links.out[link].control->producer.tail);
            link_limit[link] = 0;
        }
    }

    __device__ void set_state(const Launch &launch, u32 now) {
        if (state != now) {
            state = now;
            store_release_sys(&launch.control->device.state, now);
        }
    }

    __device__ void beat(const Launch &launch, u64 now) {
        if (now - last_beat >= launch.heartbeat_interval_ns) {
            last_beat = now;
            store_relaxed_sys(&launch.control->device.heartbeat, now);
        }
    }

    // Waits for a message, which is the one of ticket `sequence()`. False if it is time to leave.
    __device__ bool wait(const Launch &launch, Links &links) {
        for (;;) {
            // Two loads on their way at once: over PCIe they take as long as one.
            u32 word = load_relaxed_sys(&launch.control->host.command);
            u64 slot = load_relaxed_sys(seq_of(launch.input, head));
            u64 now = time_ns();
            u32 command = word & COMMAND_MASK;
            beat(launch, now);
            // Whoever waits for the whole device gets his turn; the host has it come back at once.
            bool stayed_long = launch.max_residency_ns && now - arrived > launch.max_residency_ns;
            if ((word & COMMAND_LEAVE) || (stayed_long && command < COMMAND_STOP)) {
                set_state(launch, STATE_OFF_DEVICE);
                return false;
            }
            if (command >= COMMAND_STOP) return false;
            apply_link_routing(launch, links, word);
            if (faulted) {
                set_state(launch, STATE_FAULTED);
                faulted = load_relaxed_sys(&launch.control->host.faults_acknowledged) != faults;
                // The state may have been made anew meanwhile.
                if (!faulted) acquire_sys(&launch.control->host.faults_acknowledged);
            } else if (command == COMMAND_RUN) {
                // The state may have been read or written while it was paused.
                if (state != STATE_RUNNING) acquire_sys(&launch.control->host.command);
                set_state(launch, STATE_RUNNING);
                if (has_free_slots(links) && next_source(launch, links, slot == head + 1)) {
                    last_message = now;
                    pause = 32;
                    return true;
                }
                if (launch.idle_timeout_ns && now - last_message > launch.idle_timeout_ns && try_leave_idle(launch, links)) {
                    return false;
                }
            } else if (command == COMMAND_PAUSE) {
                set_state(launch, STATE_PAUSED);
            }
            if (now - last_message > HOT_POLL_NS) {
                pause_ns(pause);
                if (pause < launch.max_poll_pause_ns) pause *= 2;
            }
        }
    }

    // Sends outputs where the host has said, from now on.
    __device__ void apply_link_routing(const Launch &launch, Links &links, u32 word) {
        links.copy_to_host = word & COMMAND_COPY_TO_HOST;
        if (closed == word >> COMMAND_CLOSED_SHIFT) return;
        closed = word >> COMMAND_CLOSED_SHIFT;
        links.open = ~closed & ((1u << links.outgoing) - 1);
        // Release: what was sent over them before is seen by whoever sees this.
        if (links.outgoing) store_release_sys(&launch.control->device.closed_links, closed);
    }

    // Whether half of each open link is free. A handler that sends no more than that for a message never waits for room.
    __device__ bool has_free_slots(const Links &links) {
        for (u32 link = 0; link < links.outgoing; ++link) {
            if (!(links.open >> link & 1) || link_tail[link] < link_limit[link]) continue;
            const Ring &ring = links.out[link];
            link_limit[link] = load_acquire_gpu(&ring.control->consumer.head) + ring.mask / 2 + 1;
            if (link_tail[link] >= link_limit[link]) return false;
        }
        return true;
    }

    // Takes the next source in turn that has a message.
    __device__ bool next_source(const Launch &launch, const Links &links, bool host_has_one) {
        for (u32 looks = 0; looks <= links.incoming; ++looks) {
            source = source == links.incoming ? FROM_HOST : source + 1;
            if (source == FROM_HOST) {
                if (!host_has_one) continue;
                acquire_sys(seq_of(launch.input, head));
                return true;
            }
            if (link_has_message(links, source - FROM_LINK)) return true;
        }
        return false;
    }

    // Acquire: what was written before its word is seen.
    __device__ bool link_has_message(const Links &links, u32 link) const {
        return load_acquire_gpu(seq_of(links.in[link], link_head[link])) == link_head[link] + 1;
    }

    __device__ const Ring &ring(const Launch &launch, const Links &links) const {
        return source == FROM_HOST ? launch.input : links.in[source - FROM_LINK];
    }

    __device__ u64 sequence() const { return source == FROM_HOST ? head : link_head[source - FROM_LINK]; }

    __device__ u64 tag() const { return source == FROM_HOST ? head : head | LINKED_FLAG; }

    // Says that it is away, and then looks once more: the host posts, and then looks whether it is away. One of them sees the other.
    // Over a link, what comes later is seen by the host, which brings it back.
    __device__ bool try_leave_idle(const Launch &launch, const Links &links) {
        set_state(launch, STATE_OFF_DEVICE);
        fence_sys();
        u64 slot = load_relaxed_sys(seq_of(launch.input, head));
        bool leaves = slot != head + 1 && (load_relaxed_sys(&launch.control->host.command) & COMMAND_MASK) == COMMAND_RUN;
        for (u32 link = 0; link < links.incoming; ++link) leaves = leaves && !link_has_message(links, link);
        if (leaves) return true;
        set_state(launch, STATE_RUNNING);
        last_message = time_ns();
        return false;
    }

    __device__ void begin(const Launch &launch) {
        handler_start = time_ns();
        store_relaxed_sys(&launch.control->device.current_message, sequence() + 1);
    }

    // `count` messages are done with, `failed` of them badly.
    __device__ void finish(const Launch &launch, const Links &links, u32 count, u32 failed) {
        u64 now = time_ns();
        last_message = now;
        store_relaxed_sys(&launch.control->device.current_message, 0);
        for (u32 link = 0; link < links.outgoing; ++link) {
            link_tail[link] = load_acquire_gpu(&links.out[link].control->producer.tail);
            store_release_sys(&launch.control->links.sent[link], link_tail[link]);
        }
        // Their events were published before, and whoever sees that they are done sees them.
        if (source == FROM_HOST) {
            handler_ns += now - handler_start;
            store_relaxed_sys(&launch.control->device.handler_ns, handler_ns);
            head += count;
            store_release_sys(&launch.input.control->consumer.head, head);
        } else {
            u32 link = source - FROM_LINK;
            if (failed) {
                // Before they count as handled: whoever reads that, and then this, counts none as handled well that was not.
                linked_failed += failed;
                store_relaxed_sys(&launch.control->device.linked_failed, linked_failed);
            }
            link_head[link] += count;
            store_release_gpu(&links.in[link].control->consumer.head, link_head[link]);
            store_release_sys(&launch.control->links.handled[link], link_head[link]);
        }
        if (failed && launch.holds_after_fault) {
            faults += failed;
            faulted = true;
            store_release_sys(&launch.control->device.faults, faults);
            set_state(launch, STATE_FAULTED);
        }
    }

    // The last words: from here on the memory is not touched.
    __device__ void leave(const Launch &launch, u64 event_tail) {
        store_relaxed_sys(&launch.control->device.event_tail, event_tail);
        if (state != STATE_OFF_DEVICE) set_state(launch, STATE_STOPPED);
    }
};

} // namespace dc

#endif
