"""Every bound of the protocol in one place, with where it comes from. SPEC L*.

Knows nothing but numbers. A run's own timers are in its manifest; these hold for every run.
"""

VOTERS_MAX = 31  # a vote is a message to each: beyond this, more voters buy latency, not safety
PEERS_MAX = 1024  # beacons go to everybody only up to 64; the table itself is bounded here
BEACON_FANOUT_MAX = 64  # 13 signed messages a second and host at one beacon in 5 s; with more peers, sparsely
ROSTER_DENSE_MAX = 32  # hosts that all tell each other how far they are; about as many as there are voters
LEADERS_TOLD = 3  # of a decision, from the beginning: two of them may die
GUIDES = 2  # voters that tell a host of the quorum; one of them may die
BEACON_LOTS = 1  # told by lot with each beacon: everybody hears somebody in 5 s or 10
RECORD_LOTS = 8  # told by lot of a new record: a thousand hosts in three or four steps, 9, 81, 729
LOTS_TRIED_MAX = 32  # draws for those lots: four times as many as are wanted
LOOK_S = 0.25  # hearsay of a sparse swarm is acted on so often: a thousand beacons of 5 s are 200 a second
RELAYED_PAIRS_MAX = 16  # that one member joins in a direct exchange: half of what its bulk plane does at once
DIRECT_MEMBERS_MAX = 64  # each then has a connection to each: with more, rings of a torus
GROUP_SIZE_MAX = 64  # of a gossip round; larger groups differ from an exact round by nothing worth it
GROUPS_MAX = 64  # of one round, as a shape lists them; where more would be drawn they are larger instead
GROUPS_TRIED_MAX = 3  # whose update a host asks for before it begins from the last exact state
SHARE_MAX = 65_535  # a slice's size is a share of their sum; a fiftieth of a percent is finer than any estimate
SPREAD_MAX = 64  # peers that one voter passes a plan on to: 1,024 by 16 voters
SPREADS_PER_S_MAX = 1  # plans passed on for one voter: an attempt has one
BEACON_BYTES_MAX = 16_384  # in its envelope: 16 addresses of 256, a certificate of 2,048, and 3 KiB of the rest
INTRODUCED_MAX = 4  # beacons in one message: those of two neighbours, and room for other schedules
MEMBERS_TOLD_MAX = 64  # beacons in one answer: 31 voters and as many others, 90 KiB
ADDRESSES_MAX = 16  # per peer: a host has a handful of interfaces
ADDRESS_CHARS_MAX = 256  # a multiaddr with a DNS name (253) and ports
CERTIFICATE_BYTES_MAX = 2048  # a P-256 certificate is about 400 bytes
ASSIGNMENTS_MAX = 1024  # = PEERS_MAX: every member may be eligible
STREAMS_MAX = 8  # own, carried over (two rounds), and reassigned ones
UNCONSUMED_MAX = 4096  # data slots waiting to be given out again; more are dropped, with a note
ENTRIES_PER_CALL_MAX = 64  # records in one answer; the size cap of a message cuts earlier
BLOB_BYTES_MAX = 384 * 1024  # 1,024 contributions and assignments at under 200 bytes each
ROUND_MAX = 2**40
TOKENS_MAX = 2**53  # exact in a double everywhere
TEXT_CHARS_MAX = 400  # a reason in a message is a sentence

# A host whose newest contribution is older begins as one that joins, with no error to feed back: what it lost then is
# measured from an anchor long gone. A few omissions of CARRY_ROUNDS_MAX each are no absence.
FEEDBACK_ROUNDS_MAX = 8
CARRY_ROUNDS_MAX = 2  # progress that stayed uncommitted for longer is dropped: it points at an anchor long gone
PROMISE_GRACE_S = 1.0  # after a quorum promised: how long the leader waits for the other live voters
REBEACON_MIN_S = 0.05  # changes within this time share one beacon
PEER_EXCHANGE_MIN_S = 1.0  # at first; doubles up to:
PEER_EXCHANGE_S = 30.0  # anti-entropy of the member list: one call to one peer
RELAY_NEWS_S_MAX = 60.0  # two rounds of PEER_EXCHANGE_S: so old may be what others say of a peer that we do not hear
RELAYS_PER_S_MAX = 32  # envelopes a second passed on for one peer: a round has some ten messages to each
LINKS_TOLD_MAX = 12  # in a beacon, at under 60 bytes each: all of a ring of 13, whose best order is found exactly
RATE_STEP_MAX = 127  # of a link, in quarters of an octave above a KiB/s: one byte, up to 3 TB/s
RTT_STEP_MAX = 80  # likewise above 0.1 ms, up to 100 s
LINK_HALF_LIFE_S = 600.0  # of an estimate beside a newer one: the load of internet paths changes within the hour
LINK_KEPT_S = 14_400.0  # then a link is unknown again: six rounds of INTELLECT-1, which were 38 minutes apart
PROBE_S = 60.0  # between two links that one host looks at: in a swarm of 13 all are known before its first long round
PEER_EXCHANGE_SPARSE_S = 120.0  # of many, whose answers are longer; a newcomer has asked seven times by then
LIVES_OVER_MAX = 4  # lives of one peer with a later clock than the one after: each took a lost disk besides
FORGET_PEER_S = 600.0  # a silent non-voter leaves the table; it may come back at any time
CALL_TIMEOUT_S = 10.0  # one answer over a slow WAN path, records of 512 KiB included
RETRY_MIN_S = 0.5  # first retry of a failed fetch; doubles up to RETRY_MAX_S
RETRY_MAX_S = 15.0
ATTEMPTS_AHEAD_MAX = 1_000_000  # a ballot further above is a lie: at one attempt in 10 s, four months of one round
ATTEMPTS_PER_S_MAX = 1.0  # and then so many more, which is ten times what is tried
REPEAT_FRACTION = 0.3  # of attempt_s: a lost message is said three times before its attempt is given up
PARTED_MAX = 16  # peers that one member is kept apart from: with pauses of 15 s, those of four minutes of attempts
ACCUSATIONS_MAX = 3  # in one decision; who sees more transfers fail is left out itself
EXCLUSION_DOUBLINGS_MAX = 6  # 15 s to 16 min: a peer that breaks each round is tried again, ever more seldom
TRANSFERS_KEPT = 8  # of one decision, with their results: a retry finds an equal one among the last few
BRANCHES_MAX = 64  # generations that one line of history passes through; each is an accident that a person reads of
TRAIL_HEADS = 64  # newest heads kept whole: where a rival line may have parted from ours
TRAIL_GAP = 8  # older ones lie apart by at most so many times less than their age: a hundred more in a million rounds
RIVAL_ENTRIES_MAX = 4096  # records of a rival line in memory, at under 4 KiB each for 16 members
RIVAL_BYTES_MAX = 64 * 1024 * 1024  # and so much of them, as they travel: of large swarms records are longer
RIVAL_S_MAX = 600.0  # for a claim to be proven: so many records at 9 s an answer
PAUSE_S_MAX = 60.0  # claims stop a run for so long at a time; a hundred answers of an honest peer
DISTRUST_MIN_S = 15.0  # a peer whose claim to a better history came to nothing; doubles EXCLUSION_DOUBLINGS_MAX times
LINES_VOTED_MAX = 128  # generations whose newest vote a host keeps; on further ones it has no vote
OWNERS_MAX = 16  # keys that may sign a recovery
DRAFTS_MAX = 16  # recoveries of one head that were shown and may come back signed: somebody looks more than once
WINDOW_ROUNDS = 1024  # decided rounds kept in memory for replay; donors keep snapshots far newer than that
HELD_MAX = 4096  # updates known to be on disk; a forgotten one is fetched again
WARMUP_ROUNDS_MAX = 1024  # of a newcomer: a bound of the form alone, a few rounds are what may help
UPDATES_AHEAD_MIN = 2  # updates that are fetched before they are applied; of small ones as many as make a state:
UPDATES_AHEAD_MAX = 64  # for so many rounds the state itself may be on its way
SNAPSHOT_DONORS_MAX = 16  # of one state at once: twice what fills a downlink ten times their uplinks
UPDATE_MISSES_MAX = 3  # donors tried for one update before a whole snapshot is
DIVERGENCES_MAX = 3  # states computed here that the log contradicts, in a row: the arithmetic is at fault
DOUBTS_KEPT_ROUNDS = 256  # 3 doubts in vain within so many rounds: a liar costs a hundredth of a host's work at most

assert VOTERS_MAX <= PEERS_MAX and ASSIGNMENTS_MAX <= PEERS_MAX
