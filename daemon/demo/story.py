"""What happens in the demo, in order: found, join, train, kill, join late, finish; and the baseline beside it.

Owns when. Refuses to judge (verdict.py) and to draw (table.py). The peers are only ever asked what any operator
may ask.
"""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from intellectd.daemon.demo.peer import DemoError, Peer
from intellectd.daemon.demo.settings import TRAINER_THREADS, run_toml
from intellectd.daemon.demo.table import Table
from intellectd.daemon.demo.verdict import Seen, judge
from intellectd.daemon.parent_death import end_with_parent
from intellectd.protocol.manifest import config_from_toml, plain

LOOK_S = 0.5
# The whole demo is meant to take four minutes on two cores; a machine three times slower still sees its end.
STORY_S_MAX = 720.0
INIT_S_MAX = 120.0
JOIN_S_MAX = 60.0


class Story:
    def __init__(self, folder: Path, peers: int, rounds: int, table: Table) -> None:
        self._folder, self._count, self._rounds, self._table = folder, peers, rounds, table
        self._peers: list[Peer] = []  # in the run
        self._started: list[Peer] = []
        self._late: Peer | None = None
        self._solo: subprocess.Popen[bytes] | None = None
        self._solo_out = folder / "solo.json"
        self._run_id = ""
        self._seen = Seen(rounds)
        self._began_at = time.monotonic()

    def tell(self) -> dict[str, Any]:
        """The outcome, as `--json` prints it."""
        self._found_and_join()
        self._start_solo()
        self._table.say(
            f"{self._count} peers train; round {self._kill_round} kills the founder, "
            f"round {self._late_round} brings one more"
        )
        while not self._over():
            if time.monotonic() - self._began_at > STORY_S_MAX:
                raise DemoError(f"the run did not end within {STORY_S_MAX:.0f} s", "see the peers' logs")
            self._look()
            self._act()
            time.sleep(LOOK_S)
        self._look()
        solo = self._wait_solo()
        self._table.close()
        survivors = [peer for peer in self._peers if not peer.killed]
        _end(survivors)
        return judge(self._run_id, self._seen, survivors, solo)

    def end(self) -> None:
        """Nothing that was started outlives the demo."""
        self._table.close()
        _end(self._started)
        if self._solo is not None and self._solo.poll() is None:
            self._solo.kill()
            self._solo.wait()

    # ---- beginning

    @property
    def _kill_round(self) -> int:
        return self._rounds // 3

    @property
    def _late_round(self) -> int:
        return self._rounds // 2

    def _found_and_join(self) -> None:
        self._table.say(f"starting {self._count} daemons")
        for number in range(1, self._count + 1):
            self._started.append(Peer(number, self._folder))
        self._peers = list(self._started)
        founder = self._peers[0]
        founder.wait_ready()
        made = founder.ask("init", INIT_S_MAX, toml=run_toml(self._count, self._rounds))
        self._run_id = made["run_id"]
        self._table.say(f"peer 1 founded the run; the others: {made['join_line']}")
        for peer in self._peers[1:]:
            peer.wait_ready()
            # The id and one address: all else they find through the DHT.
            peer.ask("join", JOIN_S_MAX, run_id=self._run_id, peers=[founder.address])

    def _start_solo(self) -> None:
        """One peer alone: the same model, data, hyper-parameters and rounds × H inner steps."""
        config = plain(config_from_toml(tomllib.loads(run_toml(self._count, self._rounds))))
        manifest = self._folder / "solo-manifest.json"
        manifest.write_text(json.dumps(config))
        with (self._folder / "solo.log").open("wb") as log:
            command = [sys.executable, "-m", "intellectd.daemon.trainer", "--solo", "--manifest", str(manifest)]
            command += ["--rounds", str(self._rounds), "--out", str(self._solo_out), "--threads", str(TRAINER_THREADS)]
            self._solo = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,  # noqa: PLW1509 (one system call)
            )

    # ---- the middle

    def _look(self) -> None:
        for peer in self._peers:
            peer.look()
            if not peer.alive and not peer.killed:
                raise peer.error("died")
            if peer.alive and peer.status:
                self._seen.heard(peer.peer_id, peer.ask("rounds", run_id=self._run_id, since=0))
        self._table.draw(self._peers, self._seen, time.monotonic() - self._began_at)

    def _act(self) -> None:
        head = max((peer.status.get("round", 0) for peer in self._peers), default=0)
        founder = self._peers[0]
        if head >= self._kill_round and not founder.killed:
            founder.kill()
            self._seen.killed = founder.peer_id
            self._table.say(f"round {head}: SIGKILL to peer 1, the founder")
            # The late host boots now, so that it can join on time; of the run it knows nothing yet.
            self._late = Peer(self._count + 1, self._folder)
            self._started.append(self._late)
        if head >= self._late_round and self._late is not None and self._late not in self._peers:
            late = self._late
            late.wait_ready()
            self._peers.append(late)
            self._seen.late_peer, self._seen.joined_round = late.peer_id, head
            late.ask("join", JOIN_S_MAX, run_id=self._run_id, peers=[self._peers[1].address])
            self._table.say(f"round {head}: peer {late.number} joins late")

    def _over(self) -> bool:
        live = [peer for peer in self._peers if not peer.killed]
        return self._late in live and all(peer.status.get("state") == "finished" for peer in live) and self._losses_in()

    def _losses_in(self) -> bool:
        """The last anchor is evaluated after the last round: a moment after everybody has finished."""
        return self._seen.loss_of(self._rounds) is not None

    def _wait_solo(self) -> dict[str, Any]:
        assert self._solo is not None
        if self._solo.poll() is None:
            self._table.say("waiting for the baseline, one peer alone")
        left = STORY_S_MAX - (time.monotonic() - self._began_at)
        try:
            code = self._solo.wait(max(1.0, left))
        except subprocess.TimeoutExpired:
            raise DemoError("the baseline did not end", f"see {self._folder / 'solo.log'}") from None
        if code != 0:
            raise DemoError(f"the baseline ended with exit code {code}", f"see {self._folder / 'solo.log'}")
        result: dict[str, Any] = json.loads(self._solo_out.read_text())
        return result


def _end(peers: list[Peer]) -> None:
    for peer in peers:
        peer.stop()
    for peer in peers:
        peer.end()
