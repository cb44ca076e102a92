// One unit of any codec: 256 elements, of top-k 4,096 (fewer at the end). `codec` is a constant wherever this is
// inlined, so the choice costs nothing per unit. `at` is the unit's first element, `elements` the vector's length.
#include "ahead.h"
#include "bf16.h"
#include "e3m0.h"
#include "fp32.h"
#include "int4.h"
#include "int8.h"
#include "topk.h"

enum codec { FP32 = 0, INT8 = 1, BF16 = 2, INT4 = 3, E3M0 = 4, TOPK = 5 };

#define UNIT_MAX CHUNK

INLINE size_t unit_of(enum codec codec, size_t at, size_t elements) {
    if (codec != TOPK) return BLOCK;
    return elements - at < CHUNK ? elements - at : CHUNK;
}

// Index in the unit of the first element that was refused, -1 if none.
INLINE int64_t encode_unit(enum codec codec, const float *restrict t, uint8_t *out, size_t at, size_t elements) {
    struct place place;
    switch (codec) {
    case INT8:
        place = place_of(at, elements, INT8_HEAD, BLOCK);
        return int8_encode(t, out + place.head, out + place.body);
    case INT4:
        place = place_of(at, elements, INT4_HEAD, NIBBLE_BODY);
        return int4_encode(t, out + place.head, out + place.body);
    case E3M0:
        place = place_of(at, elements, E3M0_HEAD, NIBBLE_BODY);
        return e3m0_encode(t, out + place.head, out + place.body);
    case TOPK:
        return topk_encode(t, unit_of(TOPK, at, elements), out + at / CHUNK * TOPK_CHUNK);
    case BF16:
        return bf16_encode(t, out + at * 2);
    default:
        return fp32_encode(t, out + at * 4);
    }
}

INLINE void decode_unit(enum codec codec, const uint8_t *enc, float *restrict t, size_t at, size_t elements) {
    struct place place;
    switch (codec) {
    case INT8:
        place = place_of(at, elements, INT8_HEAD, BLOCK);
        int8_decode(enc + place.head, enc + place.body, t);
        return;
    case INT4:
        place = place_of(at, elements, INT4_HEAD, NIBBLE_BODY);
        int4_decode(enc + place.head, enc + place.body, t);
        return;
    case E3M0:
        place = place_of(at, elements, E3M0_HEAD, NIBBLE_BODY);
        e3m0_decode(enc + place.head, enc + place.body, t);
        return;
    case TOPK:
        topk_decode(enc + at / CHUNK * TOPK_CHUNK, unit_of(TOPK, at, elements), t);
        return;
    case BF16:
        bf16_decode(enc + at * 2, t);
        return;
    default:
        fp32_decode(enc + at * 4, t);
    }
}

INLINE int unit_finite(enum codec codec, const uint8_t *enc, size_t at, size_t elements) {
    switch (codec) {
    case INT8:
        return int8_finite(enc + place_of(at, elements, INT8_HEAD, BLOCK).head);
    case INT4:
        return int4_finite(enc + place_of(at, elements, INT4_HEAD, NIBBLE_BODY).head);
    case E3M0:
        return e3m0_finite(enc + place_of(at, elements, E3M0_HEAD, NIBBLE_BODY).head);
    case TOPK:
        return topk_finite(enc + at / CHUNK * TOPK_CHUNK, unit_of(TOPK, at, elements));
    case BF16:
        return bf16_finite(enc + at * 2);
    default:
        return fp32_finite(enc + at * 4);
    }
}

// Where the bytes of elements from `at` on lie, about: where scales come first, a little further on.
INLINE size_t bytes_before(enum codec codec, size_t at) {
    switch (codec) {
    case INT8:
        return at / BLOCK * (INT8_HEAD + BLOCK);
    case INT4:
        return at / BLOCK * (INT4_HEAD + NIBBLE_BODY);
    case E3M0:
        return at / BLOCK * (E3M0_HEAD + NIBBLE_BODY);
    case TOPK:
        return at / CHUNK * TOPK_CHUNK;
    case BF16:
        return at * 2;
    default:
        return at * 4;
    }
}

INLINE void soon_decoded(enum codec codec, const uint8_t *enc, size_t at) {
    SOON_READ(enc + bytes_before(codec, at), bytes_before(codec, BLOCK));
}

INLINE void soon_encoded(enum codec codec, uint8_t *out, size_t at) {
    SOON_WRITTEN(out + bytes_before(codec, at), bytes_before(codec, BLOCK));
}
