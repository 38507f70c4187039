// The context of a handler: the current message, and the calls to send, reply and synchronize.
#ifndef DOTCOMPUTE_CONTEXT_CUH
#define DOTCOMPUTE_CONTEXT_CUH

#include "links.cuh"

namespace dc {

// Barrier across all blocks of a grid. Every thread of every block calls it.
DC_DEVICE void grid_barrier(GridLine *grid) {
    barrier();
    if (thread_index() == 0) {
        u32 round = load_acquire_gpu(&grid->round);
        // Acquire-release: the last block to arrive sees what every block wrote before the barrier.
        if (add_acq_rel_gpu(&grid->arrived, 1) == grid_blocks() - 1) {
            grid->arrived = 0;
            // Release: pairs with the acquire load below; publishes those writes to the waiting blocks.
            store_release_gpu(&grid->round, round + 1);
        } else {
            for (u32 polls = 0; load_acquire_gpu(&grid->round) == round; ++polls) {
                if (polls > 256) pause_ns(polls > 1024 ? 2000 : 100);
            }
        }
    }
    barrier();
}

// The context that a handler receives. The layout is the same for every output type; other front ends read its fields.
template <class Output> struct Context {
    // Index of the calling thread in its block, and the number of threads of a block.
    u32 thread;
    u32 threads;
    // Index of the block in the grid, and the number of blocks.
    u32 block;
    u32 blocks;
    // 1 if a caller waits for a reply, otherwise 0.
    u32 wants_reply;
    // Priority of the message, 0 to 255.
    u32 priority;
    // Sequence number of the message in the ring that it came through.
    u64 sequence;
    // For the framework only.
    const EventSender *events;
    GridLine *grid;
    const Links *links;
    // Event tag: EventHeader.sequence of the message's events.
    u64 tag;

    // Sends an output to every reader and connected ring kernel. Each call of each thread sends one output.
    __device__ void send(const Output *output) {
        u32 taken = links->open ? send_over_links(*links, priority, output) : 0;
        if (taken && taken == links->open && !links->copy_to_host) return;
        u32 kind = tag & LINKED_FLAG ? EVENT_LINKED_SENT | priority << 8 : EVENT_SENT;
        events->send(tag, kind, (int)taken, output);
    }
    __device__ void send(const Output &output) { send(&output); }

    // Replies to the caller that asked. Without a waiting caller, and after the first reply, the reply is dropped and counted.
    __device__ void reply(const Output *output) {
        if (wants_reply) {
            events->send(tag, EVENT_REPLIED, 0, output);
        } else {
            events->send(tag, EVENT_UNASKED_REPLY, 0, static_cast<const Output *>(nullptr));
        }
    }
    __device__ void reply(const Output &output) { reply(&output); }

    // Barrier of the threads that share the message: those of the block, or of the whole grid. Not for shape Thread. All of them must
    // call it: a handler returns before it in all threads or in none.
    __device__ void sync() {
        if (grid) {
            grid_barrier(grid);
        } else {
            barrier();
        }
    }

    // Nanoseconds since an arbitrary origin.
    __device__ u64 now_ns() const { return time_ns(); }
};

} // namespace dc

#endif
