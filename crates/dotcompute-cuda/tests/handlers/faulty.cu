// A ring kernel that never returns from 13 and loses the context on 14. On the fake driver it calls the driver's `fake_lose`.

#ifdef DOTCOMPUTE_EMULATED
#include <dlfcn.h>
static void lose() { ((void (*)())dlsym(dlopen("libcuda.so", RTLD_LAZY | RTLD_NOLOAD), "fake_lose"))(); }
#else
static __device__ void lose() { asm volatile("trap;"); }
#endif

extern "C" __device__ int32_t faulty(Ctx *ctx, Number *, const Number *message, Number *reply) {
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    if (message->value == 13) {
        for (volatile uint64_t value = 13; value == 13;) dc::pause_ns(2000);
    }
    if (message->value == 14) lose();
    *reply = *message;
    ctx->reply(reply);
    return 0;
}
