"""`intellectd run`, before anything heavy is imported: the checks that keep most daemons from starting.

Owns the lock on the state directory, the identity, and that the socket is free; then hands over to app.py. Torch and
libp2p take seconds to import: who has mistyped something should not wait for them.
"""

import importlib

from intellectd.daemon.config import Config
from intellectd.daemon.identity import Identity
from intellectd.daemon.listeners import refuse_if_taken
from intellectd.daemon.lock import StateLock


def main(config: Config) -> int:
    """Run until SIGTERM, SIGINT or `shutdown`. Raises OperatorError with the exit code."""
    with StateLock(config.state_dir):
        refuse_if_taken(config.socket)
        identity = Identity.load_or_create(config.identity_path)
        code: int = importlib.import_module("intellectd.daemon.app").main(config, identity)
    return code
