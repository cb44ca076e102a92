// The kernels in C11: the same bits as kernels/reference.py, at memory speed.
//
// Plain loops over blocks of 256, written so that the compiler vectorizes them without being allowed to
// reorder anything: maxima are taken over integers, sums of squares halve a fixed array, multiply and add stay
// apart (-ffp-contract=off). Owns arithmetic only: no allocation, no threads, no state, no Python. Arguments
// are checked by kernels/ops.py. Constants mirror kernels/codec.py and kernels/native.py compares the ABI number.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "-ffast-math changes the bits that all peers must agree on; remove it from CFLAGS"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian and is read in place"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif
#if defined(__i386__) && !defined(__SSE2_MATH__)
#error "x87 arithmetic keeps excess precision; build with -msse2 -mfpmath=sse"
#endif

// ifunc needs glibc. Every clone gives the same bits: tests compare the one this CPU takes with torch.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
// Never inlined into the wrapper that sets the floating-point mode, so no arithmetic can move across it.
#define KERNEL static __attribute__((noinline)) CLONES
#define INLINE static inline __attribute__((always_inline))

#define BLOCK 256
#define BLOCKS_PER_GROUP 64
#define FP32_BLOCK_BYTES (4 * BLOCK)
#define INT8_BLOCK_BYTES (4 + BLOCK)
#define MAGNITUDE_MASK 0x7fffffff
#define REFUSED_BITS_FP32 0x7f800000  // NaN, infinity
#define REFUSED_BITS_INT8 0x7f000000  // 2**127
#define REFUSED_BITS_SCALE 0x7c000000 // 2**121
#define ZERO_BLOCK_BITS 0x0d800000    // 2**-100
#define CANONICAL_NAN_BITS 0x7fc00000
#define ROUNDING_MAGIC 12582912.0f    // 1.5 * 2**23
#define CODE_MAX 127.0f

enum codec { FP32 = 0, INT8 = 1 };

INLINE int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// ---- floating-point mode: some libraries switch flush-to-zero on for the thread that loads them ----

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
typedef unsigned int fp_mode;
#define PLAIN_MODE 0x1f80u // all exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero
INLINE fp_mode enter_plain_mode(void) {
    fp_mode saved = _mm_getcsr();
    _mm_setcsr(PLAIN_MODE);
    return saved;
}
INLINE void leave_plain_mode(fp_mode saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
INLINE fp_mode enter_plain_mode(void) {
    fp_mode saved, plain = 0; // round to nearest, no flush-to-zero, no default NaN, no traps
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved)::"memory");
    __asm__ volatile("msr fpcr, %0" ::"r"(plain) : "memory");
    return saved;
}
INLINE void leave_plain_mode(fp_mode saved) { __asm__ volatile("msr fpcr, %0" ::"r"(saved) : "memory"); }
#else
typedef int fp_mode;
INLINE fp_mode enter_plain_mode(void) { return 0; }
INLINE void leave_plain_mode(fp_mode saved) { (void)saved; }
#endif

// ---- one block ----

// Where block `index` of `blocks` keeps its scale and its codes: a group is all its scales, then all its codes.
INLINE size_t scale_at(size_t index, size_t blocks, size_t *codes_at) {
    size_t in_group = index % BLOCKS_PER_GROUP;
    size_t first = index - in_group;
    size_t group_blocks = blocks - first < BLOCKS_PER_GROUP ? blocks - first : BLOCKS_PER_GROUP;
    size_t start = first * INT8_BLOCK_BYTES;
    *codes_at = start + 4 * group_blocks + BLOCK * in_group;
    return start + 4 * in_group;
}

INLINE void decode_int8(const uint8_t *enc, size_t index, size_t blocks, float *restrict t) {
    size_t codes_at, at = scale_at(index, blocks, &codes_at);
    int32_t scale_bits;
    memcpy(&scale_bits, enc + at, 4);
    if ((scale_bits & MAGNITUDE_MASK) >= REFUSED_BITS_SCALE) {
        for (int i = 0; i < BLOCK; i++) t[i] = float_of(CANONICAL_NAN_BITS);
        return;
    }
    float scale = float_of(scale_bits);
    const int8_t *codes = (const int8_t *)enc + codes_at;
    for (int i = 0; i < BLOCK; i++) t[i] = (float)codes[i] * scale;
}

INLINE void decode_block(enum codec codec, const uint8_t *enc, size_t index, size_t blocks, float *restrict t) {
    if (codec == INT8)
        decode_int8(enc, index, blocks, t);
    else
        memcpy(t, enc + index * FP32_BLOCK_BYTES, FP32_BLOCK_BYTES);
}

INLINE int32_t magnitude_max(const float *t) {
    int32_t most = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t bits = bits_of(t[i]) & MAGNITUDE_MASK;
        most = bits > most ? bits : most;
    }
    return most;
}

// Index of the first element at or above `limit`, -1 if none.
INLINE int64_t first_refused(const float *t, int32_t limit) {
    for (int i = 0; i < BLOCK; i++)
        if ((bits_of(t[i]) & MAGNITUDE_MASK) >= limit) return i;
    return -1;
}

INLINE int64_t encode_int8(const float *restrict t, uint8_t *out, size_t index, size_t blocks) {
    size_t codes_at, at = scale_at(index, blocks, &codes_at);
    uint8_t *restrict codes = out + codes_at;
    int32_t most = magnitude_max(t);
    int32_t scale_bits = 0;
    if (most >= REFUSED_BITS_INT8 || most < ZERO_BLOCK_BITS) {
        memset(codes, 0, BLOCK);
        if (most >= REFUSED_BITS_INT8) scale_bits = CANONICAL_NAN_BITS;
    } else {
        float inverse = CODE_MAX / float_of(most);
        scale_bits = bits_of(float_of(most) / CODE_MAX);
        for (int i = 0; i < BLOCK; i++) {
            float scaled = t[i] * inverse;
            codes[i] = (uint8_t)bits_of(scaled + ROUNDING_MAGIC);
        }
    }
    memcpy(out + at, &scale_bits, 4);
    return most >= REFUSED_BITS_INT8 ? first_refused(t, REFUSED_BITS_INT8) : -1;
}

INLINE int64_t encode_fp32(const float *restrict t, uint8_t *out, size_t index) {
    int32_t bits[BLOCK];
    memcpy(bits, t, sizeof bits);
    int64_t refused = magnitude_max(t) >= REFUSED_BITS_FP32 ? first_refused(t, REFUSED_BITS_FP32) : -1;
    if (refused >= 0)
        for (int i = 0; i < BLOCK; i++)
            if ((bits[i] & MAGNITUDE_MASK) >= REFUSED_BITS_FP32) bits[i] = CANONICAL_NAN_BITS;
    memcpy(out + index * FP32_BLOCK_BYTES, bits, sizeof bits);
    return refused;
}

INLINE int64_t encode_block(enum codec codec, const float *restrict t, uint8_t *out, size_t index, size_t blocks) {
    return codec == INT8 ? encode_int8(t, out, index, blocks) : encode_fp32(t, out, index);
}

// Keeps the first refused element of a vector while its blocks are encoded in order.
INLINE void note_refused(int64_t *first, int64_t in_block, size_t index) {
    if (*first < 0 && in_block >= 0) *first = (int64_t)(index * BLOCK) + in_block;
}

// fp64: products of two floats are exact; halves are added onto halves, the order reference.py has too.
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

// ---- whole vectors; `codec` is a constant in each instance, so the choice costs nothing per block ----

INLINE int64_t encode_all(enum codec codec, const float *x, uint8_t *out, size_t blocks) {
    int64_t first = -1;
    for (size_t b = 0; b < blocks; b++) note_refused(&first, encode_block(codec, x + b * BLOCK, out, b, blocks), b);
    return first;
}

INLINE int64_t encode_delta_all(enum codec codec, const float *anchor, const float *local, uint8_t *out,
                                size_t blocks, double *squares) {
    int64_t first = -1;
    double total = 0.0;
    for (size_t b = 0; b < blocks; b++) {
        const float *restrict a = anchor + b * BLOCK, *restrict l = local + b * BLOCK;
        float t[BLOCK];
        for (int i = 0; i < BLOCK; i++) t[i] = a[i] - l[i];
        total += sum_of_squares(t);
        note_refused(&first, encode_block(codec, t, out, b, blocks), b);
    }
    *squares = total;
    return first;
}

INLINE void decode_all(enum codec codec, const uint8_t *enc, float *out, size_t blocks) {
    for (size_t b = 0; b < blocks; b++) decode_block(codec, enc, b, blocks, out + b * BLOCK);
}

// A block is read in full before it is written, so `out` may be `incoming` or `own`.
INLINE int64_t ring_hop_all(enum codec codec, const uint8_t *incoming, const uint8_t *own, float weight,
                            const float *divisor, uint8_t *out, size_t blocks) {
    int64_t first = -1;
    for (size_t b = 0; b < blocks; b++) {
        float t[BLOCK], sum[BLOCK];
        decode_block(codec, own, b, blocks, t);
        for (int i = 0; i < BLOCK; i++) t[i] = weight * t[i];
        if (incoming) {
            decode_block(codec, incoming, b, blocks, sum);
            for (int i = 0; i < BLOCK; i++) t[i] = sum[i] + t[i];
        }
        if (divisor) {
            float by = *divisor;
            for (int i = 0; i < BLOCK; i++) t[i] = t[i] / by;
        }
        note_refused(&first, encode_block(codec, t, out, b, blocks), b);
    }
    return first;
}

INLINE void outer_step_all(enum codec codec, const uint8_t *update, float *theta, float *momentum, float lr,
                           float mu, size_t blocks) {
    for (size_t b = 0; b < blocks; b++) {
        float *restrict th = theta + b * BLOCK, *restrict mo = momentum + b * BLOCK;
        float d[BLOCK];
        decode_block(codec, update, b, blocks, d);
        for (int i = 0; i < BLOCK; i++) {
            float m = mu * mo[i];
            m = m + d[i];
            float ahead = mu * m;
            ahead = d[i] + ahead;
            float step = lr * ahead;
            mo[i] = m;
            th[i] = th[i] - step;
        }
    }
}

// ---- one clone per CPU generation ----

KERNEL int64_t run_encode(int codec, const float *x, uint8_t *out, size_t blocks) {
    return codec == INT8 ? encode_all(INT8, x, out, blocks) : encode_all(FP32, x, out, blocks);
}

KERNEL int64_t run_encode_delta(int codec, const float *anchor, const float *local, uint8_t *out, size_t blocks,
                                double *squares) {
    return codec == INT8 ? encode_delta_all(INT8, anchor, local, out, blocks, squares)
                         : encode_delta_all(FP32, anchor, local, out, blocks, squares);
}

KERNEL void run_decode(int codec, const uint8_t *enc, float *out, size_t blocks) {
    if (codec == INT8)
        decode_all(INT8, enc, out, blocks);
    else
        decode_all(FP32, enc, out, blocks);
}

KERNEL int64_t run_ring_hop(int codec, const uint8_t *incoming, const uint8_t *own, float weight,
                            const float *divisor, uint8_t *out, size_t blocks) {
    return codec == INT8 ? ring_hop_all(INT8, incoming, own, weight, divisor, out, blocks)
                         : ring_hop_all(FP32, incoming, own, weight, divisor, out, blocks);
}

KERNEL void run_outer_step(int codec, const uint8_t *update, float *theta, float *momentum, float lr, float mu,
                           size_t blocks) {
    if (codec == INT8)
        outer_step_all(INT8, update, theta, momentum, lr, mu, blocks);
    else
        outer_step_all(FP32, update, theta, momentum, lr, mu, blocks);
}

KERNEL void run_subtract_into(const float *restrict anchor, float *restrict x, size_t elements) {
    for (size_t i = 0; i < elements; i++) x[i] = anchor[i] - x[i];
}

KERNEL int run_finite(int codec, const uint8_t *enc, size_t blocks) {
    int32_t limit = codec == INT8 ? REFUSED_BITS_SCALE : REFUSED_BITS_FP32;
    int32_t most = 0;
    for (size_t b = 0; b < blocks; b++) {
        size_t codes_at, words = codec == INT8 ? 1 : BLOCK;
        const uint8_t *at = codec == INT8 ? enc + scale_at(b, blocks, &codes_at) : enc + b * FP32_BLOCK_BYTES;
        for (size_t i = 0; i < words; i++) {
            int32_t bits;
            memcpy(&bits, at + 4 * i, 4);
            bits &= MAGNITUDE_MASK;
            most = bits > most ? bits : most;
        }
    }
    return most < limit;
}

// ---- what kernels/native.py calls ----

#define ABI 1 // raised with every change below or to a codec's layout

int intellectd_native_abi(void) { return ABI; }

int64_t intellectd_native_encode(int codec, const float *x, uint8_t *out, size_t blocks) {
    fp_mode saved = enter_plain_mode();
    int64_t first = run_encode(codec, x, out, blocks);
    leave_plain_mode(saved);
    return first;
}

int64_t intellectd_native_encode_delta(int codec, const float *anchor, const float *local, uint8_t *out, size_t blocks,
                                double *squares) {
    fp_mode saved = enter_plain_mode();
    int64_t first = run_encode_delta(codec, anchor, local, out, blocks, squares);
    leave_plain_mode(saved);
    return first;
}

void intellectd_native_decode(int codec, const uint8_t *enc, float *out, size_t blocks) {
    fp_mode saved = enter_plain_mode();
    run_decode(codec, enc, out, blocks);
    leave_plain_mode(saved);
}

// `incoming` and `divisor` may be null.
int64_t intellectd_native_ring_hop(int codec, const uint8_t *incoming, const uint8_t *own, float weight,
                            const float *divisor, uint8_t *out, size_t blocks) {
    fp_mode saved = enter_plain_mode();
    int64_t first = run_ring_hop(codec, incoming, own, weight, divisor, out, blocks);
    leave_plain_mode(saved);
    return first;
}

void intellectd_native_outer_step(int codec, const uint8_t *update, float *theta, float *momentum, float lr, float mu,
                           size_t blocks) {
    fp_mode saved = enter_plain_mode();
    run_outer_step(codec, update, theta, momentum, lr, mu, blocks);
    leave_plain_mode(saved);
}

void intellectd_native_subtract_into(const float *anchor, float *x, size_t elements) {
    fp_mode saved = enter_plain_mode();
    run_subtract_into(anchor, x, elements);
    leave_plain_mode(saved);
}

int intellectd_native_finite(int codec, const uint8_t *enc, size_t blocks) { return run_finite(codec, enc, blocks); }
