#include "packet.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

/* Offsets and flags of RFC 791 and RFC 9293. */
enum { IP_TOTAL = 2, IP_ID = 4, IP_PROTOCOL = 9, IP_CHECK = 10, IP_FROM = 12, IP_TO = 16, IP_BYTES = 20 };
enum { TCP_SEQUENCE = 4, TCP_DATA_AT = 12, TCP_FLAGS = 13, TCP_CHECK = 16, TCP_BYTES = 20 };
enum { FIN = 0x01, PUSH = 0x08, CONGESTION_REDUCED = 0x80 };

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t sum(const uint8_t *at, size_t bytes, uint32_t so_far)
{
    for (size_t i = 0; i + 1 < bytes; i += 2)
        so_far += get16(at + i);
    return so_far;
}

static uint32_t fold(uint32_t total)
{
    total = (total & 0xffff) + (total >> 16);
    return (total & 0xffff) + (total >> 16);
}

int packet_read(const uint8_t *packet, size_t bytes, uint32_t *to, struct sizes *sizes)
{
    const uint8_t *ip = packet + VNET_BYTES;
    if (bytes < VNET_BYTES + IP_BYTES || ip[0] >> 4 != 4)
        return -1;
    uint32_t address, whole = (uint32_t)(bytes - VNET_BYTES), ip_bytes = 4u * (ip[0] & 15);
    struct virtio_net_hdr vnet;
    memcpy(&vnet, packet, sizeof vnet);
    memcpy(&address, ip + IP_TO, 4);
    *to = ntohl(address);
    *sizes = (struct sizes){0, whole, 0};
    if (vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return 0;
    if (vnet.gso_type != VIRTIO_NET_HDR_GSO_TCPV4 || ip[IP_PROTOCOL] != IPPROTO_TCP || !vnet.gso_size ||
        ip_bytes < IP_BYTES || whole < ip_bytes + TCP_BYTES)
        return -1;
    uint32_t header = ip_bytes + 4u * (ip[ip_bytes + TCP_DATA_AT] >> 4);
    if (whole <= header)
        return -1;
    *sizes = (struct sizes){header, whole - header, vnet.gso_size};
    return 0;
}

size_t packet_cut(const uint8_t *packet, size_t bytes, struct sizes sizes, struct run run, uint8_t *out)
{
    uint32_t segments = wan_segments(sizes);
    if (run.count == segments) {
        memcpy(out, packet, bytes);
        return bytes;
    }
    uint32_t skipped = run.first * sizes.segment, left = sizes.payload - skipped;
    uint32_t payload = run.first + run.count == segments ? left : run.count * sizes.segment;
    memcpy(out, packet, VNET_BYTES + sizes.header);
    memcpy(out + VNET_BYTES + sizes.header, packet + VNET_BYTES + sizes.header + skipped, payload);

    struct virtio_net_hdr vnet;
    memcpy(&vnet, out, sizeof vnet);
    if (run.count == 1) {
        vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
        vnet.gso_size = vnet.hdr_len = 0;
    }
    memcpy(out, &vnet, sizeof vnet);

    uint8_t *ip = out + VNET_BYTES, *tcp = ip + 4 * (ip[0] & 15);
    put16(ip + IP_TOTAL, sizes.header + payload);
    put16(ip + IP_ID, get16(ip + IP_ID) + run.first);
    put16(ip + IP_CHECK, 0);
    put16(ip + IP_CHECK, ~fold(sum(ip, (size_t)(tcp - ip), 0)));

    uint32_t sequence;
    memcpy(&sequence, tcp + TCP_SEQUENCE, 4);
    sequence = htonl(ntohl(sequence) + skipped);
    memcpy(tcp + TCP_SEQUENCE, &sequence, 4);
    if (run.first + run.count != segments)
        tcp[TCP_FLAGS] &= (uint8_t) ~(FIN | PUSH);
    if (run.first)
        tcp[TCP_FLAGS] &= (uint8_t)~CONGESTION_REDUCED;
    /* Left to the offload, the field holds the sum of the pseudo header alone. */
    uint32_t tcp_bytes = sizes.header - (uint32_t)(tcp - ip) + payload;
    put16(tcp + TCP_CHECK, fold(sum(ip + IP_FROM, 8, IPPROTO_TCP + tcp_bytes)));
    return VNET_BYTES + sizes.header + payload;
}
