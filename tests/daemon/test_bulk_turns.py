"""Shares of what is served: no peer gets more by asking on more connections, and all together keep to a rate."""

import threading
from collections import Counter

import pytest

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.limits import (
    PACE_BURST_S,
    SERVE_BURST_BYTES,
    SERVE_GRAIN_MIN,
    SERVE_GRAIN_S,
    SERVES_MAX,
    TRICKLE,
)
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.bulk.serve import CollectiveWatch
from intellectd.daemon.bulk.turns import FairQueue, Turns
from tests.daemon.bulk_swarm import EVENT_S, Events, fetch_job, trust_all


def never() -> None: ...


def test_peers_that_always_want_more_get_equal_shares_whatever_their_connections() -> None:
    queue, owner, had = FairQueue(), dict[int, str](), Counter[str]()
    for peer, connections in {"greedy": 4, "meek": 1, "modest": 2}.items():
        for _connection in range(connections):
            owner[queue.ask(peer)] = peer
    for turn in range(3000):
        ticket = queue.head()
        assert ticket is not None
        peer, count = owner.pop(ticket), 1 + turn % 7
        queue.go(count)
        had[peer] += count
        owner[queue.ask(peer)] = peer
    assert max(had.values()) - min(had.values()) <= 2 * 7, had


def test_within_a_peers_share_its_connections_take_turns() -> None:
    queue = FairQueue()
    first, second = queue.ask("a"), queue.ask("a")
    went = []
    for _turn in range(4):
        head = queue.head()
        went.append(head)
        queue.go(10)
        queue.ask("a")
    assert went == [first, second, second + 1, second + 2]


def test_who_comes_late_or_was_away_neither_saves_up_nor_pays() -> None:
    queue = FairQueue()
    queue.ask("old")
    for _turn in range(100):
        queue.go(1000)
        queue.ask("old")
    tickets = {queue.ask("new"): "new"}
    order = []
    for _turn in range(6):
        head = queue.head()
        assert head is not None
        peer = tickets.get(head, "old")
        order.append(peer)
        queue.go(1000)
        ticket = queue.ask(peer)
        if peer == "new":
            tickets[ticket] = "new"
    assert order.count("new") in (3, 4)  # from now on half, not the hundred turns that it has missed


def test_who_leaves_is_not_waited_for() -> None:
    queue = FairQueue()
    gone, other = queue.ask("a"), queue.ask("b")
    queue.leave("a", gone)
    assert queue.head() == other
    queue.go(1)
    assert queue.head() is None


def served_in_all(turns: Turns, readers: int, count: int) -> tuple[int, float]:
    """(bytes granted to so many peers at once that want `count` each, seconds)."""
    granted, lock, began = [0], threading.Lock(), now_s()

    def read(peer: str) -> None:
        left = count
        while left:
            took = turns.take(peer, left, never)
            left -= took
            with lock:
                granted[0] += took

    threads = [threading.Thread(target=read, args=(f"p{number}",)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(EVENT_S)
    turns.settle(never)
    return granted[0], now_s() - began


def test_beside_a_collective_all_readers_together_get_a_trickle_of_its_rate() -> None:
    watch = CollectiveWatch()
    watch.began()
    watch.ended(sent_bytes=10 * 2**20, seconds=0.5)  # 20 MiB/s
    watch.began()
    turns = Turns(watch.trickle)
    granted, seconds = served_in_all(turns, SERVES_MAX, 8 * 1024)
    assert granted == SERVES_MAX * 8 * 1024
    assert granted <= TRICKLE * 20 * 2**20 * (seconds + PACE_BURST_S)


def test_a_turn_is_so_small_that_every_reader_of_a_slow_line_hears_in_time() -> None:
    slow = TRICKLE * 1.25e6  # of 10 Mbit/s
    assert Turns(lambda: slow).take("a", 2**20, never) == int(slow * SERVE_GRAIN_S)
    assert Turns(lambda: 1.0).take("a", 2**20, never) == SERVE_GRAIN_MIN
    assert Turns(lambda: None).take("a", 2**20, never) == SERVE_BURST_BYTES
    assert Turns(lambda: 1e12).take("a", 2**20, never) == SERVE_BURST_BYTES
    assert Turns(lambda: None).take("a", 3, never) == 3


def test_when_the_collective_ends_nobody_waits_for_what_the_trickle_would_have_taken() -> None:
    watch = CollectiveWatch()
    watch.began()
    turns = Turns(watch.trickle)
    watch.on_change = turns.changed
    big = threading.Thread(target=served_in_all, args=(turns, 4, 2**27))  # for hours, at a trickle
    big.start()
    assert turns.take("first", 1, never) == 1
    watch.ended()
    big.join(EVENT_S)
    assert not big.is_alive()


def test_one_that_waits_leaves_when_its_connection_is_stopped() -> None:
    turns = Turns(lambda: 1.0)
    turns.take("a", SERVE_GRAIN_MIN, never)  # the line is busy for a quarter of an hour

    def stopped() -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        turns.take("b", 1, stopped)
    assert turns._queue.head() is None


class Counted:
    """An object that counts who took how much of it, in parts of 64 KiB."""

    nbytes = 1_000_000

    def __init__(self) -> None:
        self.took: Counter[str] = Counter()
        self.when_meek_had_all: Counter[str] = Counter()

    def for_peer(self, peer: str) -> "_Of":
        return _Of(self, peer)


class _Of:
    nbytes = Counted.nbytes

    def __init__(self, whole: Counted, peer: str) -> None:
        self._whole, self._peer = whole, peer

    def part(self, start: int, stop: int) -> memoryview:
        count = min(65536, stop - start)
        self._whole.took[self._peer] += count
        if self._whole.took["meek"] == self.nbytes and not self._whole.when_meek_had_all:
            self._whole.when_meek_had_all = self._whole.took.copy()
        return memoryview(bytes(count))


def let_none_go_alone(turns: Turns, counted: Counted) -> None:
    """Whose turn it is, is asked only while both wait: a peer that comes late, or falls behind, is no peer that wants
    less."""
    queue, ask, head = turns._queue, turns._queue.ask, turns._queue.head

    def ask_aloud(peer: str) -> int:
        ticket = ask(peer)
        turns._changed.notify_all()
        return ticket

    def head_of_both() -> int | None:
        return head() if counted.when_meek_had_all or {"greedy", "meek"} <= set(queue._waiting) else None

    queue.ask, queue.head = ask_aloud, head_of_both  # type: ignore[method-assign]


def test_a_joiner_with_four_connections_does_not_starve_one_with_one() -> None:
    counted = Counted()
    donor = Engine("donor", "127.0.0.1:0", pace=Pace(upload_mbit=32.0))  # 4 MB/s
    engines = {name: Engine(name, "127.0.0.1:0") for name in ("greedy", "meek")} | {"donor": donor}
    try:
        trust_all(engines)
        let_none_go_alone(donor._server._turns, counted)
        donor.serve(lambda peer, _name: counted.for_peer(peer))
        greedy = [Events() for _ in range(4)]
        for number, events in enumerate(greedy):
            job = fetch_job("donor", f"{number}", bytearray(Counted.nbytes))
            engines["greedy"].start_fetch(job, events)
        meek = Events()
        engines["meek"].start_fetch(fetch_job("donor", "it", bytearray(Counted.nbytes)), meek)
        meek.done()
        assert counted.took["meek"] == Counted.nbytes
        # As much as the other, and what each connection has in hand; at a share for each connection it would be all.
        assert counted.when_meek_had_all["greedy"] < 2 * Counted.nbytes, counted.when_meek_had_all
        for events in greedy:
            events.done()
    finally:
        for engine in engines.values():
            engine.close()
