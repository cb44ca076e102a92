// What every kernel file builds on: constants that mirror kernels/codec.py, and floats taken as integers.
//
// Plain loops that the compiler vectorizes without being allowed to reorder anything: maxima are taken over
// integers, sums halve a fixed array, multiply and add stay apart (-ffp-contract=off).
#ifndef INTELLECTD_BITS_H
#define INTELLECTD_BITS_H

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

#define INLINE static inline __attribute__((always_inline))

#define BLOCK 256
#define GROUP 16384
#define CHUNK 4096
#define SMALL_BLOCK 64
#define SMALL_BLOCKS 4
#define MAGNITUDE_MASK 0x7fffffff
#define CANONICAL_NAN_BITS 0x7fc00000
#define CANONICAL_NAN_BITS_BF16 0x7fc0
#define INFINITY_BITS_BF16 0x7f80
#define REFUSED_BITS_FP32 0x7f800000      // NaN, infinity
#define REFUSED_BITS_BF16 0x7f7f8000      // rounds to bf16's infinity
#define REFUSED_BITS_QUANTIZED 0x7f000000 // 2**127
#define ZERO_BITS 0x0d800000              // 2**-100
#define ROUNDING_MAGIC 12582912.0f        // 1.5 * 2**23

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

INLINE int32_t magnitude_of(float value) { return bits_of(value) & MAGNITUDE_MASK; }

// `n` is a constant wherever this is inlined.
INLINE int32_t magnitude_max(const float *t, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t magnitude = magnitude_of(t[i]);
        most = magnitude > most ? magnitude : most;
    }
    return most;
}

// Index of the first element at or above `limit`, -1 if none.
INLINE int64_t first_refused(const float *t, size_t n, int32_t limit) {
    for (size_t i = 0; i < n; i++)
        if (magnitude_of(t[i]) >= limit) return (int64_t)i;
    return -1;
}

// The nearest integer, halves to even, in the low bits; |value| below 2**22.
INLINE int32_t rounded(float value) { return bits_of(value + ROUNDING_MAGIC); }

INLINE uint16_t bf16_of(float value) { // no NaN
    uint32_t bits = (uint32_t)bits_of(value);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE float float_of_bf16(uint16_t bits) { return float_of((int32_t)((uint32_t)bits << 16)); }

// Where a block's head (its scales) and body (its codes) lie: a group is all heads, then all bodies.
struct place {
    size_t head, body;
};

INLINE struct place place_of(size_t at, size_t elements, size_t head_bytes, size_t body_bytes) {
    size_t first = at / GROUP * GROUP;
    size_t blocks = (elements - first < GROUP ? elements - first : GROUP) / BLOCK;
    size_t start = first / BLOCK * (head_bytes + body_bytes), index = (at - first) / BLOCK;
    struct place place = {start + index * head_bytes, start + blocks * head_bytes + index * body_bytes};
    return place;
}

#endif
