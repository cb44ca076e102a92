/* One process that is the network between namespaces: `router CONTROL HOSTS INNER OFFLOADS SEED`.
 *
 * Makes HOSTS namespaces with a TUN device each, the hosts' doors to the network, and INNER more without one, for hosts
 * that stand behind a NAT. Then carries packets, and obeys one command a line on the descriptor CONTROL, each of which it answers
 * with a line when it is in effect:
 *
 *     port HOST up|down RATE QUEUE                           a host's own link; bytes a second, bytes
 *     path FROM TO DELAY JITTER RATE QUEUE LOSS OPEN         of an ordered pair; seconds, a probability, 0 or 1
 *     counts                                                 what became of the packets, as JSON
 *
 * When the other end of it is closed, or the process that started it is gone, it kills whoever lives in its
 * namespaces and ends, and with it they do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "places.h"
#include "transit.h"

enum { READS = 32, LINE_BYTES_MAX = 4096, PLACES_MAX = 2 * HOSTS_MAX };
static const uint32_t NETWORK = 0xc6120000; /* 198.18.0.0/24, host n is .n+1: set aside for tests (RFC 2544) */
static const double WAIT_S_MAX = 3600;

struct router {
    uint32_t hosts, inner;
    int control, epoll, places[PLACES_MAX], tuns[HOSTS_MAX];
    struct wan *wan;
    struct transit *transit;
    uint8_t packet[PACKET_BYTES_MAX];
    char line[LINE_BYTES_MAX];
    size_t line_bytes;
    uint64_t not_ours; /* packets to nobody: multicast, other networks */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int hand_over(void *context, uint32_t to, const uint8_t *packet, size_t bytes)
{
    const struct router *router = context;
    return write(router->tuns[to], packet, bytes) == (ssize_t)bytes ? 0 : -1;
}

static void take(struct router *router, uint32_t from)
{
    for (int i = 0; i < READS; i++) {
        ssize_t bytes = read(router->tuns[from], router->packet, sizeof router->packet);
        if (bytes <= 0)
            return;
        uint32_t address;
        struct sizes sizes;
        if (packet_read(router->packet, (size_t)bytes, &address, &sizes) || address - NETWORK - 1 >= router->hosts) {
            router->not_ours++;
            continue;
        }
        transit_send(router->transit, from, address - NETWORK - 1, now_s(), router->packet, (size_t)bytes, sizes);
    }
}

static void print_counts(const struct router *router, FILE *out)
{
    struct faults *faults = transit_faults(router->transit);
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    fprintf(out, "{\"cpu_s\": %.6f, \"no_room\": %lu, \"refused\": %lu, \"not_ours\": %lu, \"late\": [",
            (double)cpu.tv_sec + 1e-9 * (double)cpu.tv_nsec, faults->no_room, faults->refused, router->not_ours);
    for (int i = 0; i < 40; i++)
        fprintf(out, "%s%lu", i ? ", " : "", faults->late[i]);
    fprintf(out, "], \"paths\": [");
    const char *separator = "";
    for (uint32_t i = 0; i < router->hosts * router->hosts; i++) {
        const struct counts *c = wan_counts(router->wan, i / router->hosts, i % router->hosts);
        if (!c->sent)
            continue;
        fprintf(out,
                "%s{\"from\": %u, \"to\": %u, \"sent\": %lu, \"bytes_sent\": %lu, \"uplink_full\": %lu, "
                "\"path_full\": %lu, \"lost\": %lu, \"cut\": %lu, \"downlink_full\": %lu, \"arrived\": %lu, "
                "\"bytes_arrived\": %lu}",
                separator, i / router->hosts, i % router->hosts, c->sent, c->bytes_sent, c->uplink_full, c->path_full,
                c->lost, c->cut, c->downlink_full, c->arrived, c->bytes_arrived);
        separator = ", ";
    }
    fprintf(out, "]}\n");
}

static void answer(struct router *router, const char *line, FILE *out)
{
    uint32_t host, to;
    char which[8];
    int open;
    double delay, jitter, rate, queue, loss, now = now_s();
    if (sscanf(line, "port %u %7s %lf %lf", &host, which, &rate, &queue) == 4 && host < router->hosts) {
        wan_set_port(router->wan, host, !strcmp(which, "down"), rate, queue, now);
        fprintf(out, "done\n");
    } else if (sscanf(line, "path %u %u %lf %lf %lf %lf %lf %d", &host, &to, &delay, &jitter, &rate, &queue, &loss,
                      &open) == 8 &&
               host < router->hosts && to < router->hosts) {
        wan_set_path(router->wan, host, to, delay, jitter, rate, queue, loss, open, now);
        fprintf(out, "done\n");
    } else if (!strcmp(line, "counts")) {
        print_counts(router, out);
    } else {
        fprintf(out, "what is %s\n", line);
    }
}

/* 0: the other end is closed. */
static int obey(struct router *router, FILE *out)
{
    ssize_t bytes = read(router->control, router->line + router->line_bytes, sizeof router->line - 1 - router->line_bytes);
    if (bytes <= 0)
        return bytes < 0 && (errno == EINTR || errno == EAGAIN);
    router->line_bytes += (size_t)bytes;
    router->line[router->line_bytes] = 0;
    char *rest = router->line;
    for (char *end; (end = strchr(rest, '\n')); rest = end + 1) {
        *end = 0;
        answer(router, rest, out);
    }
    router->line_bytes = strlen(rest);
    memmove(router->line, rest, router->line_bytes);
    return !fflush(out) && router->line_bytes < sizeof router->line - 1;
}

static int watch(const struct router *router, int descriptor, uint32_t as)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = as};
    return epoll_ctl(router->epoll, EPOLL_CTL_ADD, descriptor, &event);
}

static void carry(struct router *router, FILE *out)
{
    struct epoll_event ready[HOSTS_MAX + 2];
    for (;;) {
        double wait = transit_next(router->transit) - now_s();
        wait = wait < 0 ? 0 : wait < WAIT_S_MAX ? wait : WAIT_S_MAX;
        struct timespec until = {(time_t)wait, (long)((wait - floor(wait)) * 1e9)};
        int count = epoll_pwait2(router->epoll, ready, HOSTS_MAX + 2, &until, NULL);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.u32 < router->hosts)
                take(router, ready[i].data.u32);
            else if (ready[i].data.u32 > router->hosts || !obey(router, out))
                return;
        }
        transit_run(router->transit, now_s(), hand_over, router);
    }
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int build(struct router *router, int offloads, uint64_t seed)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return fail("/proc/self/ns/net");
    for (uint32_t i = 0; i < router->hosts + router->inner; i++)
        if ((router->places[i] = place_make(home)) < 0)
            return fail("cannot make a network namespace");
    for (uint32_t i = 0; i < router->hosts; i++)
        if ((router->tuns[i] = place_tun(router->places[i], home, offloads)) < 0)
            return fail("cannot make a TUN device");
    router->wan = wan_new(router->hosts, seed);
    router->transit = router->wan ? transit_new(router->wan, router->hosts) : NULL;
    if (!router->transit)
        return fail("no memory");
    router->epoll = epoll_create1(EPOLL_CLOEXEC);
    int starter = (int)syscall(SYS_pidfd_open, getppid(), 0);
    if (starter < 0 || watch(router, starter, router->hosts + 1) || watch(router, router->control, router->hosts))
        return fail("cannot watch who started this");
    for (uint32_t i = 0; i < router->hosts; i++)
        if (watch(router, router->tuns[i], i))
            return fail("cannot watch a TUN device");
    return 0;
}

int main(int argc, char **argv)
{
    static struct router router;
    if (argc != 6)
        return 2;
    router.control = atoi(argv[1]);
    router.hosts = (uint32_t)atoi(argv[2]);
    router.inner = (uint32_t)atoi(argv[3]);
    if (!router.hosts || router.hosts > HOSTS_MAX || router.inner > HOSTS_MAX)
        return 2;
    int ignored[] = {SIGPIPE, SIGINT, SIGTERM, SIGHUP}; /* it lives as long as who started it, and cleans up then */
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    mallopt(M_MMAP_THRESHOLD, 1 << 30); /* what was used once is used again: a page fault costs more than a packet */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    struct sched_param first = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &first); /* who comes late is no network; where it is refused, lateness tells */
    FILE *out = fdopen(dup(router.control), "w");
    if (!out || build(&router, atoi(argv[4]), strtoull(argv[5], NULL, 10)))
        return 1;
    fprintf(out, "places");
    for (uint32_t i = 0; i < router.hosts + router.inner; i++)
        fprintf(out, " %d", router.places[i]);
    fprintf(out, "\n");
    if (!fflush(out))
        carry(&router, out);
    places_clear(router.places, (int)(router.hosts + router.inner), getppid());
    return 0;
}
