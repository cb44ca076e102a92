// What kernels/native.py calls: one pass over a vector, on an instruction set of the caller's choice, by as many
// threads as it asks for.
//
// Threads are made for the call and gone after it, so nothing is lost in a fork. Each takes the next few groups until
// there are none: one that is held up (a neighbour on a shared host) holds up nobody for long. Sums are kept per group
// and added here, in their order, so who took what changes no bit. No allocation, no state, no Python. Arguments are
// checked by kernels/ops.py.
#include "fp_mode.h"
#include "job.h"
#include <pthread.h>
#include <stdatomic.h>

#define GROUP_ELEMENTS 16384
#define THREADS_MAX 64 // more than saturate the memory of any host so far
#define TURNS 8        // of each thread: the last one to end is alone for an eighth of its time at most
#define BATCH_MAX 64   // groups, 4 MiB of fp32: half a millisecond

static const struct instruction_set *const SETS[] = {&intellectd_baseline, &intellectd_avx2, &intellectd_avx512};
#define SETS_COUNT ((int)(sizeof SETS / sizeof *SETS))

struct crew {
    pass pass;
    const struct job *job;
    size_t groups, batch;
    atomic_size_t next; // group
};

struct worker {
    struct crew *crew;
    int64_t refused; // the first of what it saw
    pthread_t thread;
    int running;
};

static int64_t earlier(int64_t one, int64_t other) { return one < 0 || (other >= 0 && other < one) ? other : one; }

static void *work(void *argument) {
    struct worker *worker = argument;
    struct crew *crew = worker->crew;
    fp_mode saved = enter_plain_mode();
    for (;;) {
        size_t first = atomic_fetch_add_explicit(&crew->next, crew->batch, memory_order_relaxed);
        if (first >= crew->groups) break;
        size_t last = (first + crew->batch) * GROUP_ELEMENTS, end = crew->job->elements;
        // Through a pointer, so no arithmetic can be moved across the change of mode.
        int64_t refused = crew->pass(crew->job, first * GROUP_ELEMENTS, last < end ? last : end);
        worker->refused = earlier(worker->refused, refused);
    }
    leave_plain_mode(saved);
    return NULL;
}

static size_t batch_of(size_t groups, size_t threads) {
    size_t batch = threads == 1 ? groups : groups / (threads * TURNS);
    if (threads > 1 && batch > BATCH_MAX) batch = BATCH_MAX;
    return batch ? batch : 1;
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
    struct worker workers[THREADS_MAX];
    size_t groups = (job->elements + GROUP_ELEMENTS - 1) / GROUP_ELEMENTS;
    size_t count = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : (size_t)threads;
    if (count > groups) count = groups ? groups : 1;
    struct crew crew = {.pass = SETS[set]->passes[kernel], .job = job, .groups = groups};
    crew.batch = batch_of(groups, count);
    atomic_init(&crew.next, 0);
    for (size_t i = 0; i < count; i++) workers[i] = (struct worker){.crew = &crew, .refused = -1};
    for (size_t i = 1; i < count; i++) // one that cannot be had is not missed
        workers[i].running = !pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    work(&workers[0]);
    int64_t refused = workers[0].refused;
    for (size_t i = 1; i < count; i++) {
        if (!workers[i].running) continue;
        pthread_join(workers[i].thread, NULL);
        refused = earlier(refused, workers[i].refused);
    }
    job->squares_total = 0.0;
    for (size_t group = 0; job->squares && group < groups; group++) job->squares_total += job->squares[group];
    return refused;
}
