// The passes for whatever the compiler takes for granted: SSE2 on x86-64, NEON on 64-bit ARM.
#include "passes.h"

#if defined(__aarch64__)
#define NAME "neon"
#else
#define NAME "baseline"
#endif

const struct instruction_set intellectd_baseline = {NAME, 1, PASSES};
