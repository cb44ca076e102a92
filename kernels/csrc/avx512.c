// The passes for x86-64 with AVX-512 (F, BW, DQ, VL: every server since 2017 that has any of it).
#include "job.h"
#include <string.h>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#include "passes.h"
const struct instruction_set intellectd_avx512 = {"avx512", 1, PASSES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
const struct instruction_set intellectd_avx512 = {"avx512", 0, {0}};
#endif
