"""Does it go on? An observer that sees which hosts and links were whole for how long, and holds the run to it.

Owns the promise: a connected quorum that stands at a head commits within PROGRESS_TIMEOUTS attempts and the longest
time that a round takes by itself, whatever happens to others; and everybody connected to it keeps up. Refuses to
know why a round takes long.
"""

from collections import deque
from typing import TYPE_CHECKING

from tests.sim.host import Host
from tests.sim.truth import enough
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_S = 5.0
# A grace, a roster named anew (expel_s is five attempts here), a few leaders that are passed over, and retries at the
# longest pause. No seed of README.md took longer; how much shorter they were was not recorded.
PROGRESS_TIMEOUTS = 40
RING_NARROWNESS = 6.0  # network.NARROW_MAX


class Watch:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._heads: dict[str, tuple[int, float]] = {}  # of each host, and when it moved last
        self._past: deque[tuple[float, dict[str, int]]] = deque()  # what everybody had applied
        self.longest_s = 0.0  # that a connected quorum took to commit

    def begin(self) -> None:
        self._world.at(LOOK_S, self._look)

    @property
    def limit_s(self) -> float:
        world = self._world
        slowest = max((host.speed for host in world.hosts.values()), default=1.0)
        own = 1.1 * slowest * world.training.round_s + RING_NARROWNESS * world.weather.ring_s
        return own + PROGRESS_TIMEOUTS * world.config.timers.attempt_s

    def _look(self) -> None:
        world = self._world
        for name, host in world.hosts.items():
            round_ = host.node.head.round if host.node else -2
            if self._heads.get(name, (-3, 0.0))[0] != round_:
                self._heads[name] = (round_, world.now)
        self._past.append((world.now, {n: h.state[0] for n, h in world.hosts.items() if h.state}))
        core = self._core(world.now - self.limit_s)
        if core:
            self._judge(core)
        while self._past and self._past[0][0] < world.now - self.limit_s:
            self._past.popleft()
        world.at(LOOK_S, self._look)

    def _judge(self, core: list[Host]) -> None:
        """`core` was whole for limit_s."""
        now, names = self._world.now, [host.name for host in core]
        head, stuck_s = self._progress(names)
        voters = self._voters(core, head)
        forgetful = self._world.truth.forgetful
        if not enough(voters, [n for n in names if not forgetful(n)]) or not self._can_train(core, head):
            return
        if stuck_s >= self.limit_s:
            raise Violation(f"no progress: {names}, a connected quorum of {voters}, is at {head} for {stuck_s:.0f} s")
        at, then = self._past[0]
        known = max((then.get(name, -2) for name in names), default=-2)
        behind = [h.name for h in core if (h.state[0] if h.state else -2) < known]
        if behind and at <= now - self.limit_s:
            raise Violation(f"{behind} did not catch up with round {known} of their neighbours in {now - at:.0f} s")

    def _progress(self, names: list[str]) -> tuple[int, float]:
        head = max(self._heads[name][0] for name in names)
        since = min(self._heads[name][1] for name in names if self._heads[name][0] == head)
        return head, self._world.now - since

    def _voters(self, core: list[Host], head: int) -> list[str]:
        """Of the decision that comes next for them, if one of them stands there."""
        standing = [h for h in core if h.node and h.node.head.round == head and h.state and h.state[0] == head]
        return standing[0].node.head.voters if standing and standing[0].node else []

    def _can_train(self, core: list[Host], head: int) -> bool:
        swarm = self._world.config.swarm
        trainers = sum(host.attached and not host.leaving for host in core)
        return trainers >= (swarm.start_peers if head < 0 else max(1, swarm.min_peers))

    def _core(self, since: float) -> list[Host]:
        """Hosts that were whole since then, and so was every link between any two: whoever has the most broken
        links is left out first."""
        if since < 0:
            return []
        net = self._world.net
        core = [h for h in self._world.hosts.values() if h.node and h.steady_since <= since and not self._ill(h)]
        while True:
            broken = {h.name: sum(not net.joined(h.name, o.name, since) for o in core if o is not h) for h in core}
            worst = max(core, key=lambda h: broken[h.name], default=None)
            if worst is None or not broken[worst.name]:
                return core
            core.remove(worst)

    def _ill(self, host: Host) -> bool:
        return host.rots or host.rotten or host.event_s > 0 or self._world.now < host.full_until
