// Counts what it is told, looks at every word of it, and reports what it has counted when asked.

// One message after another: each must be the one after the last.
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

// Many messages at once, a thread for each: every word of a message must be its place in the order of arrival.
extern "C" __device__ int32_t tally_at_once(Ctx *ctx, Tally *state, const Payload *message, Tally *reply) {
    if (ctx->wants_reply) {
        reply->count = dc::load_acquire_gpu(reinterpret_cast<dc::u64 *>(&state->count));
        reply->misplaced = dc::load_acquire_gpu(reinterpret_cast<dc::u64 *>(&state->misplaced));
        ctx->reply(reply);
        return 0;
    }
    bool in_place = message->sequence == ctx->sequence;
    for (uint64_t word : message->words) in_place = in_place && word == ctx->sequence;
    if (!in_place) dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->misplaced));
    dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->count));
    return 0;
}
