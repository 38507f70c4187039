// The test kernels as device functions. Every thread of a shape calls them; the first thread does what must be done once.

extern "C" __device__ int32_t sum(Ctx *ctx, Number *state, const Number *message, Number *reply) {
    if (message->value == 666) return 7;
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    if (message->value == 0) {
        for (uint64_t start = ctx->now_ns(); ctx->now_ns() - start < 20000000;) dc::pause_ns(1000);
    }
    state->value += message->value;
    if (message->value < 1000) {
        *reply = *state;
        if (ctx->wants_reply) {
            ctx->reply(reply);
        } else {
            ctx->send(reply);
        }
    }
    return 0;
}

extern "C" __device__ int32_t echo(Ctx *ctx, Number *, const Number *message, Number *) {
    if (ctx->thread == 0 && ctx->block == 0) ctx->reply(message);
    return 0;
}

extern "C" __device__ int32_t count(Ctx *ctx, Number *, const Number *message, Number *output) {
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    for (output->value = 0; output->value < message->value; ++output->value) ctx->send(output);
    return 0;
}
