"""The verbs of this host itself: run, config, version, demo. None of them needs a running daemon."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from intellectd.daemon.cli.output import printable, write, write_json
from intellectd.daemon.cli.tables import table
from intellectd.daemon.errors import EXIT_OK, OperatorError


def run(arguments: Any) -> int:
    """Be the daemon. Its errors become log lines when logs are JSON, because nobody reads them as prose."""
    from intellectd.daemon import logs

    config = load(arguments)
    logs.configure(config.log.format, "debug" if arguments.debug else config.log.level)
    try:
        code: int = importlib.import_module("intellectd.daemon.start").main(config)
    except OperatorError as error:
        if "JOURNAL_STREAM" in os.environ:  # more people read that than may know a run's id
            error.message, error.hint = logs.without_run_ids(error.message), logs.without_run_ids(error.hint)
        if config.log.format != "json" or arguments.json:
            raise
        logs.get_log("daemon").error(error.message, next=error.hint, exit_code=error.exit_code)
        return error.exit_code
    return code


def demo(arguments: Any) -> int:
    code: int = importlib.import_module("intellectd.daemon.demo").main(arguments)
    return code


def version(arguments: Any) -> int:
    from importlib.metadata import version as installed_version

    own = installed_version("intellectd")
    python = sys.version.split()[0]
    if arguments.json:
        write_json({"version": own, "python": python})
    else:
        write(f"intellectd {own} (Python {python})")
    return EXIT_OK


def config_validate(arguments: Any) -> int:
    config = load(arguments)
    if arguments.json:
        write_json({"valid": True, "file": str(config.file) if config.file else None})
    elif config.file:
        write(f"{config.file} is valid")
    else:
        write("there is no config file: every value is a default, a flag or a variable, and valid")
    return EXIT_OK


def config_show(arguments: Any) -> int:
    config = load(arguments)
    effective = _values(config)
    if arguments.json:
        write_json({"config": effective, "sources": dict(config.sources)})
        return EXIT_OK
    rows = [(key, printable(_text(value)), config.sources.get(key, "-")) for key, value in effective.items()]
    write("\n".join(table(("KEY", "VALUE", "FROM"), rows)))
    return EXIT_OK


def config_paths(arguments: Any) -> int:
    from intellectd.daemon.config import config_file

    config = load(arguments)
    named = Path(arguments.config) if arguments.config else None
    paths = {
        "config": str(config_file(os.environ, named)),
        "state": str(config.state_dir),
        "identity": str(config.identity_path),
        "socket": str(config.socket),
    }
    if arguments.json:
        write_json({"paths": paths})
    else:
        write("\n".join(f"{name:<10}{path}" for name, path in paths.items()))
    return EXIT_OK


def load(arguments: Any) -> Any:
    """The configuration by flags, variables, file and defaults. Raises ConfigError."""
    from intellectd.daemon.config import SETTINGS, load_config

    flags = {setting.key: getattr(arguments, setting.key, None) for setting in SETTINGS}
    return load_config(Path(arguments.config) if arguments.config else None, flags)


def _values(config: Any) -> dict[str, Any]:
    from intellectd.daemon.config import SETTINGS

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value

    def lookup(key: str) -> Any:
        section, _, name = key.rpartition(".")
        return getattr(getattr(config, section) if section else config, name)

    values = {setting.key: plain(lookup(setting.key)) for setting in SETTINGS}
    return values | {f"data.{name}": str(folder) for name, folder in config.data.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value) or "-"
