// Asking for memory before it is needed. The processor's own prefetcher stops at each 4 KiB page, and a block is worked
// through in less time than memory takes to answer.
#ifndef INTELLECTD_AHEAD_H
#define INTELLECTD_AHEAD_H

#include <stddef.h>

#ifndef AHEAD_BYTES
#define AHEAD_BYTES 4096 // measured (see the log in kernels/README.md); past a vector's end it does nothing
#endif
#define LINE_BYTES 64

#define SOON_READ(from, bytes)                                                                                        \
    for (size_t line_ = 0; line_ < (bytes); line_ += LINE_BYTES)                                                      \
    __builtin_prefetch((const char *)(from) + AHEAD_BYTES + line_, 0, 3)
#define SOON_WRITTEN(from, bytes)                                                                                     \
    for (size_t line_ = 0; line_ < (bytes); line_ += LINE_BYTES)                                                      \
    __builtin_prefetch((const char *)(from) + AHEAD_BYTES + line_, 1, 3)

#endif
