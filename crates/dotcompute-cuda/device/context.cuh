// What a handler is given to reach the outside.
#ifndef DOTCOMPUTE_CONTEXT_CUH
#define DOTCOMPUTE_CONTEXT_CUH

#include "links.cuh"

namespace dc {

// All blocks of a grid meet here. Every thread of every block must come.
DC_DEVICE void grid_barrier(GridLine *grid) {
    barrier();
    if (thread_index() == 0) {
        u32 round = load_acquire_gpu(&grid->round);
        if (add_acq_rel_gpu(&grid->arrived, 1) == grid_blocks() - 1) {
            grid->arrived = 0;
            store_release_gpu(&grid->round, round + 1);
        } else {
            for (u32 looks = 0; load_acquire_gpu(&grid->round) == round; ++looks) {
                if (looks > 256) pause_ns(looks > 1024 ? 2000 : 100);
            }
        }
    }
    barrier();
}

// The message in hand and the ways out. Its layout is the same for every output type; other front ends read its fields.
template <class Output> struct Context {
    // This thread in its block, this block in the grid.
    u32 thread;
    u32 threads;
    u32 block;
    u32 blocks;
    // Whether somebody waits for an answer, and the message's priority, 0 to 255.
    u32 wants_reply;
    u32 priority;
    // The message's place in the order of arrival.
    u64 sequence;
    // The framework's.
    const EventSender *events;
    GridLine *grid;
    const Links *links;
    // What events say of the message: its ticket, if the host sent it.
    u64 tag;

    // Sends an output, to whoever reads or is connected. Each call of each thread sends one.
    __device__ void send(const Output *output) {
        u32 taken = links->open ? send_over_links(*links, priority, output) : 0;
        if (taken && taken == links->open && !links->copy_to_host) return;
        u32 kind = tag & LINKED_FLAG ? EVENT_LINKED_SENT | priority << 8 : EVENT_SENT;
        events->send(tag, kind, (int)taken, output);
    }
    __device__ void send(const Output &output) { send(&output); }

    // Answers the message: to its asker, or as an output where nobody asked. The first answer counts; later ones are outputs.
    __device__ void reply(const Output *output) {
        if (wants_reply) {
            events->send(tag, EVENT_REPLIED, 0, output);
        } else {
            send(output);
        }
    }
    __device__ void reply(const Output &output) { reply(&output); }

    // Waits for the threads that share the message: those of the block, or of the whole grid. Not for shape Thread. All of them must
    // come: a handler returns before it in all threads or in none.
    __device__ void sync() {
        if (grid) {
            grid_barrier(grid);
        } else {
            barrier();
        }
    }

    // Nanoseconds since some moment.
    __device__ u64 now_ns() const { return time_ns(); }
};

} // namespace dc

#endif
