// The first stages of a pipeline.

// Sends each message unchanged.
extern "C" __device__ int32_t relay(Ctx *ctx, void *, const Payload *message, Payload *output) {
    *output = *message;
    ctx->send(output);
    return 0;
}

// Sends `message->sequence` messages, numbered from 0.
extern "C" __device__ int32_t burst(Ctx *ctx, void *, const Payload *message, Payload *output) {
    for (uint64_t sequence = 0; sequence < message->sequence; ++sequence) {
        output->sequence = sequence;
        for (uint64_t &word : output->words) word = sequence;
        ctx->send(output);
    }
    return 0;
}
