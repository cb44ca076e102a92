// The fused passes over a range of a vector, unit by unit: nothing larger than a unit is ever materialised. As
// kernels/reference/passes.py. Included once by the file of each instruction set, which names INSTRUCTION_SET.
#include "ahead.h"
#include "codecs.h"
#include "job.h"
#include "steps.h"

#define UNITS(codec, at, first, last) for (size_t at = first; at < last; at += unit_of(codec, at, job->elements))

// Keeps the first refused element of a range while its units are encoded in order.
INLINE void note_refused(int64_t *first, int64_t in_unit, size_t at) {
    if (*first < 0 && in_unit >= 0) *first = (int64_t)at + in_unit;
}

// fp64: products of two floats are exact; halves are added onto halves.
INLINE double sum_of_squares(const float *t) {
    double s[BLOCK / 2];
    for (int i = 0; i < BLOCK / 2; i++) {
        double low = t[i], high = t[i + BLOCK / 2];
        s[i] = low * low + high * high;
    }
    for (int half = BLOCK / 4; half > 0; half /= 2)
        for (int i = 0; i < half; i++) s[i] = s[i] + s[i + half];
    return s[0];
}

INLINE int64_t encode_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    int64_t refused = -1;
    UNITS(codec, at, first, last) {
        SOON_READ(job->x + at, BLOCK * 4);
        soon_encoded(codec, job->out, at);
        note_refused(&refused, encode_unit(codec, job->x + at, job->out, at, job->elements), at);
    }
    return refused;
}

// What the encoding of `t` lost; all of it, where something was refused.
INLINE void keep_residual(enum codec codec, const struct job *job, const float *restrict t, size_t at, int64_t bad) {
    float d[UNIT_MAX];
    size_t n = unit_of(codec, at, job->elements);
    float *residual = job->residual + at;
    decode_unit(codec, job->out, d, at, job->elements);
    for (size_t i = 0; i < n; i++) residual[i] = t[i] - d[i];
    if (bad >= 0)
        for (size_t i = 0; i < n; i++) residual[i] = float_of(CANONICAL_NAN_BITS);
}

INLINE int64_t encode_delta_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    int64_t refused = -1;
    UNITS(codec, at, first, last) {
        float t[UNIT_MAX];
        const float *anchor = job->x + at, *local = job->y + at;
        size_t n = unit_of(codec, at, job->elements);
        SOON_READ(anchor, n * 4);
        SOON_READ(local, n * 4);
        soon_encoded(codec, job->out, at);
        for (size_t i = 0; i < n; i++) t[i] = anchor[i] - local[i];
        for (size_t block = 0; block < n; block += BLOCK)
            job->squares[at / GROUP] += sum_of_squares(t + block);
        if (job->error) {
            const float *error = job->error + at;
            SOON_READ(error, n * 4);
            SOON_WRITTEN(job->residual + at, n * 4);
            float decay = job->decay;
            for (size_t i = 0; i < n; i++) {
                float kept = decay * error[i];
                t[i] = t[i] + kept;
            }
        }
        int64_t bad = encode_unit(codec, t, job->out, at, job->elements);
        if (job->error) keep_residual(codec, job, t, at, bad);
        note_refused(&refused, bad, at);
    }
    return refused;
}

INLINE int64_t decode_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    UNITS(codec, at, first, last) {
        soon_decoded(codec, job->enc, at);
        SOON_WRITTEN(job->total + at, unit_of(codec, at, job->elements) * 4);
        decode_unit(codec, job->enc, job->total + at, at, job->elements);
    }
    return -1;
}

INLINE int64_t decode_add_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    float weight = job->weight;
    UNITS(codec, at, first, last) {
        float d[UNIT_MAX];
        float *restrict total = job->total + at;
        size_t n = unit_of(codec, at, job->elements);
        soon_decoded(codec, job->enc, at);
        SOON_WRITTEN(total, n * 4);
        decode_unit(codec, job->enc, d, at, job->elements);
        for (size_t i = 0; i < n; i++) {
            float part = weight * d[i];
            total[i] = total[i] + part;
        }
    }
    return -1;
}

INLINE int64_t encode_mean_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    int64_t refused = -1;
    float divisor = job->divisor;
    UNITS(codec, at, first, last) {
        float t[UNIT_MAX];
        const float *total = job->x + at;
        size_t n = unit_of(codec, at, job->elements);
        SOON_READ(total, n * 4);
        soon_encoded(codec, job->out, at);
        for (size_t i = 0; i < n; i++) t[i] = total[i] / divisor;
        note_refused(&refused, encode_unit(codec, t, job->out, at, job->elements), at);
    }
    return refused;
}

// A unit is read in full before it is written, so `out` may be `incoming` or `enc`.
INLINE int64_t ring_hop_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    int64_t refused = -1;
    float weight = job->weight, divisor = job->divisor;
    UNITS(codec, at, first, last) {
        float t[UNIT_MAX], sum[UNIT_MAX];
        size_t n = unit_of(codec, at, job->elements);
        soon_decoded(codec, job->enc, at);
        soon_encoded(codec, job->out, at);
        if (job->incoming) soon_decoded(codec, job->incoming, at);
        decode_unit(codec, job->enc, t, at, job->elements);
        for (size_t i = 0; i < n; i++) t[i] = weight * t[i];
        if (job->incoming) {
            decode_unit(codec, job->incoming, sum, at, job->elements);
            for (size_t i = 0; i < n; i++) t[i] = sum[i] + t[i];
        }
        if (job->divides)
            for (size_t i = 0; i < n; i++) t[i] = t[i] / divisor;
        note_refused(&refused, encode_unit(codec, t, job->out, at, job->elements), at);
    }
    return refused;
}

INLINE int64_t outer_step_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    UNITS(codec, at, first, last) {
        float d[UNIT_MAX];
        size_t n = unit_of(codec, at, job->elements);
        soon_decoded(codec, job->enc, at);
        SOON_WRITTEN(job->theta + at, n * 4);
        if (job->momentum) SOON_WRITTEN(job->momentum + at, n * 4);
        decode_unit(codec, job->enc, d, at, job->elements);
        step_unit(job, d, at, n);
    }
    return -1;
}

INLINE int64_t finite_range(enum codec codec, const struct job *job, size_t first, size_t last) {
    UNITS(codec, at, first, last)
    if (!unit_finite(codec, job->enc, at, job->elements)) return (int64_t)at;
    return -1;
}

static int64_t subtract_pass(const struct job *job, size_t first, size_t last) {
    const float *restrict anchor = job->x;
    float *restrict x = job->total;
    for (size_t i = first; i < last; i++) x[i] = anchor[i] - x[i];
    return -1;
}

#define FOR_EVERY_CODEC(range)                                                                                        \
    static int64_t range##_pass(const struct job *job, size_t first, size_t last) {                                   \
        switch (job->codec) {                                                                                         \
        case INT8:                                                                                                    \
            return range##_range(INT8, job, first, last);                                                             \
        case BF16:                                                                                                    \
            return range##_range(BF16, job, first, last);                                                             \
        case INT4:                                                                                                    \
            return range##_range(INT4, job, first, last);                                                             \
        case E3M0:                                                                                                    \
            return range##_range(E3M0, job, first, last);                                                             \
        case TOPK:                                                                                                    \
            return range##_range(TOPK, job, first, last);                                                             \
        default:                                                                                                      \
            return range##_range(FP32, job, first, last);                                                             \
        }                                                                                                             \
    }

FOR_EVERY_CODEC(encode)
FOR_EVERY_CODEC(encode_delta)
FOR_EVERY_CODEC(decode)
FOR_EVERY_CODEC(decode_add)
FOR_EVERY_CODEC(encode_mean)
FOR_EVERY_CODEC(ring_hop)
FOR_EVERY_CODEC(outer_step)
FOR_EVERY_CODEC(finite)

#define PASSES                                                                                                        \
    {encode_pass,   encode_delta_pass, decode_pass,   decode_add_pass, encode_mean_pass,                              \
     ring_hop_pass, outer_step_pass,   subtract_pass, finite_pass}
