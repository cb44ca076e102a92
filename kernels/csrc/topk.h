// topk: the largest 64 of each 4,096 elements, as indexes and 2-bit values. As kernels/reference/topk.py.
//
// The threshold is searched by counting, between the smallest of 64 runs' largest and the largest of all, among the
// few elements that lie there.
#include "bits.h"

#define TOPK_PER_BLOCK 4
#define TOPK_PLACES (CHUNK / BLOCK * TOPK_PER_BLOCK)
#define TOPK_LEVELS 4                                   // bytes
#define TOPK_BLOCK (TOPK_PER_BLOCK * (12 + 2) / 8)      // bytes
#define TOPK_CHUNK (TOPK_LEVELS + CHUNK / BLOCK * TOPK_BLOCK)
#define TOPK_RUN (BLOCK / TOPK_PER_BLOCK) // elements: there are as many runs as places

// What may be selected: elements that reach the smallest of the runs' largest, of which there are enough.
struct candidates {
    int32_t magnitude[CHUNK];
    uint16_t index[CHUNK];
    size_t count;
    int32_t low, most;
};

static void topk_candidates(const float *restrict t, size_t n, struct candidates *restrict found) {
    int32_t low = MAGNITUDE_MASK, most = 0;
    for (size_t run = 0; run < n; run += TOPK_RUN) {
        int32_t largest = magnitude_max(t + run, TOPK_RUN);
        most = largest > most ? largest : most;
        low = largest < low ? largest : low;
    }
    low = low < ZERO_BITS ? ZERO_BITS : low;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) { // no branch: what is not kept is overwritten
        int32_t magnitude = magnitude_of(t[i]);
        found->magnitude[count] = magnitude;
        found->index[count] = (uint16_t)i;
        count += magnitude >= low;
    }
    found->count = count, found->low = low, found->most = most;
}

INLINE size_t topk_count(const struct candidates *restrict found, int32_t threshold) {
    int32_t count = 0;
    for (size_t i = 0; i < found->count; i++) count += found->magnitude[i] >= threshold;
    return (size_t)count;
}

// The largest threshold that at least `places` candidates reach; there are more of them than places.
static int32_t topk_threshold(const struct candidates *restrict found, size_t places) {
    int32_t low = found->low, high = found->most + 1; // nothing reaches `high`
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        size_t count = topk_count(found, middle);
        if (count == places) return middle;
        if (count > places)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Indexes of the selected, rising; how many. Of those at the threshold the first are taken.
static size_t topk_select(const float *restrict t, size_t n, size_t places, uint16_t *restrict indexes) {
    struct candidates found;
    topk_candidates(t, n, &found);
    int32_t threshold = found.count > places ? topk_threshold(&found, places) : found.low;
    size_t above = topk_count(&found, threshold + 1), used = 0, equals = places - above;
    for (size_t i = 0; i < found.count && used < places; i++) {
        if (found.magnitude[i] < threshold) continue;
        if (found.magnitude[i] == threshold) {
            if (!equals) continue;
            equals--;
        }
        indexes[used++] = found.index[i];
    }
    return used;
}

static double topk_sum(double *values) { // of TOPK_PLACES, halves onto halves; leaves them changed
    for (int half = TOPK_PLACES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) values[i] = values[i] + values[i + half];
    return values[0];
}

// The mean of those that are at least `from` (or, for the lower part, below it), as bf16.
static uint16_t topk_level(const double *restrict sizes, size_t used, double from, int upper) {
    double part[TOPK_PLACES] = {0};
    int count = 0;
    for (size_t i = 0; i < used; i++) {
        int mine = (sizes[i] >= from) == upper;
        part[i] = mine ? sizes[i] : 0.0;
        count += mine;
    }
    return bf16_of((float)(topk_sum(part) / (count ? count : 1)));
}

INLINE void topk_write(const uint16_t *restrict indexes, const uint8_t *restrict codes, size_t places, uint8_t *out) {
    for (size_t i = 0; i < places; i += 2, out += 3) {
        uint32_t pair = (uint32_t)indexes[i] | (uint32_t)indexes[i + 1] << 12;
        memcpy(out, &pair, 3);
    }
    for (size_t i = 0; i < places; i += 4)
        *out++ = (uint8_t)(codes[i] | codes[i + 1] << 2 | codes[i + 2] << 4 | codes[i + 3] << 6);
}

static int64_t topk_encode(const float *restrict t, size_t n, uint8_t *out) {
    size_t places = n / TOPK_RUN, used = 0;
    uint16_t indexes[TOPK_PLACES] = {0}, levels[2] = {CANONICAL_NAN_BITS_BF16, CANONICAL_NAN_BITS_BF16};
    uint8_t codes[TOPK_PLACES] = {0};
    int32_t most = 0;
    for (size_t run = 0; run < n; run += TOPK_RUN) {
        int32_t largest = magnitude_max(t + run, TOPK_RUN);
        most = largest > most ? largest : most;
    }
    int64_t refused = most >= REFUSED_BITS_QUANTIZED ? first_refused(t, n, REFUSED_BITS_QUANTIZED) : -1;
    if (refused < 0) {
        double sizes[TOPK_PLACES] = {0}, scratch[TOPK_PLACES];
        used = topk_select(t, n, places, indexes);
        for (size_t i = 0; i < used; i++) sizes[i] = float_of(magnitude_of(t[indexes[i]]));
        memcpy(scratch, sizes, sizeof sizes);
        double mean = topk_sum(scratch) / (double)(used ? used : 1);
        for (int upper = 0; upper < 2; upper++) levels[upper] = topk_level(sizes, used, mean, upper);
        for (size_t i = 0; i < used; i++)
            codes[i] = (uint8_t)((uint32_t)bits_of(t[indexes[i]]) >> 31 | (uint32_t)(sizes[i] >= mean) << 1);
        for (size_t i = 1; i < TOPK_PLACES; i++) { // places left over repeat the last entry
            if (i < used) continue;
            indexes[i] = indexes[i - 1];
            codes[i] = codes[i - 1];
        }
    }
    memcpy(out, levels, TOPK_LEVELS);
    topk_write(indexes, codes, places, out + TOPK_LEVELS);
    return refused;
}

// Indexes and codes of a chunk; whether it keeps to the rules.
static int topk_read(const uint8_t *enc, size_t n, uint16_t *restrict indexes, uint8_t *restrict codes,
                     uint16_t *levels) {
    size_t places = n / TOPK_RUN;
    const uint8_t *in = enc + TOPK_LEVELS;
    memcpy(levels, enc, TOPK_LEVELS);
    for (size_t i = 0; i < places; i += 2, in += 3) {
        indexes[i] = (uint16_t)(in[0] | (in[1] & 15) << 8);
        indexes[i + 1] = (uint16_t)(in[1] >> 4 | in[2] << 4);
    }
    for (size_t i = 0; i < places; i++) codes[i] = (in[i / 4] >> (i % 4 * 2)) & 3;
    int good = levels[0] < INFINITY_BITS_BF16 && levels[1] < INFINITY_BITS_BF16 && indexes[places - 1] < n;
    for (size_t i = 1; i < places; i++)
        good &= indexes[i - 1] < indexes[i] || (indexes[i - 1] == indexes[i] && codes[i - 1] == codes[i]);
    return good;
}

INLINE int topk_finite(const uint8_t *enc, size_t n) {
    uint16_t indexes[TOPK_PLACES], levels[2];
    uint8_t codes[TOPK_PLACES];
    return topk_read(enc, n, indexes, codes, levels);
}

static void topk_decode(const uint8_t *enc, size_t n, float *restrict t) {
    uint16_t indexes[TOPK_PLACES], levels[2];
    uint8_t codes[TOPK_PLACES];
    if (!topk_read(enc, n, indexes, codes, levels)) {
        for (size_t i = 0; i < n; i++) t[i] = float_of(CANONICAL_NAN_BITS);
        return;
    }
    memset(t, 0, n * sizeof *t);
    for (size_t i = 0; i < n / TOPK_RUN; i++) {
        uint32_t bits = (uint32_t)levels[codes[i] >> 1] << 16 | (uint32_t)(codes[i] & 1) << 31;
        t[indexes[i]] = float_of((int32_t)bits);
    }
}
