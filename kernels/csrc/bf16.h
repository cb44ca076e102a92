// bf16: the upper halves of the floats, rounded half to even. As kernels/reference/bf16.py.
#include "bits.h"

INLINE int64_t bf16_encode(const float *restrict t, uint8_t *out) {
    uint16_t half[BLOCK];
    for (int i = 0; i < BLOCK; i++) half[i] = bf16_of(t[i]);
    int64_t refused = -1;
    if (magnitude_max(t, BLOCK) >= REFUSED_BITS_BF16) {
        refused = first_refused(t, BLOCK, REFUSED_BITS_BF16);
        for (int i = 0; i < BLOCK; i++)
            if (magnitude_of(t[i]) >= REFUSED_BITS_BF16) half[i] = CANONICAL_NAN_BITS_BF16;
    }
    memcpy(out, half, sizeof half);
    return refused;
}

INLINE void bf16_decode(const uint8_t *enc, float *restrict t) {
    uint16_t half[BLOCK];
    memcpy(half, enc, sizeof half);
    for (int i = 0; i < BLOCK; i++) t[i] = float_of_bf16(half[i]);
}

INLINE int bf16_finite(const uint8_t *enc) {
    float t[BLOCK];
    bf16_decode(enc, t);
    return magnitude_max(t, BLOCK) < REFUSED_BITS_FP32;
}
