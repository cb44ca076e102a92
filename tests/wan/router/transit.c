#include "transit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* 1 Gbit/s for 8 s, or 64 hosts at 100 Mbit/s over 200 ms with queues as long: more than one machine can route. */
static const size_t TRANSIT_BYTES_MAX = (size_t)1 << 30;

enum { STEPS = 64 }; /* between two looks at the clock and at what was sent meanwhile */

struct item {
    struct item *next;
    struct run run;
    struct sizes sizes; /* of this packet alone: run.first is 0 */
    uint32_t from, to, bytes;
    uint8_t packet[];
};

struct queue {
    struct item *head, *tail;
    int arriving; /* through the downlink already */
};

/* A queue for each path and one for each downlink, all in order of time, under a heap of those that are not empty. */
struct transit {
    struct wan *wan;
    struct queue *queues, **heap;
    uint32_t hosts, heap_count;
    size_t bytes;
    struct faults faults;
    struct run runs[RUNS_MAX];
};

struct transit *transit_new(struct wan *wan, uint32_t hosts)
{
    size_t paths = (size_t)hosts * hosts, count = paths + hosts;
    struct transit *transit = calloc(1, sizeof *transit);
    if (!transit)
        return NULL;
    transit->wan = wan;
    transit->hosts = hosts;
    transit->queues = calloc(count, sizeof *transit->queues);
    transit->heap = calloc(count, sizeof *transit->heap);
    if (!transit->queues || !transit->heap)
        return NULL;
    for (size_t i = paths; i < count; i++)
        transit->queues[i].arriving = 1;
    return transit;
}

struct faults *transit_faults(struct transit *transit)
{
    return &transit->faults;
}

static double due(const struct queue *queue)
{
    return queue->head->run.due;
}

double transit_next(const struct transit *transit)
{
    return transit->heap_count ? due(transit->heap[0]) : INFINITY;
}

static void sift_up(struct queue **heap, uint32_t at)
{
    struct queue *moved = heap[at];
    for (; at && due(moved) < due(heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = moved;
}

static void sift_down(struct queue **heap, uint32_t count)
{
    struct queue *moved = heap[0];
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && due(heap[child + 1]) < due(heap[child]))
            child++;
        if (due(moved) <= due(heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void push(struct transit *transit, struct queue *queue, struct item *item)
{
    item->next = NULL;
    if (queue->head) {
        queue->tail->next = item;
        queue->tail = item;
    } else {
        queue->head = queue->tail = item;
        transit->heap[transit->heap_count] = queue;
        sift_up(transit->heap, transit->heap_count++);
    }
}

static struct item *pop(struct transit *transit) /* the first of the queue whose first is due first */
{
    struct queue *queue = transit->heap[0];
    struct item *item = queue->head;
    queue->head = item->next;
    if (!queue->head)
        transit->heap[0] = transit->heap[--transit->heap_count];
    if (transit->heap_count)
        sift_down(transit->heap, transit->heap_count);
    return item;
}

/* A packet of the run alone, in a queue. */
static void keep(struct transit *transit, struct queue *queue, uint32_t from, uint32_t to, const uint8_t *packet,
                 size_t bytes, struct sizes sizes, struct run run)
{
    struct item *item = NULL;
    uint32_t segments = wan_segments(sizes), skipped = run.first * sizes.segment;
    uint32_t payload = run.first + run.count == segments ? sizes.payload - skipped : run.count * sizes.segment;
    size_t room = VNET_BYTES + sizes.header + payload;
    if (transit->bytes + room <= TRANSIT_BYTES_MAX)
        item = malloc(sizeof *item + room);
    if (!item) {
        transit->faults.no_room++;
        return;
    }
    item->bytes = (uint32_t)packet_cut(packet, bytes, sizes, run, item->packet);
    item->sizes = (struct sizes){sizes.header, payload, sizes.segment};
    item->run = (struct run){0, run.count, run.due, run.spread};
    item->from = from;
    item->to = to;
    transit->bytes += item->bytes;
    push(transit, queue, item);
}

void transit_send(struct transit *transit, uint32_t from, uint32_t to, double now, const uint8_t *packet, size_t bytes,
                  struct sizes sizes)
{
    uint32_t count = wan_send(transit->wan, from, to, now, sizes, transit->runs);
    struct queue *queue = transit->queues + (size_t)from * transit->hosts + to;
    for (uint32_t i = 0; i < count; i++)
        keep(transit, queue, from, to, packet, bytes, sizes, transit->runs[i]);
}

static void hand_over(struct transit *transit, const struct item *item, double now, deliver *deliver, void *context)
{
    double late_us = (now - item->run.due) * 1e6;
    int power = late_us < 1 ? 0 : 1 + (int)log2(late_us);
    transit->faults.late[power < 39 ? power : 39]++;
    if (deliver(context, item->to, item->packet, item->bytes))
        transit->faults.refused++;
}

/* 1: the packet goes on as it is, in the queue of the downlink. */
static int arrive(struct transit *transit, struct item *item)
{
    struct queue *queue = transit->queues + (size_t)transit->hosts * transit->hosts + item->to;
    uint32_t count = wan_receive(transit->wan, item->from, item->to, item->run, item->sizes, transit->runs);
    if (count == 1 && transit->runs[0].count == item->run.count) {
        item->run = transit->runs[0];
        push(transit, queue, item);
        return 1;
    }
    for (uint32_t i = 0; i < count; i++)
        keep(transit, queue, item->from, item->to, item->packet, item->bytes, item->sizes, transit->runs[i]);
    return 0;
}

void transit_run(struct transit *transit, double now, deliver *deliver, void *context)
{
    for (int i = 0; i < STEPS && transit_next(transit) <= now; i++) {
        int arriving = transit->heap[0]->arriving;
        struct item *item = pop(transit);
        if (arriving)
            hand_over(transit, item, now, deliver, context);
        else if (arrive(transit, item))
            continue;
        transit->bytes -= item->bytes;
        free(item);
    }
}
