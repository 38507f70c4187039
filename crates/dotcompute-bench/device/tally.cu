// Counts messages, checks every word of them, and replies with the counts to a request.

// One message at a time: each must have the next sequence number.
extern "C" __device__ int32_t tally(Ctx *ctx, Tally *state, const Payload *message, Tally *reply) {
    if (ctx->wants_reply) {
        *reply = *state;
        ctx->reply(reply);
        return 0;
    }
    state->misplaced += message->sequence != state->count;
    for (uint64_t word : message->words) state->sum += word;
    state->count += 1;
    return 0;
}

// Many messages at once, one thread for each: every word of a message must be its sequence number.
extern "C" __device__ int32_t tally_at_once(Ctx *ctx, Tally *state, const Payload *message, Tally *reply) {
    if (ctx->wants_reply) {
        reply->count = dc::load_acquire_gpu(reinterpret_cast<dc::u64 *>(&state->count));
        reply->misplaced = dc::load_acquire_gpu(reinterpret_cast<dc::u64 *>(&state->misplaced));
        ctx->reply(reply);
        return 0;
    }
    bool is_in_order = message->sequence == ctx->sequence;
    for (uint64_t word : message->words) is_in_order = is_in_order && word == ctx->sequence;
    if (!is_in_order) dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->misplaced));
    dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->count));
    return 0;
}
