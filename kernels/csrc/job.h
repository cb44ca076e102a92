// What a call asks for. Mirrored by kernels/native.py, which compares ABI and the size of `struct job`.
#ifndef INTELLECTD_JOB_H
#define INTELLECTD_JOB_H

#include <stddef.h>
#include <stdint.h>

#define ABI 2 // raised with every change of this file, of the bits or of a codec's layout

enum kernel { ENCODE, ENCODE_DELTA, DECODE, DECODE_ADD, ENCODE_MEAN, RING_HOP, OUTER_STEP, SUBTRACT, FINITE, KERNELS };
enum optimizer { NESTEROV, AVERAGE, DELAYED, DELAYED_TURN };

struct job {
    const float *x;          // encode; of a delta the anchor; of a mean the sum; of a subtraction the anchor
    const float *y;          // of a delta what is local
    const float *error;      // feedback, or null
    float *residual;
    const uint8_t *enc;      // what is decoded; of a ring hop this host's own
    const uint8_t *incoming; // of a ring hop, or null
    uint8_t *out;            // what is encoded
    float *total;            // decode: the result; decode_add: the sum; subtract: x
    float *theta, *momentum, *gathered;
    double *squares;         // one sum per group, zero before
    uint64_t elements;       // a multiple of 256
    double squares_total;    // set by the call: the groups' sums, in their order
    float weight, decay, divisor, lr, mu, delay;
    int32_t codec, optimizer, divides;
};

// Elements [first, last): whole groups, but for the vector's end. Index of the first refused element, -1 if none.
typedef int64_t (*pass)(const struct job *job, size_t first, size_t last);

// The passes compiled for one instruction set. `built`: whether this library has it.
struct instruction_set {
    const char *name;
    int built;
    pass passes[KERNELS];
};

extern const struct instruction_set intellectd_baseline, intellectd_avx2, intellectd_avx512;

#endif
