/* IPv4 packets as a TUN device with offloads gives and takes them: a virtio_net_hdr, then one header for up to 64 KiB
 * of TCP payload. Reads what a router must know of them, and cuts runs of segments out of them. */
#ifndef WAN_PACKET_H
#define WAN_PACKET_H
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>

#include "model.h"

enum { VNET_BYTES = sizeof(struct virtio_net_hdr), PACKET_BYTES_MAX = VNET_BYTES + 65535 };

/* 0, if it is an IPv4 packet that is whole: where it goes (host byte order) and its sizes. */
int packet_read(const uint8_t *packet, size_t bytes, uint32_t *to, struct sizes *sizes);

/* Writes the run's segments as a packet of their own; `out` has room for the whole packet. Returns its bytes. */
size_t packet_cut(const uint8_t *packet, size_t bytes, struct sizes sizes, struct run run, uint8_t *out);
#endif
