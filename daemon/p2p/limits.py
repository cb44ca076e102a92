"""Every bound of the control plane, each with where it comes from.

Owns the numbers shared by the libp2p adapter and its in-memory twin. Refuses to know either.
"""

# -- frames and calls

# Around a message: 4 bytes of length, msgpack's own headers, an id of 9 bytes and a method name.
FRAME_OVERHEAD_BYTES_MAX = 256
METHOD_CHARS_MAX = 64  # the longest of ours has 20
ERROR_TEXT_BYTES_MAX = 1024  # an error is a sentence or two, not a traceback
PREAMBLE_BYTES_MAX = 256  # {"wire": 1, "software": "intellectd/0.1.0"} has 37
SOFTWARE_CHARS_MAX = 64
# One chunk per read and write of a stream: the most payload that fits one yamux frame.
STREAM_CHUNK_BYTES = 64 * 1024 - 12

# A caller waits its turn beyond this, the server refuses beyond it. A peer asks for a few things at a time
# (a record, a vote, a list of donors), so 32 is idle capacity, and 32 answers of 512 KiB are 16 MB.
CALLS_IN_FLIGHT_MAX = 32
# A round trip each half minute is a dozen bytes a second to each of a thousand peers, and what a person looks at is
# never older. The first waits until what the stream was opened for is on its way, not to measure a queue.
PING_SECONDS = 30.0
PING_FIRST_SECONDS = 1.0
# Longer than any deadline the app gives a call (30 s), so that it only ends handlers nobody waits for.
HANDLER_SECONDS_MAX = 120.0

# One beacon every 5 s and a few votes per round are tens of messages; a thousand waiting means nobody reads.
OUTBOX_MESSAGES_MAX = 1024
OUTBOX_BYTES_MAX = 8 * 1024 * 1024  # 16 messages of the largest size
# yamux gives up on a closed window after 5 s; TCP to a frozen host blocks for minutes. Ten seconds is two
# beacons: past that the peer counts as gone anyway.
WRITE_SECONDS_MAX = 10.0
# Bytes that nobody acknowledged for so long will not arrive: four beacons, and longer than any frozen peer has to read
# (RFC 5482). Beacons are sent each 5 s, yamux's own pings each 30 s, so a dead path is noticed within 50 s.
UNACKNOWLEDGED_SECONDS_MAX = 20.0

# -- connections

DIAL_SECONDS_MAX = 5.0  # a TCP and Noise handshake is 4 round trips: enough for 1 s of latency
DIAL_STAGGER_SECONDS = 0.25  # RFC 8305: the next address starts a quarter second after the one before it
STREAM_OPEN_SECONDS_MAX = 5.0  # 3 round trips with the preamble
PREAMBLE_SECONDS_MAX = 5.0
DIALS_MAX = 64  # at once; as many as a run of the size where everybody beacons everybody
DOUBTFUL_DIALS_MAX = 48  # of those, to peers that did not answer last or never: three of four
LOOKUPS_MAX = 16  # of names, at once: a lookup that hangs keeps its thread for up to half a minute
ADDRESSES_PER_PEER_MAX = 8  # interfaces of a host; a hostile record may claim thousands
ADDRESS_CHARS_MAX = 512  # a DNS name of 253 characters and a peer id of 52 fit
# As it travels: a DNS name of 253 characters, a port, a peer id of 38 bytes and a few of headers.
ADDRESS_BYTES_MAX = 320
PEERS_KNOWN_MAX = 4096  # 4 times the roster of 1,000 the design is meant for
CONNECTIONS_MAX = 1024
FREE_CONNECTIONS_MIN = 64  # of those: strangers that only listen make room for as many as may be dialled at once
HALF_OPEN_MAX = 256  # handshakes of who came in: what a host works off in the 5 s that each may take
CONNECTIONS_PER_PEER_MAX = 8  # both sides dialling at once make two; the rest is churn
STREAMS_PER_CONNECTION_MAX = 256  # ours holds 2 and the DHT a handful
WINDOW_BYTES_MAX = 1024 * 1024  # of one stream: two of the largest messages in flight
BUFFERED_BYTES_MAX = 4 * 1024 * 1024  # of one connection: our two streams at their largest, twice over

# Redialling a peer that refused: doubling from the first to the last. A beacon goes out every 5 s, so the
# last is two beacons.
BACKOFF_SECONDS_MIN = 0.25
BACKOFF_SECONDS_MAX = 10.0
# Who was never reached, as names that anybody may announce with anybody's address: two minutes of silence cost two
# minutes. It dials us when it comes, and a new address of it is tried at once.
BACKOFF_UNSEEN_SECONDS_MAX = 120.0

NEGOTIATION_BYTES_MAX = 1024  # of one line of multistream-select: names of protocols, ours have 30 characters

# -- directory

# A FIND_NODE key over 50 bytes is refused by other nodes ("not a valid PeerId") and the lookup quietly falls
# back to the local table.
KEY_BYTES_MAX = 50
KEYS_ANNOUNCED_MAX = 8  # receivers accept 10 provider records in 10 s from one peer
PROVIDER_SECONDS = 180.0  # a dead peer is found for three minutes at most
ANNOUNCE_SECONDS = PROVIDER_SECONDS / 3  # two announcements may be lost
ANNOUNCE_SECONDS_MIN = 5.0  # between two announcements; keeps within the receivers' limit
NEWS_SETTLE_SECONDS = 0.25  # about one lookup in a run of tens of peers: what it turns up comes at once
REFRESH_SECONDS = 60.0  # routing table; with runs of tens of peers a refresh is a few dozen small messages
QUERY_SECONDS_MAX = 3.0  # measured: 10 s, the default, is what one frozen peer then costs every lookup
LOOKUP_SECONDS_MAX = 8.0
LOOKUP_QUERIES_MAX = 64  # three times k, the nodes that may hold a record
LOOKUP_PARALLEL = 10  # Kademlia's alpha, as in libp2p's DHT
CLOSEST_MAX = 20  # Kademlia's k
REPLY_BYTES_MAX = 256 * 1024  # 40 peers of 8 addresses and a signed record each
PROVIDERS_PER_REPLY_MAX = 64
SIGNED_RECORD_BYTES_MAX = 3072  # 8 addresses at their longest, a key and a signature
QUERY_BYTES_MAX = 16 * 1024  # a key, a provider with its addresses, and a signed record of it and of the sender
IDENTIFY_BYTES_MAX = 16 * 1024  # ours has 1 KiB: addresses, their signed record, a key and the names of protocols
QUERY_STREAM_SECONDS_MAX = 10.0  # each of ours has a stream of its own and is given up after 3 s
QUERIES_PER_PEER_MAX = 32  # at once: lookups of 8 keys and of ourselves, and their announcements
INBOUND_QUERIES_MAX = 256  # served at once; measured: 12, the default, isolates nodes that start together

BOOTSTRAP_SECONDS_MIN = 0.25
BOOTSTRAP_SECONDS_MAX = 10.0
# Once somebody was found, the other bootstrap addresses are still tried: two halves of a run that started
# apart have no other way to meet.
BOOTSTRAP_AGAIN_SECONDS = 60.0
BOOTSTRAP_ADDRESSES_MAX = 64
