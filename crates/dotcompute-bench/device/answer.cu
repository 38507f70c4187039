// Replies with the smallest computation that depends on the message. Sends the result instead if no caller waits for a reply.

// One thread for each message.
extern "C" __device__ int32_t answer(Ctx *ctx, void *, const Payload *request, Payload *reply) {
    *reply = *request;
    reply->words[6] += 1;
    if (ctx->wants_reply) {
        ctx->reply(reply);
    } else {
        ctx->send(reply);
    }
    return 0;
}

// One block for each message; one of its threads does the work.
extern "C" __device__ int32_t answer_of_a_block(Ctx *ctx, void *state, const Payload *request, Payload *reply) {
    return ctx->thread == 0 ? answer(ctx, state, request, reply) : 0;
}
