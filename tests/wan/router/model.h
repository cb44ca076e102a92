/* The network as arithmetic: when, and whether, each segment of a packet arrives. No clock, no file, no packet bytes.
 *
 * A packet goes from host to host through three places. The sender's uplink and the path between the two (ordered)
 * hosts are met at the moment it is sent, the receiver's downlink when it gets there:
 *
 *     uplink (rate, queue) -> path (rate, queue, loss, delay, jitter) -> downlink (rate, queue)
 *
 * Each rate is a link that serialises first in, first out, with a drop-tail queue of so many bytes before it. Times are
 * seconds of any one clock, rates bytes a second (0: infinite), sizes bytes of IP packets.
 */
#ifndef WAN_MODEL_H
#define WAN_MODEL_H
#include <stdint.h>

enum { HOSTS_MAX = 64, RUNS_MAX = 2048 };

/* A packet as the kernel hands it over: one header that stands for all of its segments (TCP segmentation offload).
 * segment: payload bytes of each but the last; 0: the packet is one segment. */
struct sizes {
    uint32_t header, payload, segment;
};

/* Neighbouring segments that travel on together. due: when the last is there; spread: how long before it the first
 * was. */
struct run {
    uint32_t first, count;
    double due, spread;
};

/* Segments by what became of them. */
struct counts {
    uint64_t sent, bytes_sent, uplink_full, path_full, lost, cut, downlink_full, arrived, bytes_arrived;
};

struct wan;

struct wan *wan_new(uint32_t hosts, uint64_t seed); /* every rate infinite, every delay 0; NULL: no memory */
void wan_free(struct wan *wan);
void wan_set_port(struct wan *wan, uint32_t host, int down, double rate, double queue_bytes, double now);
void wan_set_path(struct wan *wan, uint32_t from, uint32_t to, double delay_s, double jitter_s, double rate,
                  double queue_bytes, double loss, int open, double now);

/* What of a packet that `from` sends now reaches the downlink of `to`: the number of runs, in order, at most RUNS_MAX.
 * Called with times that do not fall. */
uint32_t wan_send(struct wan *wan, uint32_t from, uint32_t to, double now, struct sizes sizes, struct run *runs);

/* What of a run that reaches the downlink of `to` gets through it; runs count from the first of that packet. Called
 * in the order of the runs' due times. */
uint32_t wan_receive(struct wan *wan, uint32_t from, uint32_t to, struct run came, struct sizes sizes,
                     struct run *runs);

const struct counts *wan_counts(const struct wan *wan, uint32_t from, uint32_t to);
uint32_t wan_segments(struct sizes sizes);
#endif
