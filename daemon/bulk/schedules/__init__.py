"""How a collective goes: which member sends which chunk to whom in which step, as arithmetic without sockets."""
