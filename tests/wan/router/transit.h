/* Packets on their way: what the model lets through, kept until it is due. Owns the packets' memory and its bound. */
#ifndef WAN_TRANSIT_H
#define WAN_TRANSIT_H
#include "model.h"
#include "packet.h"

/* Of the emulator itself, not of the network: when one of them is not zero, it was not the network that it says. */
struct faults {
    uint64_t no_room;  /* runs dropped since TRANSIT_BYTES_MAX were on their way */
    uint64_t refused;  /* runs that the receiving kernel did not take */
    uint64_t late[40]; /* runs handed over 2^(i-1) to 2^i microseconds after they were due; [0]: under one */
};

struct transit;

/* Hands a packet to host `to`; 0 if its kernel took it. */
typedef int deliver(void *context, uint32_t to, const uint8_t *packet, size_t bytes);

struct transit *transit_new(struct wan *wan, uint32_t hosts); /* NULL: no memory */
void transit_send(struct transit *transit, uint32_t from, uint32_t to, double now, const uint8_t *packet, size_t bytes,
                  struct sizes sizes);
/* Some of what is due; transit_next says whether there is more. */
void transit_run(struct transit *transit, double now, deliver *deliver, void *context);
double transit_next(const struct transit *transit); /* when something is due; infinity: nothing is on its way */
struct faults *transit_faults(struct transit *transit);
#endif
