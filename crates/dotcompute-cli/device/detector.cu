// The detector of src/detector.rs, for many series at once. Thread `t` of `n` handles columns t, t + n, t + 2n, ... of a message.
// The build prepends the structs of the message (Readings), the reply (Scores) and the state (DetectorStates).
//
// Operations are those of the Rust code, in the same order, so scores are bit-identical. Products are never fused with sums:
// on the GPU because of the intrinsic, on the emulated device because of a compiler option.

#define STATISTICS 4
#define SPREAD 3
#define ROUNDING 1.7763568394002505e-15

#ifdef DOTCOMPUTE_EMULATED
DC_DEVICE double product(double a, double b) { return a * b; }
DC_DEVICE double magnitude(double value) { return __builtin_fabs(value); }
#else
DC_DEVICE double product(double a, double b) { return __dmul_rn(a, b); }
DC_DEVICE double magnitude(double value) { return fabs(value); }
#endif

DC_DEVICE double greater(double left, double right) { return left > right ? left : right; }

DC_DEVICE double weight(double settled, uint64_t seen) {
    return product(settled, (double)seen) >= 1.0 ? settled : 1.0 / (double)seen;
}

// Updates the means; computes the four statistics in the units of the series.
DC_DEVICE void update_means(DetectorState &one, double value, double *deviations) {
    if (one.seen == 1) one.last = value;
    double step = value - one.last;
    one.last = value;
    double recent = weight(one.recent, one.seen);
    double level = step + one.long_run_lag;
    double error = step + one.fast_lag;
    double near = step + one.recent_lag;
    one.fast_lag = error - product(weight(one.fast, one.seen), error);
    one.recent_lag = near - product(recent, near);
    one.recent_spread += product(recent, magnitude(one.recent_lag) - one.recent_spread);
    double shift = level - one.recent_lag;
    one.long_run_lag = level - product(weight(one.long_run, one.seen), level);
    deviations[0] = magnitude(level);
    deviations[1] = magnitude(error);
    deviations[2] = magnitude(shift);
    deviations[SPREAD] = one.recent_spread;
}

// Compares the statistics with their records; returns the greatest ratio.
DC_DEVICE double against_records(DetectorState &one, const double *deviations) {
    double long_run_mean = one.last - one.long_run_lag;
    double rounding = product(ROUNDING, magnitude(long_run_mean)) + 2.2250738585072014e-308;
    double step = weight(one.long_run, one.seen - one.settling);
    double decay = 1.0 - one.forgetting;
    double statistics[STATISTICS];
    for (int index = 0; index < STATISTICS; ++index) {
        statistics[index] = (deviations[index] + rounding) / (one.usual[index] + rounding);
        one.usual[index] += product(step, deviations[index] - one.usual[index]);
    }
    statistics[SPREAD] = greater(statistics[SPREAD], 1.0 / statistics[SPREAD]);
    double ratio = 0.0;
    for (int index = 0; index < STATISTICS; ++index) {
        double statistic = statistics[index] < 50.0 ? statistics[index] : 50.0;
        ratio = greater(ratio, statistic / greater(one.records[index], 1.0));
        one.records[index] = product(one.records[index], decay);
        one.block_records[index] = greater(one.block_records[index], statistic);
    }
    if (one.left_in_block) --one.left_in_block;
    if (!one.left_in_block) {
        one.left_in_block = one.block;
        for (int index = 0; index < STATISTICS; ++index) {
            one.records[index] = greater(one.records[index], one.block_records[index]);
            one.block_records[index] = 0.0;
        }
    }
    double young = 1.0 + (double)one.warm_up / (double)one.seen;
    return ratio / product(one.margin, young);
}

// Processes the next value; returns its score, from 0 to 1.
DC_DEVICE double update(DetectorState &one, double value) {
    if (!(value - value == 0.0)) return 0.0;
    ++one.seen;
    double deviations[STATISTICS];
    update_means(one, value < -1e300 ? -1e300 : value > 1e300 ? 1e300 : value, deviations);
    if (one.seen <= one.settling) return 0.0;
    double ratio = against_records(one, deviations);
    if (one.seen <= 2 * one.settling) {
        for (int index = 0; index < STATISTICS; ++index) one.block_records[index] = 0.0;
        return 0.0;
    }
    if (one.seen <= one.warm_up) return 0.0;
    double score = ratio / (1.0 + ratio);
    if (one.quiet_for > 0) {
        --one.quiet_for;
        return score / 2.0;
    }
    if (score >= one.threshold) one.quiet_for = one.quiet;
    return score;
}

extern "C" __device__ int32_t detect(Ctx *ctx, DetectorStates *state, const Readings *readings, Scores *scores) {
    for (uint32_t column = ctx->thread; column < readings->columns; column += ctx->threads) {
        DetectorState one = state->detectors[readings->series[column]];
        for (uint32_t row = 0; row < readings->rows; ++row) {
            uint32_t at = row * readings->columns + column;
            state->scores[at] = update(one, readings->values[at]);
        }
        state->detectors[readings->series[column]] = one;
    }
    ctx->sync();
    if (ctx->thread == 0) {
        uint32_t count = readings->rows * readings->columns;
        for (uint32_t at = 0; at < 480; ++at) scores->values[at] = at < count ? state->scores[at] : 0.0;
        ctx->reply(scores);
    }
    return 0;
}
