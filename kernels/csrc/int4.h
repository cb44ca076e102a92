// int4: a bf16 scale per 64 elements and multiples of it from -7 to 7. As kernels/reference/int4.py.
#include "nibbles.h"

#define INT4_HEAD 8
#define INT4_CODE_MAX 7.0f
#define INT4_REFUSED_BITS_SCALE 0x7e00 // 2**125

// One scale's worth: its bits, and codes in the low half of each byte.
INLINE uint16_t int4_encode_small(const float *restrict t, int32_t most, uint8_t *restrict codes) {
    if (most >= REFUSED_BITS_QUANTIZED || most < ZERO_BITS) {
        memset(codes, 0, SMALL_BLOCK);
        return most >= REFUSED_BITS_QUANTIZED ? CANONICAL_NAN_BITS_BF16 : 0;
    }
    uint16_t scale = bf16_of(float_of(most) / INT4_CODE_MAX);
    float inverse = 1.0f / float_of_bf16(scale);
    for (int i = 0; i < SMALL_BLOCK; i++) {
        float scaled = t[i] * inverse;
        codes[i] = (uint8_t)rounded(scaled);
    }
    return scale;
}

INLINE int64_t int4_encode(const float *restrict t, uint8_t *head, uint8_t *body) {
    uint16_t scales[SMALL_BLOCKS];
    uint8_t codes[BLOCK];
    int32_t most_of_all = 0;
    for (int s = 0; s < SMALL_BLOCKS; s++) {
        int32_t most = magnitude_max(t + s * SMALL_BLOCK, SMALL_BLOCK);
        scales[s] = int4_encode_small(t + s * SMALL_BLOCK, most, codes + s * SMALL_BLOCK);
        most_of_all = most > most_of_all ? most : most_of_all;
    }
    memcpy(head, scales, sizeof scales);
    pack_nibbles(codes, body);
    return most_of_all >= REFUSED_BITS_QUANTIZED ? first_refused(t, BLOCK, REFUSED_BITS_QUANTIZED) : -1;
}

INLINE int int4_finite(const uint8_t *head) {
    uint16_t scales[SMALL_BLOCKS];
    memcpy(scales, head, sizeof scales);
    for (int s = 0; s < SMALL_BLOCKS; s++)
        if ((scales[s] & 0x7fff) >= INT4_REFUSED_BITS_SCALE) return 0;
    return 1;
}

INLINE void int4_decode(const uint8_t *head, const uint8_t *body, float *restrict t) {
    uint16_t scales[SMALL_BLOCKS];
    uint8_t codes[BLOCK];
    memcpy(scales, head, sizeof scales);
    unpack_nibbles(body, codes);
    for (int s = 0; s < SMALL_BLOCKS; s++) {
        float *restrict part = t + s * SMALL_BLOCK;
        const uint8_t *restrict code = codes + s * SMALL_BLOCK;
        if ((scales[s] & 0x7fff) >= INT4_REFUSED_BITS_SCALE) {
            for (int i = 0; i < SMALL_BLOCK; i++) part[i] = float_of(CANONICAL_NAN_BITS);
            continue;
        }
        float scale = float_of_bf16(scales[s]);
        for (int i = 0; i < SMALL_BLOCK; i++) part[i] = (float)((code[i] ^ 8) - 8) * scale;
    }
}
