// e3m0: a sign and a power of two, 64 to a scale. As kernels/reference/e3m0.py. All of it is integer arithmetic.
#include "nibbles.h"

#define E3M0_HEAD 4
#define E3M0_CODE_MAX 7
#define E3M0_SCALE_MIN 8
#define E3M0_SCALE_NAN 255
#define HALF_OCTAVE 0x400000 // of the mantissa: from 1.5 up the next power of two is nearer

INLINE uint8_t e3m0_encode_small(const float *restrict t, int32_t most, uint8_t *restrict codes) {
    if (most >= REFUSED_BITS_QUANTIZED || most < ZERO_BITS) {
        memset(codes, 0, SMALL_BLOCK);
        return most >= REFUSED_BITS_QUANTIZED ? E3M0_SCALE_NAN : 0;
    }
    int32_t scale = (most + HALF_OCTAVE) >> 23;
    int32_t bottom = scale - E3M0_CODE_MAX; // half of the smallest value: what is nearer to zero is below it
    for (int i = 0; i < SMALL_BLOCK; i++) {
        int32_t bits = bits_of(t[i]), magnitude = bits & MAGNITUDE_MASK;
        int32_t code = ((magnitude + HALF_OCTAVE) >> 23) - bottom;
        code = code > E3M0_CODE_MAX ? E3M0_CODE_MAX : code;
        code = code < 1 ? 1 : code;
        code |= (int32_t)((uint32_t)bits >> 28) & 8;
        codes[i] = (uint8_t)((magnitude >> 23) < bottom ? 0 : code);
    }
    return (uint8_t)scale;
}

INLINE int64_t e3m0_encode(const float *restrict t, uint8_t *head, uint8_t *body) {
    uint8_t codes[BLOCK];
    int32_t most_of_all = 0;
    for (int s = 0; s < SMALL_BLOCKS; s++) {
        int32_t most = magnitude_max(t + s * SMALL_BLOCK, SMALL_BLOCK);
        head[s] = e3m0_encode_small(t + s * SMALL_BLOCK, most, codes + s * SMALL_BLOCK);
        most_of_all = most > most_of_all ? most : most_of_all;
    }
    pack_nibbles(codes, body);
    return most_of_all >= REFUSED_BITS_QUANTIZED ? first_refused(t, BLOCK, REFUSED_BITS_QUANTIZED) : -1;
}

INLINE int e3m0_finite(const uint8_t *head) {
    for (int s = 0; s < SMALL_BLOCKS; s++)
        if (head[s] == E3M0_SCALE_NAN) return 0;
    return 1;
}

INLINE void e3m0_decode(const uint8_t *head, const uint8_t *body, float *restrict t) {
    uint8_t codes[BLOCK];
    unpack_nibbles(body, codes);
    for (int s = 0; s < SMALL_BLOCKS; s++) {
        float *restrict part = t + s * SMALL_BLOCK;
        const uint8_t *restrict code = codes + s * SMALL_BLOCK;
        if (head[s] == E3M0_SCALE_NAN || head[s] < E3M0_SCALE_MIN) {
            int32_t bits = head[s] == E3M0_SCALE_NAN ? CANONICAL_NAN_BITS : 0;
            for (int i = 0; i < SMALL_BLOCK; i++) part[i] = float_of(bits);
            continue;
        }
        int32_t bottom = head[s] - E3M0_CODE_MAX;
        for (int i = 0; i < SMALL_BLOCK; i++) {
            int32_t exponent = code[i] & 7;
            uint32_t bits = ((uint32_t)(bottom + exponent) << 23) | ((uint32_t)(code[i] & 8) << 28);
            part[i] = float_of(exponent ? (int32_t)bits : 0);
        }
    }
}
