// Access to words that another thread also reads or writes: a host thread, a thread of another block, or a thread of the same block.
//
// On a GPU these are inline PTX: NVRTC needs no header for them, and they compile to the same instructions as cuda::atomic_ref. On the
// emulated device they are the compiler's __atomic builtins (emulated.cuh), so that the same files run on host threads.
//
//   sys   scope of host and device   (across PCIe if the memory is the host's)
//   gpu   scope of one device        (its blocks)
//
// A poll is a relaxed load, followed by an acquire fence once the poll succeeds. An acquire load would invalidate the L1 cache at every
// poll.
#ifndef DOTCOMPUTE_ATOMICS_CUH
#define DOTCOMPUTE_ATOMICS_CUH

#ifdef DOTCOMPUTE_EMULATED
#include "emulated.cuh"
#else

#define DC_DEVICE static __device__ __forceinline__

namespace dc {

typedef unsigned int u32;
typedef unsigned long long u64;

DC_DEVICE u32 load_relaxed_sys(const u32 *word) {
    u32 value;
    asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

DC_DEVICE u64 load_relaxed_sys(const u64 *word) {
    u64 value;
    asm volatile("ld.relaxed.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

DC_DEVICE void store_relaxed_sys(u64 *word, u64 value) {
    asm volatile("st.relaxed.sys.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

DC_DEVICE void store_release_sys(u32 *word, u32 value) {
    asm volatile("st.release.sys.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

DC_DEVICE void store_release_sys(u64 *word, u64 value) {
    asm volatile("st.release.sys.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

// Acquire fence after a relaxed load of `word`. It pairs with the host's release store of the value loaded: everything that the host
// wrote before that store is visible after the fence.
template <class Word> DC_DEVICE void acquire_sys(const Word *) { asm volatile("fence.acq_rel.sys;" : : : "memory"); }

// The u64 overload works on shared and on device memory.
DC_DEVICE u32 load_acquire_gpu(const u32 *word) {
    u32 value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

DC_DEVICE void store_release_gpu(u32 *word, u32 value) {
    asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

// Word in device memory only. Returns the value before the addition.
DC_DEVICE u32 add_acq_rel_gpu(u32 *word, u32 value) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(word), "r"(value) : "memory");
    return before;
}

// Adds 1 to a counter in shared or device memory and returns the value before. Relaxed.
DC_DEVICE u64 fetch_add_relaxed(u64 *counter) { return atomicAdd(counter, 1ull); }

DC_DEVICE u64 load_acquire_gpu(const u64 *word) {
    u64 value;
    asm volatile("ld.acquire.gpu.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

DC_DEVICE void store_release_gpu(u64 *word, u64 value) {
    asm volatile("st.release.gpu.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

// Sets a word in device memory to `to` if it is `from`, and returns the value before. Relaxed.
DC_DEVICE u64 compare_exchange(u64 *word, u64 from, u64 to) { return atomicCAS(word, from, to); }

// Adds 1 to a counter. Relaxed.
DC_DEVICE void increment(u32 *counter) { atomicAdd(counter, 1u); }

// Sets a word to the smaller of its value and `value`. Relaxed.
DC_DEVICE void atomic_min(u32 *word, u32 value) { atomicMin(word, value); }

// Sets a word to `value` if it is 0. Relaxed.
DC_DEVICE void set_if_zero(int *word, int value) { atomicCAS(word, 0, value); }

DC_DEVICE u32 thread_index() { return threadIdx.x; }
DC_DEVICE u32 block_index() { return blockIdx.x; }
DC_DEVICE u32 grid_blocks() { return gridDim.x; }
// Barrier of the threads that run the handler. The last warp of a block of less than 1024 threads is not among them: it watches for the
// kill word (`watch_for_kill`). Warps arrive as a whole, also one whose last threads have left.
DC_DEVICE void barrier() {
    if (blockDim.x == 1024) {
        __syncthreads();
    } else {
        asm volatile("bar.sync 1, %0;" : : "r"(blockDim.x - 32) : "memory");
    }
}

// Ends the grid with an error that ends everything in its context.
DC_DEVICE void trap() { asm volatile("trap;"); }

// Nanoseconds since an arbitrary origin. The resolution is 32 ns on recent devices and about 1 us on older ones.
DC_DEVICE u64 time_ns() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now) : : "memory");
    return now;
}

DC_DEVICE void pause_ns(u32 duration) { __nanosleep(duration); }

// Shared memory of the block for one object of type T. Calls with the same T return the same object.
template <class T> DC_DEVICE T &block_shared() {
    __shared__ alignas(16) unsigned char memory[sizeof(T)];
    return *reinterpret_cast<T *>(memory);
}

} // namespace dc

// The watching warp would never arrive.
#define __syncthreads() dc::barrier()

#endif
#endif
