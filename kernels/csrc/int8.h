// int8: an fp32 scale per block and multiples of it. As kernels/reference/int8.py.
#include "bits.h"

#define INT8_HEAD 4
#define INT8_CODE_MAX 127.0f
#define INT8_REFUSED_BITS_SCALE 0x7c000000 // 2**121

INLINE int64_t int8_encode(const float *restrict t, uint8_t *head, uint8_t *restrict codes) {
    int32_t most = magnitude_max(t, BLOCK);
    int32_t scale_bits = 0;
    if (most >= REFUSED_BITS_QUANTIZED || most < ZERO_BITS) {
        memset(codes, 0, BLOCK);
        if (most >= REFUSED_BITS_QUANTIZED) scale_bits = CANONICAL_NAN_BITS;
    } else {
        float inverse = INT8_CODE_MAX / float_of(most);
        scale_bits = bits_of(float_of(most) / INT8_CODE_MAX);
        for (int i = 0; i < BLOCK; i++) {
            float scaled = t[i] * inverse;
            codes[i] = (uint8_t)rounded(scaled);
        }
    }
    memcpy(head, &scale_bits, INT8_HEAD);
    return most >= REFUSED_BITS_QUANTIZED ? first_refused(t, BLOCK, REFUSED_BITS_QUANTIZED) : -1;
}

INLINE int int8_finite(const uint8_t *head) {
    int32_t scale_bits;
    memcpy(&scale_bits, head, INT8_HEAD);
    return (scale_bits & MAGNITUDE_MASK) < INT8_REFUSED_BITS_SCALE;
}

INLINE void int8_decode(const uint8_t *head, const uint8_t *body, float *restrict t) {
    if (!int8_finite(head)) {
        for (int i = 0; i < BLOCK; i++) t[i] = float_of(CANONICAL_NAN_BITS);
        return;
    }
    float scale;
    memcpy(&scale, head, INT8_HEAD);
    const int8_t *codes = (const int8_t *)body;
    for (int i = 0; i < BLOCK; i++) t[i] = (float)codes[i] * scale;
}
