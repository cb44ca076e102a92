"""The run that worlds are made for."""

from intellectd.protocol.manifest import RunConfig, config_from_toml


def sim_config(until: int | None = None, attempt_s: float = 4.0, pace: float = 1.0, **swarm: int | str) -> RunConfig:
    """A run with ten-second rounds and timers at a fifth of the defaults, or so many times that."""
    fifth = {"beacon_s": 1.0, "suspect_s": 4.0, "expel_s": 20.0, "stall_s": 3.0, "grace_max_s": 20.0, "fork_s": 30.0}
    timers = {name: value * pace for name, value in {**fifth, "attempt_s": attempt_s}.items()}
    every, size = int(swarm.pop("exact_every", 0)), int(swarm.pop("group_size", 2))
    outer = {"schedule": "gossip", "gossip": {"exact_every": every, "group_size": size}} if every else {}
    data = {"name": "sim", "swarm": swarm, "timers": timers, "inner": {"steps": 10}, "outer": outer}
    return config_from_toml({**data, "until": {"rounds": until} if until else {}})


def default_config(**swarm: int) -> RunConfig:
    """With the manifest's own timers."""
    return config_from_toml({"name": "sim", "swarm": swarm, "inner": {"steps": 10}})
