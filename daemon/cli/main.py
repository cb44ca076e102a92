"""The entry point: parse, dispatch, and turn whatever happens into words and an exit code.

Owns the one place where errors become text. A traceback is shown with --debug only. Refuses to know verbs:
the parser names a function, which is imported when its verb is chosen.
"""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from intellectd.daemon.cli.output import CannotWrite, complain, write, write_error, write_json
from intellectd.daemon.cli.parser import Parser, build_parser
from intellectd.daemon.errors import CODES, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, OperatorError, leaves


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    as_json, debug = "--json" in words, "--debug" in words
    try:
        code = _run(words)
        write("", end="")  # what is still buffered must not fail where nobody hears of it
        return code
    except BrokenPipeError:
        _give_up_stdout()  # the reader of a pipe has seen enough
        return EXIT_FAILURE
    except CannotWrite as error:
        _give_up_stdout()
        return _explain(error, as_json=False, show_traceback=debug)
    except BaseException as error:
        if isinstance(error, SystemExit):  # argparse has printed its help
            raise
        return _explain(error, as_json, debug)


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    arguments = _parse(parser, words)
    if arguments.verb is None and arguments.json:
        parser.error("no verb was given")
    if arguments.verb is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    module, _, name = arguments.function.partition(":")
    code: int = getattr(importlib.import_module(module), name)(arguments)
    return code


def _parse(parser: Parser, words: Sequence[str]) -> Any:
    """Help that was asked for with --json is an answer like any other: one object."""
    if "--json" not in words:
        return parser.parse_args(words)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return parser.parse_args(words)
    except SystemExit:
        write_json({"help": said.getvalue()})
        raise


def _give_up_stdout() -> None:
    """Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException, as_json: bool, show_traceback: bool) -> int:
    if show_traceback:
        import traceback

        write_error("".join(traceback.format_exception(error)))
    inside = leaves(error)
    for leaf in inside:
        if isinstance(leaf, OperatorError):
            return _tell(leaf, as_json)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in inside):
        return EXIT_INTERRUPTED
    hint = "" if show_traceback else "this is a fault of intellectd; `--debug` shows where"
    fault = OperatorError(f"internal error: {type(inside[0]).__name__}: {inside[0]}", hint)
    fault.code = "internal"
    return _tell(fault, as_json)


def _tell(error: OperatorError, as_json: bool) -> int:
    """Words for people; and with --json the same as one object, where a script looks for the answer."""
    complain(error.message, error.hint)
    if as_json:
        code = error.code or CODES.get(error.exit_code, "failed")
        facts = {"code": code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        with contextlib.suppress(CannotWrite, BrokenPipeError):
            write_json({"error": facts})
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
