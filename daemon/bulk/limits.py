"""Every bound and timeout of the bulk plane, each with where it comes from.

Owns numbers only. What a single transfer may take (stall_s, deadline_s) is the app's to say, per job.
"""

import os

# What a stranger can make this host hold. A handshake takes a few round trips (under a second on any link that
# is of use); 32 at once is more than a full swarm of 64 makes when all dial together, spread over that second.
HANDSHAKES_MAX = 32  # one more, and the oldest goes: a slow stranger's, for an honest one is soon through
HANDSHAKE_S = 10.0  # the usual slowloris bound; a 300 ms link needs under one
REQUEST_S = 10.0  # from the end of the handshake to the whole request

# What an authenticated peer can make this host hold. A connection answers one request at a time; a joiner asks each
# donor for a few pieces at a time, and two joiners at once keep a donor's uplink full.
SERVES_MAX = 16
SERVES_PER_PEER_MAX = 4
CONNECTIONS_MAX = 2 * HANDSHAKES_MAX + SERVES_MAX  # accepted and not yet a channel's; each has a thread
SERVE_STALL_S = 10.0  # per PIECE_BYTES: drops a reader below 6.5 KB/s, whose catch-up would take days
SERVE_BURST_BYTES = 256 * 1024  # served between two looks at whether a collective runs
PACK_BLOCK_MAX = 1024 * 1024  # packed at once: what is asked for in one part (store/hot_pieces.py), a leaf
PACK_WORTH = 0.95  # less than a twentieth saved is not worth the other side's time
# Donors that are slower are asked to pack: a seventh fewer bytes, for 4 CPU s/GB at both ends together, measured; so at
# this rate it costs each some 5 % of a core.
PACK_BELOW = 25e6
SERVE_IDLE_S = 5.0  # a reader that asks for nothing more: it decides within a round trip; a slot is worth more
DONORS_MAX = 16  # of one fetch, each with a thread: twice what fills a downlink ten times their uplinks
# When nobody who holds all is left and no piece comes from any fellow for so long, they wait for each other: they ask
# each other again after BUSY_AGAIN_S.
FELLOWS_ALONE_S = 15.0
PIECES_LOOK_S = 0.25  # between two looks at whether a donor is overdue: far below the patience with it
SERVE_UNSENT_BYTES = 4 * 1024 * 1024  # in the kernel of all that is served: a collective that begins waits behind it
# Who was turned away for want of room asks again after so long, a few round trips of any link, and so often: a minute
# of nothing, after which the fetch is better off with others.
BUSY_AGAIN_S = 2.0
BUSY_ASKS_MAX = 30
SERVE_WAIT_S = 3 * BUSY_AGAIN_S  # who has not asked again by then does not wait any more
SERVE_TENURE_S = 10.0  # served before it makes room for one that waits: several requests (protocol/pieces.py: ASK_S)
# While a collective runs all serving together takes this much of the rate that the last one had: a round that is slowed
# by less than 3 % is what joiners may cost.
TRICKLE = 0.02
# Of the rate there is, one turn takes so much: with a turn for each of SERVES_MAX connections nobody waits 2 s.
SERVE_GRAIN_S = 0.1
SERVE_GRAIN_MIN = 1024  # a TLS record is 22 bytes more
TURN_LOOK_S = 0.25  # between two looks of one that waits for its turn at whether its connection was stopped
RING_RATE_UNKNOWN = 6_250_000.0  # bytes/s, of a host that has been in none: 50 Mbit/s
RING_RATE_BYTES_MIN = 1024 * 1024  # what is over in a blink says nothing of the line

# Words (GO) about a collective whose plan is still on its way here. Plans and words leave at the same moment, so one is
# early by a control message's delay, seconds at worst; who was not kept is asked again.
PARKED_MAX = 64
PARKED_PER_PEER_MAX = 4
PARKED_S = 5.0

TRUSTED_MAX = 1024  # interface.py; the wire's records stay under it
CONTACTS_MAX = TRUSTED_MAX  # peers of which is remembered who reached whom
CERTIFICATE_BYTES_MAX = 2048  # ours are about 420 bytes
PEER_ID_BYTES_MAX = 64  # X.520's bound on a common name; a libp2p id of an Ed25519 key has 52
REQUEST_BYTES_MAX = 1024  # an object name and three numbers
OBJECT_NAME_BYTES_MAX = 512  # "snapshot/<run key>/<round>/leaves" and the like, with room
TRANSFERS_MAX = 64  # collectives, fetches and probes at once on this host; a thread each, and those of the wires

# Dialling: the peer may not trust us yet (its beacons are on the way), so a refusal by TLS is tried again.
DIAL_BACKOFF_FIRST_S = 0.05
DIAL_BACKOFF_MAX_S = 1.0
CUT_SHORT_S = 1.0  # an attempt with less time than this proves nothing: a few round trips on a slow link
LOOKUPS_MAX = 64  # of names, under way: as many as transfers; a resolver that is down takes half a minute for each
ADDRESSES_PER_NAME_MAX = 4  # a host has an IPv4 and an IPv6 address; a hostile name has thousands
# A wire that stood for so long did not die as soon as it stood: where all connections are reset each second, a pause
# that grows would soon be all that there is. A round trip of a long path, so that it has carried something.
WIRE_LIVES_S = 0.25
DIAL_ATTEMPT_S = 10.0  # connect, handshake; as HANDSHAKE_S on the other side

PIECE_BYTES = 64 * 1024  # given to the socket at once: four TLS records; the grain of "nothing was taken"
CHUNK_GROUPS = 16  # 266 KB of int8, 1 MiB of fp32; 256 KiB to 4 MiB measured alike on a 500 Mbit/s, 100 ms link
SOCKET_BUFFER_BYTES = 64 * 1024 * 1024  # measured: 494 Mbit/s against 263 with 4 MiB at 500 Mbit/s, 100 ms
UNSENT_BYTES_MIN = 128 * 1024  # of each of several wires: a little more than one writes at a time
UNSENT_BYTES_MAX = 1024 * 1024  # what waits behind the congestion window: keeps an abort from queueing for long

# A host that has nothing to pass on says so, four times per stall_s, so that only the neighbour of the one
# that fell silent accuses it. Alive but starved for this many stall_s, a collective ends without a suspect.
HEARTBEATS_PER_STALL = 4
STARVED_STALLS = 3
STUCK_STALLS = 2  # alive, and takes nothing: seen by its neighbour before those behind it starve

# A wire whose reader holds a chunk until others' have come takes nothing meanwhile, and is not to be given up while
# that is said: in each stall_s one comes at least, or the collective is about to starve, and all other wires may hold
# one that goes before.
HELD_STALLS = 24  # STREAMS_MAX

# What is on a wire that fell behind goes again on another after so long without a byte from that neighbour: longer than
# a round trip of any link that is of use, far shorter than what a collapsed window takes to open.
NUDGE_S = 0.5
NUDGE_DOUBLINGS_MAX = 5
# And longer than so many signs of flowing bytes take: on a slow line a pause is soon longer than NUDGE_S, and what goes
# again then takes the line from what is on its way. No longer than a heartbeat's time, nor sooner before any sign.
NUDGE_SIGNS = 8
SIGNS_MEANT = 8  # in the mean of how long one takes
WATCH_S = 0.25  # between two looks at whether a collective's neighbours live: far below any stall_s that makes sense
# Who has all, and sent results over connections that broke, stays so long to hear that they are there: a few times what
# it takes to dial again.
SETTLE_S = 5.0
GATHERED_MAX = 32  # chunks of a direct exchange that are being summed, 1 MiB of fp32 each
MISSED_MAX = 64  # transfers of which is remembered, for each peer, that its early chunks were dropped here
ENDED_MAX = 64  # transfers whose end is remembered, so that who asks for more of one hears it: as many as run at once

# Channels: wires that stand between two hosts from round to round.
FRAME_BYTES_MAX = 1024 * 1024 + 64 * 1024  # a chunk of 1 MiB of fp32 and whatever a codec or a schedule puts beside it
CONTROL_BYTES_MAX = 1024  # of a control frame: a peer id, some numbers; a request has as much
STREAMS_MAX = 24  # wires of one channel; what cubic wants at 500 Mbit/s, 100 ms, a packet in 10,000 lost (below)
# To begin with. At 500 Mbit/s, 100 ms: cubic 331 Mbit/s with four and 165 with one, bbr with buffers of 4 MiB 414
# and 208, bbr with large ones 406 and 458. On loopback four took 0.6 of the time that one did, when Python did more.
STREAMS_SEVERAL = 4
# Under what takes each loss for a full queue: such a window settles at 190 packets on that path (RFC 9438, 5.1), which
# holds 4200: 22 of them. With 16 wires rounds of 3.5 s at best begin at 3.7 s, while windows are still those of the
# first slow start, and come to 4.2 to 4.6; with 24 they stay at 3.6 to 3.9, with 32 the same.
STREAMS_LOSSY = 24
STREAMS_WINDOWS_MAX = 8  # where windows are too small: at 500 Mbit/s, 100 ms, buffers of 4 MiB, 8 as good as 16
STREAMS_NEAR_S = 0.002  # of a round trip: the same city
# There a wire is as fast as its two threads: beyond so many windows ask for no more, and fewer are tried. Of fp32 four
# take 1.16 of the CPU that one does (README.md, 2026-11-22); of int8, whose hops are long, hardly more.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
STREAMS_NEAR_MAX = max(1, _CORES // 2)
STREAMS_BUFFER_BYTES = 16 * 1024 * 1024  # twice what 500 Mbit/s over 100 ms has under way
WIRES_LISTED_MAX = 2 * STREAMS_MAX  # in a request: those that stand, and those about to
# Of all channels. Two buffers of a frame each: 96 wires use 209 MiB of the 256 MiB that an engine may, if all have
# carried a chunk of full size; pages never written are never backed by memory.
WIRES_MAX = 96
# Of a wire within one host: slots for chunks in memory that both ends map (lanes.py), in each direction. While one is
# opened there the other is filled here; with three or four rings were no faster than noise.
LANE_SLOTS = 2
# Of an engine. Four slots each, all of which count as its own: beside what WIRES_MAX wires have and the sums that are
# gathered it comes to 253 MiB of the 256 that an engine may.
SHARED_WIRES_MAX = 8
# Datagrams at a socket for shared memory, of which strangers may have sent all but one: more than are kept there
# (net.unix.max_dgram_qlen: the kernel's own is ten, systemd makes it 512).
OFFERS_HEARD_MAX = 1024
CONTROLS_QUEUED_MAX = 1024  # of a channel: some for each of TRANSFERS_MAX transfers; repeated ones are kept once
# Of a channel: a slice of 275 billion elements, more than any model's. Only this host's own collectives queue, and
# references: a chunk to go takes 400 bytes while its collective runs, whether it waits here or not.
CHUNKS_QUEUED_MAX = 2**20
DIAL_PATIENCE_S = 1.0  # the peer with the lower id dials at once; a few round trips of a slow link later, we do
REFUSED_S = 2 * DIAL_PATIENCE_S  # by when a peer whose own address refuses has dialled this host, if it can
CHANNEL_STALL_S = 30.0  # of a wire on which nobody here needs anything: the peer's chunk stopped half-way
KEEPALIVE_S = 15.0  # below the 30 s after which the worst home routers forget a connection (RFC 5382 asks for 2 h)
SILENT_S = 3 * KEEPALIVE_S  # two pings may be lost
IDLE_S = 3600.0  # that nobody needs a channel; between two rounds of a large model lies most of an hour
FILLED_AFTER_S = 5.0  # of nothing to write: BBR's round trip may be 10 s old before a transfer of seconds is over
FILLING_BYTES_MAX = 64 * 1024  # two segments are enough
ON_BYTES_EVERY = 64 * 1024  # between two signs of progress within a chunk that goes, or of all that come together
HEARD_EVERY = 4 * 1024  # of one that comes: many wires that share a slow line make ON_BYTES_EVERY together

MEASURED_BYTES_MIN = 256 * 1024  # sent in one transfer; of less, the kernel tells slow start and not the path
MEASURED_S_MIN = 0.008  # likewise: the kernel counts busy time in ticks of 1 to 4 ms, two of which bound a mean

# A probe: a look at a link of which nothing is known. A link has its turn once in hours (SPEC B14).
PROBE_PIECE_BYTES = 64 * 1024  # a chunk: as PIECE_BYTES, so that what goes first waits little behind one
PROBE_WINDOW_BYTES = MEASURED_BYTES_MIN  # under way at first, then as much as has arrived: a queue fills by doubling
PROBE_S = 5.0  # of sending: at 0.5 Mbit/s just enough to say anything, on a faster link over long before
PROBE_LOOK_S = 0.02  # between two looks at the counters: a round trip of a short path
PROBE_BUSY_S_MIN = 0.004  # the kernel counts busy time in ticks of 1 to 4 ms

# How many wires: thresholds of a decision that measures its own effect, so they need not be exact.
STREAM_JUDGED_BYTES = 8 * 1024 * 1024  # twice the kernel's usual largest buffer: less shows the buffer, not the path
STREAM_JUDGED_S = 0.2  # a few round trips of a long path
STREAM_LIMITED_SHARE = 0.2  # of the busy time
STREAM_LOSS_SHARE = 1e-5  # of the bytes: cubic falls short of 500 Mbit/s at 100 ms from about there (RFC 9438, 5.1)
STREAM_WORTH = 1.1  # twice the wires for less than a tenth more is noise
# Of each of several wires: a frame of 1 MiB takes 4 s then, and what all of them have in hand as long. With less, fewer
# are tried: at 10 Mbit/s, 40 ms twelve take 12.1 s for what takes 10.2 at best, and 24 at 2 Mbit/s break (README.md).
STREAM_BYTES_PER_S_MIN = 256 * 1024
STREAM_HOLD_MAX = 64  # transfers between two trials that fail

# Pairs of peers that meet here, joined or waiting: one thread and two buffers each, 16 MiB in all.
RELAYS_MAX = 32
RELAYS_PER_PEER_MAX = 8  # waiting: one peer leaves room for others
RELAY_BUFFER_BYTES = 256 * 1024  # a few of what a socket gives at once
RELAY_WAIT_S = DIAL_ATTEMPT_S  # who waited so long has gone and asks again
PACE_BURST_S = 0.05  # of full rate at once: well under what a home router's queue holds
PACE_PIECE_MIN = 1500  # an Ethernet frame

PROGRESS_EVERY_S = 0.5  # a beacon carries it every 5 s; the status command redraws at 1 s
PROGRESS_EACH_CHUNKS_MAX = 16  # transfers with so few chunks report each

# A failing host tells its neighbours why before it hangs up; `abort` promises an end within a second.
GOODBYE_S = 0.5
CLOSE_S = 5.0  # all threads together; they leave within GOODBYE_S unless one is inside a provider or DNS
ACCEPT_PAUSE_S = 0.2  # when accept() fails (out of file descriptors): do not spin
LISTEN_BACKLOG = 128

assert HELD_STALLS >= STREAMS_MAX
assert PARKED_S < HANDSHAKE_S
assert SERVES_PER_PEER_MAX < SERVES_MAX
