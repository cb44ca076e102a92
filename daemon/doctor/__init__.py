"""What `intellectd doctor` looks at on a host, with or without a running daemon.

Each check looks at one thing and returns a `Finding`; none changes anything. Imports neither torch, libp2p nor trio:
an operator whose daemon does not start should not wait for them, and they may be what is broken.
"""
