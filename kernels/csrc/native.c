// What kernels/native.py calls: one pass over a vector, on an instruction set of the caller's choice, by as many
// threads as it asks for.
//
// Threads are made for the call and gone after it: nothing outlives a fork, and making one costs some 20 us, which a
// megabyte hides. Each works on whole groups of its own; sums are kept per group and added here, in their order, so
// the number of threads changes no bit. No allocation, no state, no Python. Arguments are checked by kernels/ops.py.
#include "fp_mode.h"
#include "job.h"
#include <pthread.h>

#define GROUP_ELEMENTS 16384
#define THREADS_MAX 64 // more than saturate the memory of any host so far

static const struct instruction_set *const SETS[] = {&intellectd_baseline, &intellectd_avx2, &intellectd_avx512};
#define SETS_COUNT ((int)(sizeof SETS / sizeof *SETS))

struct share {
    pass pass;
    const struct job *job;
    size_t first, last;
    int64_t refused;
    pthread_t thread;
    int running;
};

static void *work(void *argument) {
    struct share *share = argument;
    fp_mode saved = enter_plain_mode();
    // Through a pointer, so no arithmetic can be moved across the change of mode.
    share->refused = share->pass(share->job, share->first, share->last);
    leave_plain_mode(saved);
    return NULL;
}

static size_t share_of(size_t groups, size_t number, size_t threads, size_t elements) {
    size_t at = groups * number / threads * GROUP_ELEMENTS;
    return at < elements ? at : elements;
}

int intellectd_native_abi(void) { return ABI; }

uint64_t intellectd_native_job_bytes(void) { return sizeof(struct job); }

// The name of instruction set number `set`, null beyond the last.
const char *intellectd_native_name(int set) { return set >= 0 && set < SETS_COUNT ? SETS[set]->name : NULL; }

// Whether this library has it and this CPU (and its system) can run it.
int intellectd_native_usable(int set) {
    if (set < 0 || set >= SETS_COUNT || !SETS[set]->built) return 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (SETS[set] == &intellectd_avx2) return __builtin_cpu_supports("avx2") != 0;
    if (SETS[set] == &intellectd_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return 1;
}

// Index of the first element that was refused (of FINITE: of a unit that is not), -1 if none.
int64_t intellectd_native_run(int set, int kernel, struct job *job, int threads) {
    struct share shares[THREADS_MAX];
    size_t groups = (job->elements + GROUP_ELEMENTS - 1) / GROUP_ELEMENTS;
    size_t count = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : (size_t)threads;
    if (count > groups) count = groups ? groups : 1;
    for (size_t i = 0; i < count; i++) {
        struct share share = {.pass = SETS[set]->passes[kernel], .job = job, .refused = -1};
        share.first = share_of(groups, i, count, job->elements);
        share.last = share_of(groups, i + 1, count, job->elements);
        shares[i] = share;
    }
    for (size_t i = 1; i < count; i++) shares[i].running = !pthread_create(&shares[i].thread, NULL, work, &shares[i]);
    for (size_t i = 0; i < count; i++)
        if (!shares[i].running) work(&shares[i]); // the first, and what no thread could be had for
    int64_t refused = -1;
    for (size_t i = 0; i < count; i++) {
        if (shares[i].running) pthread_join(shares[i].thread, NULL);
        if (refused < 0) refused = shares[i].refused;
    }
    job->squares_total = 0.0;
    for (size_t group = 0; job->squares && group < groups; group++) job->squares_total += job->squares[group];
    return refused;
}
