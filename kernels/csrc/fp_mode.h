// The floating-point mode: some libraries switch flush-to-zero on for the thread that loads them.
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
typedef unsigned int fp_mode;
#define PLAIN_MODE 0x1f80u // all exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero
static inline fp_mode enter_plain_mode(void) {
    fp_mode saved = _mm_getcsr();
    _mm_setcsr(PLAIN_MODE);
    return saved;
}
static inline void leave_plain_mode(fp_mode saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
static inline fp_mode enter_plain_mode(void) {
    fp_mode saved, plain = 0; // round to nearest, no flush-to-zero, no default NaN, no traps
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved)::"memory");
    __asm__ volatile("msr fpcr, %0" ::"r"(plain) : "memory");
    return saved;
}
static inline void leave_plain_mode(fp_mode saved) { __asm__ volatile("msr fpcr, %0" ::"r"(saved) : "memory"); }
#else
typedef int fp_mode;
static inline fp_mode enter_plain_mode(void) { return 0; }
static inline void leave_plain_mode(fp_mode saved) { (void)saved; }
#endif
