// The resident loop: wait for a message, have it handled, say so, and again, until the host says otherwise.
//
// One thread of the ring kernel, its leader, talks to the host. The loop comes in three shapes: the threads of one block take a
// message each (Thread), share each message (Block), or the threads of all blocks share each message (Grid).
#ifndef DOTCOMPUTE_RING_KERNEL_CUH
#define DOTCOMPUTE_RING_KERNEL_CUH

#include "context.cuh"

namespace dc {

// Looks without a pause after a message: the next is often close behind.
static const u64 EAGER_NS = 50000;

// The leader's side of the talk with the host.
struct Leader {
    u64 head;
    u64 arrived;
    u64 last_message;
    u64 last_beat;
    u64 handling_ns;
    u64 began;
    u32 pause;
    u32 state;
    u32 faults;
    bool faulted;

    // Goes on where the launch before this one has left off.
    __device__ void start(const Launch &launch) {
        head = launch.input.control->consumer.head;
        handling_ns = launch.control->device.handling_ns;
        faults = launch.control->device.faults;
        state = launch.control->device.state;
        faulted = load_relaxed_sys(&launch.control->host.faults_judged) != faults;
        arrived = last_message = time_ns();
        last_beat = 0;
        pause = 32;
    }

    __device__ void set_state(const Launch &launch, u32 now) {
        if (state != now) {
            state = now;
            store_release_sys(&launch.control->device.state, now);
        }
    }

    __device__ void beat(const Launch &launch, u64 now) {
        if (now - last_beat >= launch.beat_ns) {
            last_beat = now;
            store_relaxed_sys(&launch.control->device.heartbeat, now);
        }
    }

    // Waits for a message, which is the one of ticket `head`. False if it is time to leave.
    __device__ bool wait(const Launch &launch) {
        for (;;) {
            // Two loads on their way at once: over PCIe they take as long as one.
            u32 command = load_relaxed_sys(&launch.control->host.command);
            u64 word = load_relaxed_sys(word_of(launch.input, head));
            u64 now = time_ns();
            beat(launch, now);
            // Whoever waits for the whole device gets his turn; the host has it come back at once.
            bool stayed_long = launch.stay_ns && now - arrived > launch.stay_ns;
            if ((command & COMMAND_LEAVE) || (stayed_long && command < COMMAND_STOP)) {
                set_state(launch, STATE_IDLE);
                return false;
            }
            if (command >= COMMAND_STOP) return false;
            if (faulted) {
                set_state(launch, STATE_FAULTED);
                faulted = load_relaxed_sys(&launch.control->host.faults_judged) != faults;
                // The state may have been made anew meanwhile.
                if (!faulted) acquire_sys(&launch.control->host.faults_judged);
            } else if (command == COMMAND_RUN) {
                // The state may have been read or written while it was paused.
                if (state != STATE_RUNNING) acquire_sys(&launch.control->host.command);
                set_state(launch, STATE_RUNNING);
                if (word == head + 1) {
                    acquire_sys(word_of(launch.input, head));
                    last_message = now;
                    pause = 32;
                    return true;
                }
                if (launch.grace_ns && now - last_message > launch.grace_ns && leaves_by_itself(launch)) return false;
            } else if (command == COMMAND_PAUSE) {
                set_state(launch, STATE_PAUSED);
            }
            if (now - last_message > EAGER_NS) {
                pause_ns(pause);
                if (pause < launch.longest_pause_ns) pause *= 2;
            }
        }
    }

    // Says that it is away, and then looks once more: the host posts, and then looks whether it is away. One of them sees the other.
    __device__ bool leaves_by_itself(const Launch &launch) {
        set_state(launch, STATE_IDLE);
        fence_sys();
        u64 word = load_relaxed_sys(word_of(launch.input, head));
        if (word != head + 1 && load_relaxed_sys(&launch.control->host.command) == COMMAND_RUN) return true;
        set_state(launch, STATE_RUNNING);
        last_message = time_ns();
        return false;
    }

    __device__ void begin(const Launch &launch) {
        began = time_ns();
        store_relaxed_sys(&launch.control->device.in_hand, head + 1);
    }

    // `count` messages are done with, `failed` of them badly.
    __device__ void finish(const Launch &launch, u32 count, u32 failed) {
        u64 now = time_ns();
        handling_ns += now - began;
        last_message = now;
        store_relaxed_sys(&launch.control->device.handling_ns, handling_ns);
        store_relaxed_sys(&launch.control->device.in_hand, 0);
        head += count;
        // Their events were published before, and whoever sees this sees them.
        store_release_sys(&launch.input.control->consumer.head, head);
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
        if (state != STATE_IDLE) set_state(launch, STATE_STOPPED);
    }
};

DC_DEVICE MessageHead head_of(const Ring &input, u64 ticket) {
    return *reinterpret_cast<const MessageHead *>(payload_of(input, ticket));
}

DC_DEVICE const unsigned char *body_of(const Ring &input, u64 ticket) {
    return payload_of(input, ticket) + sizeof(MessageHead);
}

// Memory for a T, aligned for any copy.
template <class T> struct alignas(16) Buffer {
    unsigned char bytes[(sizeof(T) + 15) / 16 * 16];
    __device__ T *get() { return reinterpret_cast<T *>(bytes); }
};

// What the threads of a block share.
template <class Input, class Output> struct BlockMemory {
    Leader leader;
    EventSender events;
    u64 event_tail;
    u64 event_limit;
    u64 ticket;
    MessageHead head;
    u32 goes_on;
    u32 count;
    u32 failed;
    int code;
    Buffer<Input> input;
    Buffer<Output> output;
};

template <class Output>
DC_DEVICE Context<Output> context_for(const EventSender *events, GridLine *grid, u64 ticket, MessageHead head) {
    Context<Output> context;
    context.thread = thread_index();
    context.threads = block_threads();
    context.block = block_index();
    context.blocks = grid_blocks();
    context.asked = head.asked;
    context.priority = head.priority;
    context.ticket = ticket;
    context.events = events;
    context.grid = grid;
    return context;
}

template <class Output> DC_DEVICE void clear(Output *output) {
    for (u32 index = 0; index < sizeof(Output); ++index) reinterpret_cast<unsigned char *>(output)[index] = 0;
}

template <class Memory> DC_DEVICE void prepare(Memory &memory, const Launch &launch) {
    memory.leader.start(launch);
    memory.event_tail = launch.control->device.event_tail;
    memory.event_limit = 0;
    memory.events = EventSender{launch.events, launch.control, &memory.event_tail, &memory.event_limit};
}

// Each thread takes a message of its own, as many at once as are there.
struct ThreadShape {
    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        bool leads = thread_index() == 0;
        if (leads) prepare(memory, launch);
        for (;;) {
            if (leads) {
                memory.goes_on = memory.leader.wait(launch);
                memory.ticket = memory.leader.head;
                memory.count = block_threads();
                memory.failed = 0;
            }
            barrier();
            if (!memory.goes_on) break;
            // Every thread looks at the slot that would be its own: at once, where one after another would cross PCIe as often.
            u64 ticket = memory.ticket + thread_index();
            bool is_there = load_relaxed_sys(word_of(launch.input, ticket)) == ticket + 1;
            if (!is_there) keep_least(&memory.count, thread_index());
            if (leads) memory.leader.begin(launch);
            barrier();
            if (thread_index() < memory.count) {
                acquire_sys(word_of(launch.input, ticket));
                Buffer<Input> input;
                Buffer<Output> output;
                copy<Input>(input.get(), body_of(launch.input, ticket), 0, 1);
                clear(output.get());
                MessageHead head = head_of(launch.input, ticket);
                Context<Output> context = context_for<Output>(&memory.events, nullptr, ticket, head);
                int code = handler(&context, static_cast<State *>(launch.state), input.get(), output.get());
                if (code != 0) {
                    memory.events.send(ticket, EVENT_FAILED, code, static_cast<const Output *>(nullptr));
                    count_one(&memory.failed);
                }
            }
            barrier();
            if (leads) memory.leader.finish(launch, memory.count, memory.failed);
        }
        if (leads) memory.leader.leave(launch, memory.event_tail);
    }
};

// All threads of the block share each message.
struct BlockShape {
    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        bool leads = thread_index() == 0;
        if (leads) prepare(memory, launch);
        for (;;) {
            if (leads) {
                memory.goes_on = memory.leader.wait(launch);
                memory.ticket = memory.leader.head;
                memory.code = 0;
                if (memory.goes_on) {
                    memory.leader.begin(launch);
                    memory.head = head_of(launch.input, memory.ticket);
                    clear(memory.output.get());
                }
            }
            barrier();
            if (!memory.goes_on) break;
            copy<Input>(memory.input.get(), body_of(launch.input, memory.ticket), thread_index(), block_threads());
            barrier();
            Context<Output> context = context_for<Output>(&memory.events, nullptr, memory.ticket, memory.head);
            int code =
                handler(&context, static_cast<State *>(launch.state), memory.input.get(), memory.output.get());
            if (code != 0) keep_first(&memory.code, code);
            barrier();
            if (leads) {
                if (memory.code != 0) {
                    memory.events.send(memory.ticket, EVENT_FAILED, memory.code, static_cast<const Output *>(nullptr));
                }
                memory.leader.finish(launch, 1, memory.code != 0);
            }
        }
        if (leads) memory.leader.leave(launch, memory.event_tail);
    }
};

// All threads of all blocks share each message. The first block's leader talks to the host.
struct GridShape {
    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        GridLine *grid = launch.grid;
        bool first = block_index() == 0;
        bool leads = first && thread_index() == 0;
        if (leads) {
            memory.leader.start(launch);
            grid->event_tail = launch.control->device.event_tail;
            grid->event_limit = 0;
        }
        if (thread_index() == 0) {
            memory.events = EventSender{launch.events, launch.control, &grid->event_tail, &grid->event_limit};
        }
        for (;;) {
            if (leads) {
                memory.goes_on = memory.leader.wait(launch);
                if (memory.goes_on) memory.leader.begin(launch);
                grid->action = memory.goes_on;
                grid->ticket = memory.leader.head;
                grid->code = 0;
                if (memory.goes_on) {
                    MessageHead head = head_of(launch.input, memory.leader.head);
                    grid->asked = head.asked;
                    grid->priority = head.priority;
                }
            }
            if (first) {
                // The others wait at the grid's barrier meanwhile.
                barrier();
                if (memory.goes_on) {
                    copy<Input>(launch.grid_message, body_of(launch.input, grid->ticket), thread_index(), block_threads());
                }
            }
            grid_barrier(grid);
            if (!grid->action) break;
            if (thread_index() == 0) clear(memory.output.get());
            barrier();
            MessageHead head = {grid->asked, grid->priority};
            Context<Output> context = context_for<Output>(&memory.events, grid, grid->ticket, head);
            int code = handler(&context, static_cast<State *>(launch.state),
                               static_cast<const Input *>(launch.grid_message), memory.output.get());
            if (code != 0) keep_first(&grid->code, code);
            grid_barrier(grid);
            if (leads) {
                if (grid->code != 0) {
                    memory.events.send(grid->ticket, EVENT_FAILED, grid->code, static_cast<const Output *>(nullptr));
                }
                memory.leader.finish(launch, 1, grid->code != 0);
            }
        }
        if (leads) memory.leader.leave(launch, grid->event_tail);
    }
};

} // namespace dc

// Makes the kernel of a handler, which stands in front of this.
#ifdef DOTCOMPUTE_EMULATED
#define DC_RING_KERNEL(SHAPE, INPUT, OUTPUT, STATE, HANDLER)                                                           \
    extern "C" size_t dc_block_bytes() { return sizeof(dc::BlockMemory<INPUT, OUTPUT>); }                              \
    extern "C" void dc_ring_kernel(const dc::Launch *launch, const dc::EmulatedThread *thread) {                       \
        dc::emulated_thread = *thread;                                                                                 \
        dc::SHAPE::run<INPUT, OUTPUT, STATE>(*launch, HANDLER);                                                        \
    }
#else
#define DC_RING_KERNEL(SHAPE, INPUT, OUTPUT, STATE, HANDLER)                                                           \
    extern "C" __global__ void dc_ring_kernel(dc::Launch launch) {                                                     \
        dc::SHAPE::run<INPUT, OUTPUT, STATE>(launch, HANDLER);                                                         \
    }
#endif

#endif
