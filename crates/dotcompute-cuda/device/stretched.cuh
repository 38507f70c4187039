// The emulated device under stress: stores to shared words become visible late, and fences take long, at random.
//
// A GPU's store to host memory is posted: the thread continues before the host sees it, and a fence may take as long as the writes of
// other kernels need. Each device thread therefore has a store buffer here. It publishes in program order, so that release stores keep
// their meaning; what a thread loads next may overtake what it has stored. `DOTCOMPUTE_EMULATED_STRETCH` has the seed.
#ifndef DOTCOMPUTE_STRETCHED_CUH
#define DOTCOMPUTE_STRETCHED_CUH

#include <stddef.h>
#include <time.h>

namespace dc {

// One store in 16 is delayed, and one fence in 8 stretched, by up to this long.
static const u64 MAX_DELAY_NS = 100000;

struct DelayedStore {
    void *word;
    u64 value;
    u64 due;
    bool is_wide;
};

// The stores of one thread that no other thread sees yet, oldest first.
struct StoreBuffer {
    enum { CAPACITY = 32 };
    u64 random;
    size_t count;
    DelayedStore stores[CAPACITY];
};

static thread_local StoreBuffer store_buffer;

DC_DEVICE u64 stretched_now() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000ull + (u64)now.tv_nsec;
}

// Returns the next number of the thread's sequence: xorshift64. Threads start in the order in which they first get here.
DC_DEVICE u64 next_random() {
    static u64 threads;
    u64 &state = store_buffer.random;
    if (state == 0) {
        u64 thread = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
        state = (DOTCOMPUTE_STRETCHED + thread) * 0x9e3779b97f4a7c15ull | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

DC_DEVICE void publish_first(size_t count) {
    StoreBuffer &buffer = store_buffer;
    for (size_t at = 0; at < count; ++at) {
        DelayedStore &store = buffer.stores[at];
        if (store.is_wide) {
            __atomic_store_n(static_cast<u64 *>(store.word), store.value, __ATOMIC_RELEASE);
        } else {
            __atomic_store_n(static_cast<u32 *>(store.word), (u32)store.value, __ATOMIC_RELEASE);
        }
    }
    for (size_t at = count; at < buffer.count; ++at) buffer.stores[at - count] = buffer.stores[at];
    buffer.count -= count;
}

DC_DEVICE void publish_all() { publish_first(store_buffer.count); }

DC_DEVICE void publish_due() {
    if (store_buffer.count == 0) return;
    u64 now = stretched_now();
    size_t due = 0;
    while (due < store_buffer.count && store_buffer.stores[due].due <= now) ++due;
    publish_first(due);
}

// Takes a store into the buffer. Returns false if the caller is to make it now.
template <class Word> DC_DEVICE bool delay_store(Word *word, Word value) {
    publish_due();
    StoreBuffer &buffer = store_buffer;
    bool is_delayed = next_random() % 16 == 0;
    if (buffer.count == 0 && !is_delayed) return false;
    if (buffer.count == StoreBuffer::CAPACITY) publish_first(1);
    u64 due = stretched_now() + (is_delayed ? next_random() % MAX_DELAY_NS : 0);
    if (buffer.count && buffer.stores[buffer.count - 1].due > due) due = buffer.stores[buffer.count - 1].due;
    buffer.stores[buffer.count++] = DelayedStore{word, value, due, sizeof(Word) == sizeof(u64)};
    return true;
}

// A thread sees its own stores. Returns false if none to this word is in the buffer.
template <class Word> DC_DEVICE bool load_delayed(const Word *word, Word *value) {
    publish_due();
    for (size_t at = store_buffer.count; at > 0; --at) {
        if (store_buffer.stores[at - 1].word != word) continue;
        *value = (Word)store_buffer.stores[at - 1].value;
        return true;
    }
    return false;
}

DC_DEVICE void stretch_fence() {
    publish_due();
    if (next_random() % 8 != 0) return;
    struct timespec pause = {0, (long)(next_random() % MAX_DELAY_NS)};
    nanosleep(&pause, nullptr);
    publish_due();
}

} // namespace dc

#endif
