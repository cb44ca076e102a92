// fp32: the floats themselves. As kernels/reference/fp32.py.
#include "bits.h"

INLINE int64_t fp32_encode(const float *restrict t, uint8_t *out) {
    int32_t bits[BLOCK];
    memcpy(bits, t, sizeof bits);
    int64_t refused = -1;
    if (magnitude_max(t, BLOCK) >= REFUSED_BITS_FP32) {
        refused = first_refused(t, BLOCK, REFUSED_BITS_FP32);
        for (int i = 0; i < BLOCK; i++)
            if ((bits[i] & MAGNITUDE_MASK) >= REFUSED_BITS_FP32) bits[i] = CANONICAL_NAN_BITS;
    }
    memcpy(out, bits, sizeof bits);
    return refused;
}

INLINE void fp32_decode(const uint8_t *enc, float *restrict t) { memcpy(t, enc, sizeof(float) * BLOCK); }

INLINE int fp32_finite(const uint8_t *enc) {
    float t[BLOCK];
    fp32_decode(enc, t);
    return magnitude_max(t, BLOCK) < REFUSED_BITS_FP32;
}
