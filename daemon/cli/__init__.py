"""The command line: verbs spoken to the daemon over its unix socket, and the verb that is the daemon.

Owns words, tables and exit codes. Imports neither torch, libp2p, transformers, cryptography nor trio on the
way to any verb but `run` and `demo`: a status that takes two seconds is a status nobody asks for.
"""
