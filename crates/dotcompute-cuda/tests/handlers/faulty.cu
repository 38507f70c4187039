// A ring kernel that hangs on 13 and brings the context down on 14; a driver that pretends is told to.

#ifdef DOTCOMPUTE_EMULATED
#include <dlfcn.h>
static void lose() { ((void (*)())dlsym(dlopen("libcuda.so", RTLD_LAZY | RTLD_NOLOAD), "fake_lose"))(); }
#else
static __device__ void lose() { asm volatile("trap;"); }
#endif

extern "C" __device__ int32_t faulty(Ctx *ctx, Number *, const Number *message, Number *answer) {
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    if (message->value == 13) {
        for (volatile uint64_t turns = 13; turns == 13;) dc::pause_ns(2000);
    }
    if (message->value == 14) lose();
    *answer = *message;
    ctx->reply(answer);
    return 0;
}
