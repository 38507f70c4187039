// Reading and writing words that somebody else reads and writes: the host, another block, another thread of the block.
//
// On a GPU these are inline PTX: NVRTC needs no header for them, and they become the same instructions as cuda::atomic_ref. On
// the emulated device they are the compiler's __atomic builtins (see emulated.cuh), so that the same files run on threads.
//
//   sys   seen by the host       (over PCIe where the memory is the host's)
//   gpu   seen by other blocks   of the same device
//
// A poll is a relaxed load, and an acquire fence once it has found something: an acquiring load would empty the L1 cache at
// every look.
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

// After a relaxed load of the host's word has found something: what the host wrote before that word is seen after this.
template <class Word> DC_DEVICE void acquire_sys(const Word *) { asm volatile("fence.acq_rel.sys;" : : : "memory"); }

// Between a store and a load of another word, where the host does the same the other way round.
DC_DEVICE void fence_sys() { asm volatile("fence.sc.sys;" : : : "memory"); }

DC_DEVICE u32 load_acquire_gpu(const u32 *word) {
    u32 value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

DC_DEVICE void store_release_gpu(u32 *word, u32 value) {
    asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

DC_DEVICE u32 add_acq_rel_gpu(u32 *word, u32 value) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(word), "r"(value) : "memory");
    return before;
}

// Takes a number from a counter in shared or in device memory. Orders nothing.
DC_DEVICE u64 fetch_add_relaxed(u64 *counter) { return atomicAdd(counter, 1ull); }

// A number that one thread finds out and others use, in shared or in device memory.
DC_DEVICE u64 load_acquire_gpu(const u64 *place) {
    u64 value;
    asm volatile("ld.acquire.gpu.u64 %0, [%1];" : "=l"(value) : "l"(place) : "memory");
    return value;
}

DC_DEVICE void store_release_gpu(u64 *place, u64 value) {
    asm volatile("st.release.gpu.u64 [%0], %1;" : : "l"(place), "l"(value) : "memory");
}

// Makes it `to` if it is `from`; says what it was. In device memory; orders nothing.
DC_DEVICE u64 compare_exchange(u64 *place, u64 from, u64 to) { return atomicCAS(place, from, to); }

DC_DEVICE void increment(u32 *counter) { atomicAdd(counter, 1u); }

// Makes a number smaller, if this one is.
DC_DEVICE void atomic_min(u32 *place, u32 value) { atomicMin(place, value); }

// Keeps the first value other than 0 that is offered.
DC_DEVICE void set_if_zero(int *place, int value) { atomicCAS(place, 0, value); }

DC_DEVICE u32 thread_index() { return threadIdx.x; }
DC_DEVICE u32 block_threads() { return blockDim.x; }
DC_DEVICE u32 block_index() { return blockIdx.x; }
DC_DEVICE u32 grid_blocks() { return gridDim.x; }
DC_DEVICE void barrier() { __syncthreads(); }

// Nanoseconds since some moment; steps of 32 ns on recent devices, of about 1 us on older ones.
DC_DEVICE u64 time_ns() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now) : : "memory");
    return now;
}

DC_DEVICE void pause_ns(u32 duration) { __nanosleep(duration); }

// The memory that a block's threads share; one of each type.
template <class T> DC_DEVICE T &block_shared() {
    __shared__ alignas(16) unsigned char memory[sizeof(T)];
    return *reinterpret_cast<T *>(memory);
}

} // namespace dc

#endif
#endif
