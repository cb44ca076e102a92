"""The built-in trainer: what `intellectd join` starts where the operator names no loop of their own."""
