"""`intellectd run`, before anything heavy is imported: the checks that keep most daemons from starting.

Owns the lock on the state directory, the identity, and that socket and ports are free; then hands over to app.py.
Torch and libp2p take seconds to import: who has mistyped something should not wait for them.
"""

import importlib

from intellectd.daemon.claims import NotOurAddress, claim_tcp, refuse_if_taken
from intellectd.daemon.config import Config
from intellectd.daemon.config_values import split_host_port
from intellectd.daemon.identity import Identity
from intellectd.daemon.lock import StateLock
from intellectd.daemon.net import BadAddress
from intellectd.daemon.p2p.addresses import parse_listen


def main(config: Config) -> int:
    """Run until SIGTERM, SIGINT or `shutdown`. Raises OperatorError with the exit code."""
    with StateLock(config.state_dir):
        refuse_if_taken(config.socket)
        identity = Identity.load_or_create(config.identity_path)
        _claim_ports(config)
        code: int = importlib.import_module("intellectd.daemon.app").main(config, identity)
    return code


def _claim_ports(config: Config) -> None:
    for text in config.network.listen:
        try:
            address = parse_listen(text)
        except BadAddress as error:
            raise NotOurAddress(str(error), "correct network.listen in the configuration") from error
        claim_tcp(address.host, address.port, f"the control plane (`network.listen`: {text})")
    claim_tcp(*split_host_port(config.network.bulk_listen), "tensors (`network.bulk_listen`)")
    if config.metrics.listen:
        claim_tcp(*split_host_port(config.metrics.listen), "metrics (`metrics.listen`)")
