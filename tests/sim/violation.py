"""What every check of the simulator raises. Apart, because an exception like this cannot be compiled (compiled.py)."""


class Violation(AssertionError):
    """An invariant broke."""
