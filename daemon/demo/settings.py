"""The demo's fixed settings: a small Llama on bytes of real text, timers for one machine, seeds.

Owns numbers and the texts made of them. Each was tried on 2 cores; the README beside says how.
"""

from pathlib import Path

PEERS_MIN, PEERS_MAX = 3, 16
ROUNDS, ROUNDS_MIN = 18, 12
SEED = 1
# Peers that compute the held-out loss: two that stay, so that it is always known and cores are not wasted.
EVALUATORS = (2, 3)
TRAINER_THREADS = 1

RUN_TOML = """\
name = "demo"
seed = {seed}

[model]            # 0.86M parameters
kind = "llama"

[data]
source = "python-stdlib"
batch_size = 1     # where gradients are noisy, averaging pays
eval_sequences = 32

[inner]
steps = 40
lr = 1e-3
betas = [0.9, 0.95]
weight_decay = 0.1
warmup_steps = 20

[outer]
momentum = 0.9
lr = [[1, 0.4], [2, 0.6], [4, 0.6], [8, 0.8]]

[swarm]
start_peers = {peers}
min_peers = 1

[timers]           # one machine: beacons are cheap, and a death should show at once
beacon_s = 1.0
suspect_s = 6.0
expel_s = 30.0
grace_min_s = 5.0
grace_max_s = 30.0
attempt_s = 6.0
stall_s = 6.0
transfer_s = 120.0

[until]
rounds = {rounds}
"""

PEER_TOML = """\
state_dir = "{state}"
socket = "{socket}"
trainer_threads = {threads}
evaluate = {evaluate}

[network]
listen = ["/ip4/127.0.0.1/tcp/0"]
bulk_listen = "127.0.0.1:0"

[metrics]
listen = "127.0.0.1:0"
"""


def run_toml(peers: int, rounds: int) -> str:
    return RUN_TOML.format(seed=SEED, peers=peers, rounds=rounds)


def peer_toml(state: Path, socket: Path, number: int) -> str:
    evaluate = "true" if number in EVALUATORS else "false"
    return PEER_TOML.format(state=state, socket=socket, threads=TRAINER_THREADS, evaluate=evaluate)
