"""What daemons say to each other and decide: pure machines, `handle(event, now) -> [Effect]`.

Nothing here opens a socket, reads a clock, starts a thread or draws unseeded randomness; numbers of the
model never pass through. `SPEC.md` numbers the rules; `node.py` is the map.
"""
