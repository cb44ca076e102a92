"""The control plane over libp2p. `intellectd.daemon.p2p.host.open_network` is the way in.

Nothing is imported here: libp2p costs over half a second and 60 MB, and `daemon.memory_net` shares the parts
of this package that do not need it (addresses, bootstrap, limits, link, rpc, wire).
"""
