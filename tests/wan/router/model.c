#include "model.h"

#include <stdlib.h>

/* Segments that leave a link within so long travel on as one run: it bounds how bursty the emulator makes a flow, and
 * how many packets a second it must handle for one (4000, whatever the rate). Half a per cent of a 50 ms round trip. */
static const double RUN_S = 250e-6;

/* Jitter is drawn anew so often and goes in a straight line from one draw to the next: neighbouring packets share it,
 * as they share the queues of a real path, and it is not smoothed away where packets are dense. */
static const double JITTER_PERIOD_S = 0.020;

struct link {
    double rate, queue_bytes; /* rate 0: infinite */
    double free;              /* when everything that was let in will have left */
};

struct path {
    struct link link;
    double delay_s, jitter_s, loss;
    int open;
    uint64_t random;
    double wander_from, wander_to, wander_since; /* jitter, as shares of jitter_s */
    double last_due;                             /* a path keeps the order */
    struct counts counts;
};

struct wan {
    uint32_t hosts;
    struct link *up, *down;
    struct path *paths;
};

static double draw(uint64_t *state) /* splitmix64 (Steele, Lea, Flood 2014); uniform in [0, 1) */
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

void wan_free(struct wan *wan)
{
    if (wan) {
        free(wan->up);
        free(wan->down);
        free(wan->paths);
        free(wan);
    }
}

struct wan *wan_new(uint32_t hosts, uint64_t seed)
{
    struct wan *wan = calloc(1, sizeof *wan);
    if (!wan || hosts > HOSTS_MAX) {
        free(wan);
        return NULL;
    }
    wan->hosts = hosts;
    wan->up = calloc(hosts, sizeof *wan->up);
    wan->down = calloc(hosts, sizeof *wan->down);
    wan->paths = calloc((size_t)hosts * hosts, sizeof *wan->paths);
    if (!wan->up || !wan->down || !wan->paths) {
        wan_free(wan);
        return NULL;
    }
    uint64_t state = seed;
    for (uint32_t i = 0; i < hosts * hosts; i++) {
        struct path *path = wan->paths + i;
        path->open = 1;
        draw(&state);
        path->random = state * 0xd1342543de82ef95u + i; /* each path draws alone, whoever else sends */
        path->wander_from = draw(&path->random);
        path->wander_to = draw(&path->random);
    }
    return wan;
}

static struct path *path_of(const struct wan *wan, uint32_t from, uint32_t to)
{
    return wan->paths + (size_t)from * wan->hosts + to;
}

const struct counts *wan_counts(const struct wan *wan, uint32_t from, uint32_t to)
{
    return &path_of(wan, from, to)->counts;
}

static void set_link(struct link *link, double rate, double queue_bytes, double now)
{
    if (link->free > now && link->rate > 0 && rate > 0)
        link->free = now + (link->free - now) * link->rate / rate; /* what waits leaves at the new rate */
    else if (rate <= 0)
        link->free = now;
    link->rate = rate;
    link->queue_bytes = queue_bytes;
}

void wan_set_port(struct wan *wan, uint32_t host, int down, double rate, double queue_bytes, double now)
{
    set_link((down ? wan->down : wan->up) + host, rate, queue_bytes, now);
}

void wan_set_path(struct wan *wan, uint32_t from, uint32_t to, double delay_s, double jitter_s, double rate,
                  double queue_bytes, double loss, int open, double now)
{
    struct path *path = path_of(wan, from, to);
    set_link(&path->link, rate, queue_bytes, now);
    path->delay_s = delay_s;
    path->jitter_s = jitter_s;
    path->loss = loss;
    path->open = open;
}

/* When the segment will have left the link, or -1: the queue was full. */
static double pass(struct link *link, double at, uint32_t bytes)
{
    if (link->rate <= 0)
        return at;
    if (link->free < at)
        link->free = at;
    if ((link->free - at) * link->rate > link->queue_bytes)
        return -1;
    link->free += bytes / link->rate;
    return link->free;
}

static double jitter(struct path *path, double at)
{
    if (path->jitter_s <= 0)
        return 0;
    double passed = at - path->wander_since;
    if (passed >= JITTER_PERIOD_S) {
        path->wander_from = passed < 2 * JITTER_PERIOD_S ? path->wander_to : draw(&path->random);
        path->wander_to = draw(&path->random);
        path->wander_since = passed < 2 * JITTER_PERIOD_S ? path->wander_since + JITTER_PERIOD_S : at;
        passed = at - path->wander_since;
    }
    double share = passed / JITTER_PERIOD_S;
    return path->jitter_s * (path->wander_from + (path->wander_to - path->wander_from) * share);
}

uint32_t wan_segments(struct sizes sizes)
{
    return sizes.segment && sizes.payload ? (sizes.payload + sizes.segment - 1) / sizes.segment : 1;
}

static uint32_t bytes_of(struct sizes sizes, uint32_t number)
{
    uint32_t before = sizes.segment * number, left = sizes.payload - before;
    return sizes.header + (sizes.segment && left > sizes.segment ? sizes.segment : left);
}

/* Takes a segment along in the last run, or in a new one after a gap or when the last is long enough. */
static void add(struct run *runs, uint32_t *count, uint32_t number, double due)
{
    struct run *last = *count ? runs + *count - 1 : NULL;
    if (last && last->first + last->count == number) {
        double spread = last->spread + (due - last->due);
        if (spread <= RUN_S) {
            last->count++;
            last->due = due;
            last->spread = spread;
            return;
        }
    }
    runs[(*count)++] = (struct run){number, 1, due, 0};
}

uint32_t wan_send(struct wan *wan, uint32_t from, uint32_t to, double now, struct sizes sizes, struct run *runs)
{
    struct path *path = path_of(wan, from, to);
    struct counts *counts = &path->counts;
    uint32_t count = 0, segments = wan_segments(sizes);
    if (segments > RUNS_MAX)
        segments = RUNS_MAX;
    for (uint32_t number = 0; number < segments; number++) {
        uint32_t bytes = bytes_of(sizes, number);
        counts->sent++;
        counts->bytes_sent += bytes;
        double at = pass(wan->up + from, now, bytes);
        if (at < 0) {
            counts->uplink_full++;
            continue;
        }
        if (!path->open) {
            counts->cut++;
            continue;
        }
        at = pass(&path->link, at, bytes);
        if (at < 0) {
            counts->path_full++;
            continue;
        }
        if (path->loss > 0 && draw(&path->random) < path->loss) {
            counts->lost++;
            continue;
        }
        at += path->delay_s + jitter(path, at);
        if (at < path->last_due)
            at = path->last_due;
        path->last_due = at;
        add(runs, &count, number, at);
    }
    return count;
}

uint32_t wan_receive(struct wan *wan, uint32_t from, uint32_t to, struct run came, struct sizes sizes,
                     struct run *runs)
{
    struct counts *counts = &path_of(wan, from, to)->counts;
    uint32_t count = 0;
    double step = came.count > 1 ? came.spread / (came.count - 1) : 0;
    for (uint32_t n = 0; n < came.count; n++) {
        uint32_t number = came.first + n, bytes = bytes_of(sizes, number);
        double at = pass(wan->down + to, came.due - came.spread + step * n, bytes);
        if (at < 0) {
            counts->downlink_full++;
            continue;
        }
        counts->arrived++;
        counts->bytes_arrived += bytes;
        add(runs, &count, number, at < came.due ? came.due : at); /* nobody can hand it over earlier */
    }
    return count;
}
