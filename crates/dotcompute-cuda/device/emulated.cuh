// The device primitives on the host: each device thread is an operating-system thread, a block's shared memory is ordinary memory, and
// its barrier is a counter. atomics.cuh includes this file in place of the PTX.
#ifndef DOTCOMPUTE_EMULATED_CUH
#define DOTCOMPUTE_EMULATED_CUH

#include <sched.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define DC_DEVICE static inline
#define __device__
#define __forceinline__ inline
#define __global__

namespace dc {

typedef unsigned int u32;
typedef unsigned long long u64;

// The barrier and the shared memory of a block. src/emulated/host_compiler.rs has the same layout.
struct EmulatedBlock {
    // Threads that have arrived at the barrier in this round.
    u32 arrived;
    // Rounds completed.
    u32 round;
    unsigned char *shared;
};

// The coordinates of a thread. src/emulated/host_compiler.rs has the same layout.
struct EmulatedThread {
    u32 thread, threads, block, blocks;
    EmulatedBlock *block_state;
};

static thread_local EmulatedThread emulated_thread;

// Where a thread continues, outside the handler, once the kill word is set. No warp can end another thread here, so each thread looks
// itself: whenever the handler or the loop calls a function of this file. A handler that calls none is not ended.
static thread_local jmp_buf kill_point;
static thread_local const u32 *kill_word;

DC_DEVICE void check_kill() {
    // SYNC POINT: kill
    if (!kill_word || !__atomic_load_n(kill_word, __ATOMIC_RELAXED)) return;
    kill_word = nullptr;
    longjmp(kill_point, 1);
}

} // namespace dc

#ifdef DOTCOMPUTE_STRETCHED
#include "stretched.cuh"
#else
namespace dc {
// Stores are visible at once, and fences take no longer than they need.
template <class Word> DC_DEVICE bool delay_store(Word *, Word) { return false; }
template <class Word> DC_DEVICE bool load_delayed(const Word *, Word *) { return false; }
DC_DEVICE void publish_due() {}
DC_DEVICE void publish_all() {}
DC_DEVICE void stretch_fence() {}
} // namespace dc
#endif

namespace dc {

template <class Word> DC_DEVICE Word emulated_load(const Word *word) {
    check_kill();
    Word value;
    return load_delayed(word, &value) ? value : __atomic_load_n(word, __ATOMIC_RELAXED);
}
DC_DEVICE u32 load_relaxed_sys(const u32 *word) { return emulated_load(word); }
DC_DEVICE u64 load_relaxed_sys(const u64 *word) { return emulated_load(word); }
DC_DEVICE void store_relaxed_sys(u64 *word, u64 value) {
    if (!delay_store(word, value)) __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
DC_DEVICE void store_release_sys(u32 *word, u32 value) {
    if (!delay_store(word, value)) __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
DC_DEVICE void store_release_sys(u64 *word, u64 value) {
    if (!delay_store(word, value)) __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
// A load and not a fence: ThreadSanitizer does not support fences.
template <class Word> DC_DEVICE void acquire_sys(const Word *word) {
    stretch_fence();
    (void)__atomic_load_n(word, __ATOMIC_ACQUIRE);
}
DC_DEVICE u32 load_acquire_gpu(const u32 *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
// A release at the device's scope also orders the thread's earlier stores to host memory.
DC_DEVICE void store_release_gpu(u32 *word, u32 value) {
    publish_all();
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
DC_DEVICE u32 add_acq_rel_gpu(u32 *word, u32 value) {
    publish_all();
    return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
}
DC_DEVICE u64 fetch_add_relaxed(u64 *counter) { return __atomic_fetch_add(counter, 1ull, __ATOMIC_RELAXED); }
DC_DEVICE u64 load_acquire_gpu(const u64 *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
DC_DEVICE void store_release_gpu(u64 *word, u64 value) {
    publish_all();
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
DC_DEVICE u64 compare_exchange(u64 *word, u64 from, u64 to) {
    __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return from;
}
DC_DEVICE void increment(u32 *counter) { (void)__atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED); }
DC_DEVICE void atomic_min(u32 *word, u32 value) {
    u32 now = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (value < now && !__atomic_compare_exchange_n(word, &now, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
DC_DEVICE void set_if_zero(int *word, int value) {
    int zero = 0;
    __atomic_compare_exchange_n(word, &zero, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

DC_DEVICE u32 thread_index() { return emulated_thread.thread; }
DC_DEVICE u32 block_index() { return emulated_thread.block; }
DC_DEVICE u32 grid_blocks() { return emulated_thread.blocks; }

DC_DEVICE u64 time_ns() {
    publish_due();
    check_kill();
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000ull + (u64)now.tv_nsec;
}

DC_DEVICE void pause_ns(u32 duration) {
    publish_due();
    check_kill();
    if (duration < 1000) {
        sched_yield();
        return;
    }
    struct timespec pause = {0, (long)duration};
    nanosleep(&pause, nullptr);
}

// The last thread to arrive starts the next round. Waiting threads yield and then sleep: there are fewer cores than threads.
DC_DEVICE void barrier() {
    EmulatedBlock *block = emulated_thread.block_state;
    publish_all();
    if (emulated_thread.threads == 1) return;
    u32 round = __atomic_load_n(&block->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&block->arrived, 1, __ATOMIC_ACQ_REL) == emulated_thread.threads) {
        __atomic_store_n(&block->arrived, 0, __ATOMIC_RELAXED);
        // Release: pairs with the acquire load below; publishes what every thread wrote before the barrier.
        __atomic_store_n(&block->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (u32 polls = 0; __atomic_load_n(&block->round, __ATOMIC_ACQUIRE) == round; ++polls) {
        check_kill();
        // The leader may wait a long time for a message.
        if (polls > 512) pause_ns(50000);
        else if (polls > 64) sched_yield();
    }
}

template <class T> DC_DEVICE T &block_shared() { return *reinterpret_cast<T *>(emulated_thread.block_state->shared); }

} // namespace dc

#endif
