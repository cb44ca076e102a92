"""The bulk plane: tensors between daemons over pinned TLS 1.3 sockets, in threads of its own.

`interface` is what the app sees, `engine` implements it. Nothing here imports trio or libp2p, and nothing knows
what a round or a vote is.
"""
