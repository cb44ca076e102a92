// The passes for x86-64 with AVX2. Not FMA: a fused multiply-add has other bits.
#include "job.h"
#include <string.h>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#include "passes.h"
const struct instruction_set intellectd_avx2 = {"avx2", 1, PASSES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
const struct instruction_set intellectd_avx2 = {"avx2", 0, {0}};
#endif
