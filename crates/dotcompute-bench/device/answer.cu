// Answers: the smallest work that depends on the message.

// One thread for each message.
extern "C" __device__ int32_t answer(Ctx *ctx, void *, const Payload *question, Payload *reply) {
    *reply = *question;
    reply->words[6] += 1;
    ctx->reply(reply);
    return 0;
}

// A block for each message, of which one thread has something to do.
extern "C" __device__ int32_t answer_of_a_block(Ctx *ctx, void *state, const Payload *question, Payload *reply) {
    return ctx->thread == 0 ? answer(ctx, state, question, reply) : 0;
}
