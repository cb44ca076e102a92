"""The entry point: parse, dispatch, and turn whatever happens into words and an exit code.

Owns the one place where errors become text. A traceback is shown with --debug only. Refuses to know verbs:
the parser names a function, which is imported when its verb is chosen.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from intellectd.daemon.cli.output import complain, write_error
from intellectd.daemon.cli.parser import build_parser
from intellectd.daemon.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, OperatorError


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.verb is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        return _dispatch(arguments.function, arguments)
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _explain(error, show_traceback=arguments.debug)


def _dispatch(function: str, arguments: object) -> int:
    module, _, name = function.partition(":")
    code: int = getattr(importlib.import_module(module), name)(arguments)
    sys.stdout.flush()
    return code


def _explain(error: BaseException, show_traceback: bool) -> int:
    if show_traceback:
        import traceback

        write_error("".join(traceback.format_exception(error)))
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, OperatorError):
            complain(leaf.message, leaf.hint)
            return leaf.exit_code
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return EXIT_INTERRUPTED
    complain(
        f"internal error: {type(leaves[0]).__name__}: {leaves[0]}",
        "this is a fault of intellectd; `--debug` shows where" if not show_traceback else "",
    )
    return EXIT_FAILURE


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested exception groups, in which trio delivers what its tasks raised."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
