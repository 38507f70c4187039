// The resident loop: wait for a message, call the handler, publish the result, and repeat until the host commands otherwise.
//
// One thread of the ring kernel, the leader, communicates with the host. The loop has three shapes.
// ThreadShape: the threads of one block take one message each. BlockShape: the threads of one block share each message. GridShape: the
// threads of all blocks share each message.
#ifndef DOTCOMPUTE_RING_KERNEL_CUH
#define DOTCOMPUTE_RING_KERNEL_CUH

#include "context.cuh"
#include "leader.cuh"

namespace dc {

DC_DEVICE InputHeader header_of(const Ring &input, u64 sequence) {
    return *reinterpret_cast<const InputHeader *>(payload_of(input, sequence));
}

DC_DEVICE const unsigned char *body_of(const Ring &input, u64 sequence) {
    return payload_of(input, sequence) + sizeof(InputHeader);
}

// Memory for a T, aligned for copies by any unit.
template <class T> struct alignas(16) Buffer {
    unsigned char bytes[(sizeof(T) + 15) / 16 * 16];
    __device__ T *get() { return reinterpret_cast<T *>(bytes); }
};

// The shared memory of a block.
template <class Input, class Output> struct BlockMemory {
    Leader leader;
    EventSender events;
    Links links;
    u64 event_tail;
    u64 event_limit;
    u64 sequence;
    u64 tag;
    InputHeader header;
    u32 running;
    u32 count;
    u32 failed;
    int code;
    Ring from;
    Buffer<Input> input;
    Buffer<Output> output;
};

template <class Output, class Memory>
DC_DEVICE Context<Output> context_for(const Memory &memory, const Launch &launch, GridLine *grid, u64 sequence, u64 tag, InputHeader header) {
    Context<Output> context;
    context.thread = thread_index();
    context.threads = launch.threads;
    context.block = block_index();
    context.blocks = grid_blocks();
    context.wants_reply = header.wants_reply;
    context.priority = header.priority;
    context.sequence = sequence;
    context.events = &memory.events;
    context.grid = grid;
    context.links = &memory.links;
    context.tag = tag;
    return context;
}

template <class Output> DC_DEVICE void clear(Output *output) {
    for (u32 index = 0; index < sizeof(Output); ++index) reinterpret_cast<unsigned char *>(output)[index] = 0;
}

// Initializes the shared memory of a block that has the leader.
template <class Memory> DC_DEVICE void prepare(Memory &memory, const Launch &launch) {
    find_links(memory.links, launch);
    memory.leader.start(launch, memory.links);
    memory.event_tail = launch.control->device.event_tail;
    memory.event_limit = 0;
    memory.events = EventSender{launch.events, launch.control, &memory.event_tail, &memory.event_limit};
}

// Waits for a message, and stores its location.
template <class Memory> DC_DEVICE void wait_for_message(Memory &memory, const Launch &launch) {
    memory.running = memory.leader.wait(launch, memory.links);
    if (!memory.running) return;
    memory.from = memory.leader.ring(launch, memory.links);
    memory.sequence = memory.leader.sequence();
    memory.tag = memory.leader.tag();
}

// Reports a failed message to the host. The host has the message already, unless it came over a link.
template <class Input>
DC_DEVICE void send_failure(const EventSender &events, u64 tag, u32 priority, int code, const Input *message) {
    if (tag & LINKED_FLAG) {
        events.send(tag, EVENT_LINKED_FAILED | priority << 8, code, message);
    } else {
        events.send(tag, EVENT_FAILED, code, static_cast<const Input *>(nullptr));
    }
}

// Each thread handles a message of its own. A batch is as many messages as are ready, at most one per thread.
struct ThreadShape {
    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        bool is_leader = thread_index() == 0;
        if (is_leader) prepare(memory, launch);
        for (;;) {
            if (is_leader) {
                wait_for_message(memory, launch);
                memory.count = launch.threads;
                memory.failed = 0;
            }
            barrier();
            if (!memory.running) break;
            // Every thread polls the slot that would be its own. The loads are in flight together; one after another, each would cross
            // PCIe on its own.
            u64 sequence = memory.sequence + thread_index();
            bool is_ready = load_relaxed_sys(seq_of(memory.from, sequence)) == sequence + 1;
            if (!is_ready) atomic_min(&memory.count, thread_index());
            if (is_leader) memory.leader.begin(launch);
            barrier();
            if (thread_index() < memory.count) {
                // SYNC POINT: input slot publish
                // Acquire: pairs with the host's release store of the sequence tag; the payload is visible.
                acquire_sys(seq_of(memory.from, sequence));
                Buffer<Input> input;
                Buffer<Output> output;
                copy<Input>(input.get(), body_of(memory.from, sequence), 0, 1);
                clear(output.get());
                InputHeader header = header_of(memory.from, sequence);
                u64 tag = memory.tag & LINKED_FLAG ? memory.tag : sequence;
                Context<Output> context = context_for<Output>(memory, launch, nullptr, sequence, tag, header);
                int code = handler(&context, static_cast<State *>(launch.state), input.get(), output.get());
                if (code != 0) {
                    send_failure(memory.events, tag, header.priority, code, input.get());
                    increment(&memory.failed);
                }
            }
            barrier();
            if (is_leader) memory.leader.finish(launch, memory.links, memory.count, memory.failed);
        }
        if (is_leader) memory.leader.leave(launch, memory.event_tail);
    }
};

// All threads of the block share each message.
struct BlockShape {
    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        bool is_leader = thread_index() == 0;
        if (is_leader) prepare(memory, launch);
        for (;;) {
            if (is_leader) {
                wait_for_message(memory, launch);
                memory.code = 0;
                if (memory.running) {
                    memory.leader.begin(launch);
                    memory.header = header_of(memory.from, memory.sequence);
                    clear(memory.output.get());
                }
            }
            barrier();
            if (!memory.running) break;
            copy<Input>(memory.input.get(), body_of(memory.from, memory.sequence), thread_index(), launch.threads);
            barrier();
            Context<Output> context =
                context_for<Output>(memory, launch, nullptr, memory.sequence, memory.tag, memory.header);
            int code =
                handler(&context, static_cast<State *>(launch.state), memory.input.get(), memory.output.get());
            if (code != 0) set_if_zero(&memory.code, code);
            barrier();
            if (is_leader) {
                if (memory.code != 0) {
                    send_failure(memory.events, memory.tag, memory.header.priority, memory.code, memory.input.get());
                }
                memory.leader.finish(launch, memory.links, 1, memory.code != 0);
            }
        }
        if (is_leader) memory.leader.leave(launch, memory.event_tail);
    }
};

// All threads of all blocks share each message. The leader is the first thread of the first block.
struct GridShape {
    // Stores what the other blocks need to know of the message, if there is one. The grid barrier that follows publishes it.
    template <class Memory> static __device__ void broadcast(GridLine *grid, const Memory &memory) {
        grid->action = memory.running;
        grid->code = 0;
        if (!memory.running) return;
        InputHeader header = header_of(memory.from, memory.sequence);
        grid->sequence = memory.sequence;
        grid->tag = memory.tag;
        grid->wants_reply = header.wants_reply;
        grid->priority = header.priority;
        grid->open = memory.links.open;
        grid->copy_to_host = memory.links.copy_to_host;
    }

    template <class Input, class Output, class State, class Handler>
    static __device__ void run(const Launch &launch, Handler handler) {
        BlockMemory<Input, Output> &memory = block_shared<BlockMemory<Input, Output>>();
        GridLine *grid = launch.grid;
        bool first = block_index() == 0;
        bool is_leader = first && thread_index() == 0;
        if (thread_index() == 0) {
            find_links(memory.links, launch);
            memory.events = EventSender{launch.events, launch.control, &grid->event_tail, &grid->event_limit};
        }
        if (is_leader) {
            memory.leader.start(launch, memory.links);
            grid->event_tail = launch.control->device.event_tail;
            grid->event_limit = 0;
        }
        for (;;) {
            if (is_leader) {
                wait_for_message(memory, launch);
                if (memory.running) memory.leader.begin(launch);
                broadcast(grid, memory);
            }
            if (first) {
                // The other blocks wait at the grid barrier meanwhile.
                barrier();
                if (memory.running) {
                    copy<Input>(launch.grid_message, body_of(memory.from, grid->sequence), thread_index(), launch.threads);
                }
            }
            grid_barrier(grid);
            if (!grid->action) break;
            if (thread_index() == 0) {
                clear(memory.output.get());
                memory.links.open = grid->open;
                memory.links.copy_to_host = grid->copy_to_host;
            }
            barrier();
            InputHeader header = {grid->wants_reply, grid->priority};
            const Input *message = static_cast<const Input *>(launch.grid_message);
            Context<Output> context = context_for<Output>(memory, launch, grid, grid->sequence, grid->tag, header);
            int code = handler(&context, static_cast<State *>(launch.state), message, memory.output.get());
            if (code != 0) set_if_zero(&grid->code, code);
            grid_barrier(grid);
            if (is_leader) {
                if (grid->code != 0) send_failure(memory.events, grid->tag, grid->priority, grid->code, message);
                memory.leader.finish(launch, memory.links, 1, grid->code != 0);
            }
        }
        if (is_leader) memory.leader.leave(launch, grid->event_tail);
    }
};

#ifndef DOTCOMPUTE_EMULATED
// Run by the threads of a block that do not run the handler. The first thread of the last warp of the first block watches for the kill word
// until the grid leaves: the leader cannot, while it waits for a handler.
DC_DEVICE void watch_for_kill(const Launch &launch) {
    // A block of 1024 threads has no warp to spare: the barrier of its handler counts every thread that has not left.
    if (blockDim.x == 1024 || block_index() != 0 || thread_index() != blockDim.x - 32) return;
    for (;;) {
        u32 kill = load_relaxed_sys(&launch.control->kill.kill);
        u32 state = load_relaxed_sys(&launch.control->status.state);
        // SYNC POINT: kill
        if (kill) trap();
        if (state == STATE_STOPPED || state == STATE_OFF_DEVICE) return;
        pause_ns(20000);
    }
}
#endif

} // namespace dc

// Defines the kernel of a handler. The handler is declared before this.
#ifdef DOTCOMPUTE_EMULATED
#define DC_RING_KERNEL(SHAPE, INPUT, OUTPUT, STATE, HANDLER)                                                           \
    extern "C" size_t dc_block_bytes() { return sizeof(dc::BlockMemory<INPUT, OUTPUT>); }                              \
    extern "C" void dc_ring_kernel(const dc::Launch *launch, const dc::EmulatedThread *thread) {                       \
        if (thread->thread >= launch->threads) return;                                                                 \
        dc::emulated_thread = *thread;                                                                                 \
        dc::emulated_thread.threads = launch->threads;                                                                 \
        dc::kill_word = &launch->control->kill.kill;                                                                   \
        if (_setjmp(dc::kill_point) == 0) dc::SHAPE::run<INPUT, OUTPUT, STATE>(*launch, HANDLER);                      \
        dc::kill_word = nullptr;                                                                                       \
        dc::publish_all();                                                                                             \
    }
#else
#define DC_RING_KERNEL(SHAPE, INPUT, OUTPUT, STATE, HANDLER)                                                           \
    extern "C" __global__ void dc_ring_kernel(dc::Launch launch) {                                                     \
        if (dc::thread_index() < launch.threads) {                                                                     \
            dc::SHAPE::run<INPUT, OUTPUT, STATE>(launch, HANDLER);                                                     \
        } else {                                                                                                       \
            dc::watch_for_kill(launch);                                                                                \
        }                                                                                                              \
    }
#endif

#endif
