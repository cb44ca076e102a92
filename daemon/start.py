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
from intellectd.daemon.logs import get_log
from intellectd.daemon.net import BadAddress
from intellectd.daemon.p2p.addresses import parse_listen

log = get_log("daemon")


def main(config: Config) -> int:
    """Run until SIGTERM, SIGINT or `shutdown`. Raises OperatorError with the exit code."""
    with StateLock(config.state_dir):
        refuse_if_taken(config.socket)
        is_new = not config.identity_path.exists()
        identity = Identity.load_or_create(config.identity_path)
        if is_new and any((config.state_dir / "runs").glob("*/manifest")):
            log.warning(
                "an identity was made: to the runs here this host is a new peer, without the seat that it had in them",
                key=str(config.identity_path),
                next="if it has another one, stop the daemon and restore that from a backup",
            )
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
