// Two 4-bit codes to a byte, of elements 128 apart. As kernels/reference/nibbles.py.
#ifndef INTELLECTD_NIBBLES_H
#define INTELLECTD_NIBBLES_H
#include "bits.h"

#define NIBBLE_BODY (BLOCK / 2)

INLINE void pack_nibbles(const uint8_t *restrict codes, uint8_t *restrict out) {
    for (int i = 0; i < NIBBLE_BODY; i++) out[i] = (uint8_t)((codes[i] & 15) | (codes[i + NIBBLE_BODY] << 4));
}

INLINE void unpack_nibbles(const uint8_t *restrict in, uint8_t *restrict codes) {
    for (int i = 0; i < NIBBLE_BODY; i++) {
        codes[i] = in[i] & 15;
        codes[i + NIBBLE_BODY] = in[i] >> 4;
    }
}

#endif
