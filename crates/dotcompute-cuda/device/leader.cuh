// The leader: the one thread of a ring kernel that communicates with the host. It waits for messages, obeys commands and publishes what
// is done.
#ifndef DOTCOMPUTE_LEADER_CUH
#define DOTCOMPUTE_LEADER_CUH

#include "links.cuh"

namespace dc {

// The leader polls without a pause for this long after a message: the next one often follows closely.
static const u64 HOT_POLL_NS = 50000;

// The source of a message: the host, or FROM_LINK + the index of an incoming link.
static const u32 FROM_HOST = 0;
static const u32 FROM_LINK = 1;

// The leader's copies of the shared words, and its timers. In the shared memory of its block.
struct Leader {
    // Index of the next message in the input ring.
    u64 head;
    // Times in nanoseconds: of the launch, of the last message, of the last heartbeat.
    u64 launched_at;
    u64 last_message;
    u64 last_heartbeat;
    // Total handler time of messages from the host.
    u64 handler_ns;
    // When the current message's handler started.
    u64 handler_start;
    // The next pause between two polls, in nanoseconds.
    u32 pause;
    // The values last published.
    u32 state;
    u32 faults;
    // Whether the ring kernel holds after a fault.
    bool faulted;
    // The source of the current message.
    u32 source;
    // Closed outgoing links, a bit each.
    u32 closed;
    u64 linked_failed;
    // Index of the next message of each incoming link.
    u64 link_head[MAX_LINKS];
    // Index of the next slot of each outgoing link, and the index up to which at least half of its slots are free.
    u64 link_tail[MAX_LINKS];
    u64 link_limit[MAX_LINKS];

    // Continues where the previous grid of the ring kernel left off.
    __device__ void start(const Launch &launch, const Links &links) {
        // SYNC POINT: relaunch
        // SYNC POINT: grid launch
        // Plain loads: the previous grid has exited, and the launch orders the host's writes before every read of the grid.
        head = launch.input.control->consumer.head;
        handler_ns = launch.control->device.handler_ns;
        faults = launch.control->status.faults;
        state = launch.control->status.state;
        faulted = load_relaxed_sys(&launch.control->host.faults_acknowledged) != faults;
        launched_at = last_message = time_ns();
        last_heartbeat = 0;
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
            // SYNC POINT: state
            // Release: pairs with the host's acquire load; publishes the events and counters of every message handled before.
            store_release_sys(&launch.control->status.state, now);
        }
    }

    __device__ void publish_heartbeat(const Launch &launch, u64 now) {
        if (now - last_heartbeat >= launch.heartbeat_interval_ns) {
            last_heartbeat = now;
            store_relaxed_sys(&launch.control->device.heartbeat, now);
        }
    }

    // Waits for the next message, whose sequence number is then `sequence()`. Returns false if the ring kernel is to leave the device.
    __device__ bool wait(const Launch &launch, Links &links) {
        for (;;) {
            // Both loads are in flight together: over PCIe they take as long as one.
            u32 word = load_relaxed_sys(&launch.control->host.command);
            u64 slot = load_relaxed_sys(seq_of(launch.input, head));
            u64 now = time_ns();
            u32 command = word & COMMAND_MASK;
            publish_heartbeat(launch, now);
            // SYNC POINT: quiesce leave
            // Leave on COMMAND_LEAVE, and after `max_residency_ns` so that calls that wait for the whole device complete; the host
            // relaunches at once.
            bool stayed_long = launch.max_residency_ns && now - launched_at > launch.max_residency_ns;
            if ((word & COMMAND_LEAVE) || (stayed_long && command < COMMAND_STOP)) {
                set_state(launch, STATE_OFF_DEVICE);
                return false;
            }
            if (command >= COMMAND_STOP) return false;
            apply_link_routing(launch, links, word);
            if (faulted) {
                set_state(launch, STATE_FAULTED);
                // SYNC POINT: fault acknowledge
                // Acquire: pairs with the host's release store; the state that the host has reset meanwhile is visible to handlers.
                faulted = load_relaxed_sys(&launch.control->host.faults_acknowledged) != faults;
                if (!faulted) acquire_sys(&launch.control->host.faults_acknowledged);
            } else if (command == COMMAND_RUN) {
                // SYNC POINT: command
                // Acquire: pairs with the host's release store of the command; what the host wrote to the state during a pause is
                // visible to handlers.
                if (state != STATE_RUNNING) acquire_sys(&launch.control->host.command);
                set_state(launch, STATE_RUNNING);
                if (has_free_slots(links) && next_source(launch, links, slot == head + 1)) {
                    last_message = now;
                    pause = 32;
                    return true;
                }
                bool is_idle = launch.idle_timeout_ns && now - last_message > launch.idle_timeout_ns;
                if (is_idle && !has_message(links, slot)) {
                    // SYNC POINT: idle exit
                    // STATE_OFF_DEVICE is final: this grid looks for no message again, whatever arrives. A message that arrives after the
                    // polls above is the host's to find: the device proxy reads the state after each post, and again after each change of
                    // the state (`Port::relaunch_if_needed`, device_port.rs). For links, the watchdog does.
                    set_state(launch, STATE_OFF_DEVICE);
                    return false;
                }
            } else if (command == COMMAND_PAUSE) {
                // SYNC POINT: pause
                // The release store of the state publishes what handlers wrote to theirs. No handler runs before COMMAND_RUN.
                set_state(launch, STATE_PAUSED);
            }
            // SYNC POINT: idle exit
            // A ring kernel that is not to run leaves too, whether or not it has messages. The host relaunches it when it is to run: it reads
            // the state after each command and each acknowledged fault. One that has just found its fault acknowledged is to run.
            bool is_to_run = command == COMMAND_RUN && !faulted;
            if (!is_to_run && launch.idle_timeout_ns && now - last_message > launch.idle_timeout_ns) {
                set_state(launch, STATE_OFF_DEVICE);
                return false;
            }
            if (now - last_message > HOT_POLL_NS) {
                pause_ns(pause);
                if (pause < launch.max_poll_pause_ns) pause *= 2;
            }
        }
    }

    // Applies the link flags of a command word: outputs of the next messages go where they say.
    __device__ void apply_link_routing(const Launch &launch, Links &links, u32 word) {
        links.copy_to_host = word & COMMAND_COPY_TO_HOST;
        if (closed == word >> COMMAND_CLOSED_SHIFT) return;
        closed = word >> COMMAND_CLOSED_SHIFT;
        links.open = ~closed & ((1u << links.outgoing) - 1);
        // SYNC POINT: link close
        // Release: pairs with the host's acquire load; publishes the `sent` counts of every message sent over the closed links.
        if (links.outgoing) store_release_sys(&launch.control->status.closed_links, closed);
    }

    // Whether half of the slots of each open link are free. A handler that sends at most that many outputs never waits for a slot.
    __device__ bool has_free_slots(const Links &links) {
        for (u32 link = 0; link < links.outgoing; ++link) {
            if (!(links.open >> link & 1) || link_tail[link] < link_limit[link]) continue;
            const Ring &ring = links.out[link];
            link_limit[link] = load_acquire_gpu(&ring.control->consumer.head) + ring.mask / 2 + 1;
            if (link_tail[link] >= link_limit[link]) return false;
        }
        return true;
    }

    // Selects the next source, round-robin, that has a message. Returns false if none has.
    __device__ bool next_source(const Launch &launch, const Links &links, bool host_has_message) {
        for (u32 polls = 0; polls <= links.incoming; ++polls) {
            source = source == links.incoming ? FROM_HOST : source + 1;
            if (source == FROM_HOST) {
                if (!host_has_message) continue;
                // SYNC POINT: input slot publish
                // Acquire: pairs with the host's release store of the sequence tag; the payload is visible.
                acquire_sys(seq_of(launch.input, head));
                return true;
            }
            if (link_has_message(links, source - FROM_LINK)) return true;
        }
        return false;
    }

    __device__ bool link_has_message(const Links &links, u32 link) const {
        // SYNC POINT: link slot publish
        // Acquire: pairs with the release store in `send_over_links` of the source; the payload is visible.
        return load_acquire_gpu(seq_of(links.in[link], link_head[link])) == link_head[link] + 1;
    }

    // The ring, the sequence number and the event tag of the current message.
    __device__ const Ring &ring(const Launch &launch, const Links &links) const {
        return source == FROM_HOST ? launch.input : links.in[source - FROM_LINK];
    }

    __device__ u64 sequence() const { return source == FROM_HOST ? head : link_head[source - FROM_LINK]; }

    __device__ u64 tag() const { return source == FROM_HOST ? head : head | LINKED_FLAG; }

    // Whether a message waits, whatever keeps it from being handled. `slot` is the sequence tag of the host's next message.
    __device__ bool has_message(const Links &links, u64 slot) const {
        bool found = slot == head + 1;
        for (u32 link = 0; link < links.incoming; ++link) found = found || link_has_message(links, link);
        return found;
    }

    __device__ void begin(const Launch &launch) {
        handler_start = time_ns();
        store_relaxed_sys(&launch.control->device.current_message, sequence() + 1);
    }

    // Completes `count` messages, of which `failed` have failed.
    __device__ void finish(const Launch &launch, const Links &links, u32 count, u32 failed) {
        u64 now = time_ns();
        last_message = now;
        store_relaxed_sys(&launch.control->device.current_message, 0);
        for (u32 link = 0; link < links.outgoing; ++link) {
            link_tail[link] = load_acquire_gpu(&links.out[link].control->producer.tail);
            // SYNC POINT: link counts
            // Release: pairs with the host's acquire load of `sent`.
            store_release_sys(&launch.control->links.sent[link], link_tail[link]);
        }
        if (source == FROM_HOST) {
            handler_ns += now - handler_start;
            store_relaxed_sys(&launch.control->device.handler_ns, handler_ns);
            head += count;
            // SYNC POINT: input head publish
            // Release: pairs with the host's acquire load; publishes the events of the completed messages and `handler_ns`, and frees their
            // slots.
            store_release_sys(&launch.input.control->consumer.head, head);
        } else {
            u32 link = source - FROM_LINK;
            if (failed) {
                // Stored before `handled`: a host that reads `handled` and then this never counts a failed message as handled well.
                linked_failed += failed;
                store_relaxed_sys(&launch.control->device.linked_failed, linked_failed);
            }
            link_head[link] += count;
            // SYNC POINT: link slot reserve
            // Release: pairs with the acquire load in `reserve_slot` of the source; the payloads have been read, and their slots are free.
            store_release_gpu(&links.in[link].control->consumer.head, link_head[link]);
            // SYNC POINT: link counts
            // Release: pairs with the host's acquire load of `handled`; publishes `linked_failed`.
            store_release_sys(&launch.control->links.handled[link], link_head[link]);
        }
        if (failed && launch.holds_after_fault) {
            faults += failed;
            faulted = true;
            // SYNC POINT: fault acknowledge
            // Before the state: a host that sees STATE_FAULTED reads the number that it has to acknowledge.
            store_release_sys(&launch.control->status.faults, faults);
            set_state(launch, STATE_FAULTED);
        }
    }

    // The last stores of the grid: it does not access shared memory after them.
    __device__ void leave(const Launch &launch, u64 event_tail) {
        // SYNC POINT: grid exit
        // The next grid reads `event_tail` after the host has waited for the end of this one.
        store_relaxed_sys(&launch.control->device.event_tail, event_tail);
        if (state != STATE_OFF_DEVICE) set_state(launch, STATE_STOPPED);
    }
};

} // namespace dc

#endif
