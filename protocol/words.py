"""Words for people that several parts say alike. Knows nothing; light enough for the command line."""


def counted(number: int, what: str) -> str:
    """`1 voter`, `2 voters`: the plural of `what` ends in s."""
    return f"{number} {what}{'' if number == 1 else 's'}"
