// Baselines for ring kernels: kernels that use nothing of the framework but its atomics.
#include "atomics.cuh"

// Flag ping-pong: copies each new number from one word to the other, until the number is STOP. It also ends after about a minute without
// a new number: otherwise it would stay on the device after a crash of the host program.
extern "C" __global__ void flag(const dc::u32 *request, dc::u32 *reply) {
    const dc::u32 STOP = 0xffffffffu;
    dc::u32 last = 0;
    for (dc::u32 polls = 0; last != STOP && polls < (1u << 26); ++polls) {
        dc::u32 seen = dc::load_relaxed_sys(request);
        if (seen == last) continue;
        last = seen;
        polls = 0;
        dc::store_release_sys(reply, seen);
    }
}

// The work of the ring kernel's handler, as a kernel that is launched for one message.
extern "C" __global__ void answer(const unsigned long long *request, unsigned long long *reply) {
    for (int word = 0; word < 8; ++word) reply[word] = request[word] + (word == 7);
}
