"""The grammar of the command line: every verb, its arguments and the function that does it.

Owns names and help texts. Imports no verb: functions are named by text, so that `--help` stays quick and the
completion scripts can be made by walking this tree.
"""

import argparse
import difflib
import re
from typing import Any, NoReturn

from intellectd.daemon.errors import EXIT_USAGE, OperatorError

ROUNDS_SHOWN = 20  # what a terminal shows at once
PACKAGE = "intellectd.daemon.cli"
EPILOG = """\
exit codes:
  0 done   1 failed   2 usage   3 daemon not running   4 degraded or not joined   124 timed out
  78 bad configuration or run.toml; the daemon itself: 69 port in use   75 state directory in use
  77 permission or disk   78 also a damaged file

environment:
  INTELLECTD_SOCKET, INTELLECTD_CONFIG, and INTELLECTD_<KEY> for every key of the config file
"""


class BadUsage(OperatorError):
    """The command line is none that this program knows."""

    exit_code = EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """argparse, with this project's manner of saying what was wrong and what comes next."""

    def error(self, message: str) -> NoReturn:
        raise BadUsage(message, _suggestion(message) or f"see `{self.prog} --help`")


def _suggestion(message: str) -> str:
    found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    if not found:
        return ""
    near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2]), n=1)
    return f"did you mean `{near[0]}`?" if near else ""


def build_parser() -> Parser:
    parser = Parser(
        prog="intellectd",
        description="A peer-to-peer elastic training daemon.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common(is_root=True)],
    )
    # As the verb: it is what everybody tries first.
    parser.add_argument("--version", dest="verb", action="store_const", const="version", help="as `version`")
    parser.set_defaults(function=f"{PACKAGE}.host:version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=Parser)
    _host_verbs(verbs)
    _run_verbs(verbs)
    _look_verbs(verbs)
    _other_verbs(verbs)
    return parser


def _common(is_root: bool) -> argparse.ArgumentParser:
    """Options that may stand before or after the verb; after it, an absent one must not undo one before."""

    def default(value: Any) -> Any:
        return value if is_root else argparse.SUPPRESS

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--socket", metavar="PATH", default=default(None), help="the daemon's unix socket")
    common.add_argument("--json", action="store_true", default=default(False), help="machine-readable answer on stdout")
    common.add_argument("--debug", action="store_true", default=default(False), help="tracebacks, and all log lines")
    return common


def _verb(verbs: Any, name: str, function: str, what: str) -> Any:
    verb = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", parents=[_common(False)])
    verb.set_defaults(function=f"{PACKAGE}.{function}")
    return verb


def _host_verbs(verbs: Any) -> None:
    run = _verb(verbs, "run", "host:run", "be the daemon of this host")
    _config_flags(run)
    doctor = _verb(verbs, "doctor", "doctor:doctor", "check that this host is fit for its runs; needs no daemon")
    _config_flags(doctor)
    config = _verb(verbs, "config", "host:config_show", "check or show this host's configuration")
    parts = config.add_subparsers(dest="part", metavar="PART", required=True, parser_class=Parser)
    _config_flags(_verb(parts, "validate", "host:config_validate", "check the config file"))
    _config_flags(_verb(parts, "show", "host:config_show", "show every value and where it comes from"))
    _config_flags(_verb(parts, "paths", "host:config_paths", "show where everything lies"))


def _config_flags(verb: Any) -> None:
    """One flag for each setting that an operator may want to give by hand; names as `daemon.config.SETTINGS`."""
    settings = verb.add_argument_group("settings", "each stands before INTELLECTD_<KEY>, the file and the default")
    settings.add_argument("--config", metavar="FILE", help="config file (TOML)")
    for key, metavar, what in (
        ("state_dir", "DIR", "identity, runs and snapshots live here"),
        ("trainer", "WHAT", 'builtin, external, or ["command", "arguments"]'),
        ("trainer_threads", "N", "torch threads of the trainer, 0 for torch's default"),
        ("evaluate", "BOOL", "compute the held-out loss of each new anchor here"),
        ("network.bulk_listen", "HOST:PORT", "where tensors are received"),
        ("network.bulk_announce", "HOST:PORT", "what peers are told instead, none if nobody can dial this host"),
        ("network.upload_mbit", "N", "Mbit/s of tensors sent, 0 for no limit"),
        ("network.download_mbit", "N", "Mbit/s of tensors received, 0 for no limit"),
        ("network.serve_percent", "N", "of upload_mbit, what joiners may take: 1 to 100"),
        ("snapshots.keep", "N", "states of each run on this disk, at most"),
        ("snapshots.keep_gb", "N", "GB of them, 0 for no limit"),
        ("metrics.listen", "HOST:PORT", 'where Prometheus reads, "" for nowhere'),
        ("log.format", "FORMAT", "auto, human or json"),
        ("log.level", "LEVEL", "debug, info, warning or error"),
    ):
        settings.add_argument(_flag(key), dest=key, metavar=metavar, help=what)
    for key, what in (
        ("network.listen", "where the control plane listens"),
        ("network.announce", "what peers are told instead"),
        ("network.bootstrap", "a peer to try at first"),
    ):
        settings.add_argument(_flag(key), dest=key, metavar="MULTIADDR", action="append", help=what + " (repeatable)")


def _flag(key: str) -> str:
    return "--" + key.replace(".", "-").replace("_", "-")


def _run_verbs(verbs: Any) -> None:
    init = _verb(verbs, "init", "membership:init", "create a run from run.toml, and join it")
    init.add_argument("file", metavar="run.toml", help="what the run is")
    join = _verb(verbs, "join", "membership:join", "join a run, now and after every restart")
    _run_id(join)
    join.add_argument("--peer", metavar="MULTIADDR", action="append", default=[], help="a member to ask (repeatable)")
    join.add_argument("--head", metavar="HASH", default="", help="a record that the run's history must contain")
    join.add_argument("--wait", action="store_true", help="show progress until this host is synced")
    _timeout(join)
    leave = _verb(
        verbs, "leave", "waiting:leave", "leave a run, when the others can do without this host; its files stay"
    )
    _known_run(leave)
    leave.add_argument("--now", action="store_true", help="at once, though the others may count on this host's vote")
    _timeout(leave, 60.0, "a minute; leaving goes on by itself")
    wait = _verb(verbs, "wait", "waiting:wait", "wait until a run has come so far")
    _known_run(wait)
    wait.add_argument(
        "--for", dest="goal", metavar="GOAL", default="synced", help="joined, synced (default), round=N or finished"
    )
    _timeout(wait)

    recover = _verb(verbs, "recover", "recover:recover", "go on without a quorum, by the owner's word")
    _known_run(recover)
    recover.add_argument("--key", metavar="FILE", action="append", default=[], help="an owner's key (repeatable)")
    recover.add_argument("--yes", action="store_true", help="do it; without this only what it would do is shown")
    recover.add_argument("--draft", metavar="FILE", help="only write what is to be signed, for owners elsewhere")
    recover.add_argument("--signed", metavar="FILE", action="append", default=[], help="that, signed (repeatable)")
    sign = _verb(
        verbs, "sign", "signing:sign", "sign what `recover --draft` wrote, with an owner's key; no daemon needed"
    )
    sign.add_argument("file", metavar="FILE", help="the signature is added to it")
    sign.add_argument("--key", metavar="FILE", required=True, help="the owner's key, as `intellectd keygen` made it")
    sign.add_argument("--yes", action="store_true", help="sign; without this only what that would do is shown")
    keygen = _verb(verbs, "keygen", "recover:keygen", "make an owner's key, for a run that several are to recover")
    keygen.add_argument("file", metavar="FILE", help="a new file; run.toml lists the key's name under [recovery] keys")


def _run_id(verb: Any) -> None:
    verb.add_argument("run_id", metavar="RUN-ID", help="as `intellectd init` printed it")


def _known_run(verb: Any) -> None:
    verb.add_argument("run_id", metavar="RUN", help='its id or name (see `intellectd runs`), or "" for the only one')


def _maybe_run(verb: Any) -> None:
    verb.add_argument("run_id", metavar="RUN", nargs="?", default=None, help="its id or name; all runs without it")


def _timeout(verb: Any, default_s: float = 86_400.0, words: str = "a day") -> None:
    verb.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=default_s, help=f"stop waiting after ({words})"
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 1e9:
        raise ValueError
    return seconds


_seconds.__name__ = "number of seconds"  # argparse puts it in the message


def _look_verbs(verbs: Any) -> None:
    for name, what in (
        ("status", "how this host and its runs are doing"),
        ("runs", "the runs of this host"),
        ("peers", "the other members, as this host hears them"),
    ):
        verb = _verb(verbs, name, f"look:{name}", what)
        verb.add_argument("--watch", action="store_true", help="again every two seconds, until interrupted")
        if name != "runs":
            _maybe_run(verb)
    rounds = _verb(verbs, "rounds", "rounds:rounds", "the newest rounds of a run, and their records' hashes")
    rounds.add_argument("run_id", metavar="RUN", nargs="?", default="", help="its id or name; the only one without it")
    rounds.add_argument("--last", metavar="N", type=int, default=ROUNDS_SHOWN, help=f"how many ({ROUNDS_SHOWN})")
    netcheck = _verb(verbs, "netcheck", "look:netcheck", "who reaches whom, how fast, and what to do about it")
    _maybe_run(netcheck)
    _verb(verbs, "metrics", "look:metrics", "the metrics as Prometheus would read them")


def _other_verbs(verbs: Any) -> None:
    checkpoint = _verb(verbs, "checkpoint", "export:export", "the model as files")
    parts = checkpoint.add_subparsers(dest="part", metavar="PART", required=True, parser_class=Parser)
    for name, what in (
        ("ls", "the states of a run on this disk; needs no daemon"),
        ("verify", "check every byte of them; needs no daemon"),
    ):
        part = _verb(parts, name, f"checkpoints:{name}", what)
        part.add_argument("run_id", metavar="RUN", nargs="?", default="", help="its id; the only one without it")
        part.add_argument("--state-dir", metavar="DIR", default=None, help="of the daemon (as configured)")
    part.add_argument("--round", type=int, metavar="N", default=None, help="only the state after this round")
    export = _verb(parts, "export", "export:export", "write the newest anchor as a model that other programs load")
    _known_run(export)
    export.add_argument("path", metavar="DIR", help="a new or empty folder")
    export.add_argument(
        "--format",
        choices=["hf", "safetensors"],
        default="hf",
        help="hf (default): a model that transformers loads; safetensors: the bare tensors, of any model",
    )
    export.add_argument(
        "--dtype",
        choices=["fp32", "bf16"],
        default="fp32",
        help="fp32 (default), or bf16 for half the size",
    )
    export.add_argument(
        "--round", type=int, metavar="N", default=None, help="the state of this round on this disk; needs no daemon"
    )
    export.add_argument("--state-dir", metavar="DIR", default=None, help="with --round: of the daemon (as configured)")
    take = _verb(parts, "import", "membership:import_", "create a run that goes on from a Hugging Face checkpoint")
    take.add_argument("path", metavar="DIR", help="a folder with config.json and safetensors")
    take.add_argument("file", metavar="run.toml", help="what else the run is; its model is the checkpoint's")
    log = _verb(verbs, "log", "log:verify", "the history of a run, as it lies on this disk")
    parts = log.add_subparsers(dest="part", metavar="PART", required=True, parser_class=Parser)
    verify = _verb(parts, "verify", "log:verify", "check every record, certificate and kept update; needs no daemon")
    verify.add_argument("run_id", metavar="RUN", help='its id, or "" for the only one')
    verify.add_argument("--state-dir", metavar="DIR", default=None, help="of the daemon (as configured)")
    demo = _verb(verbs, "demo", "host:demo", "a swarm on this machine: train, lose a host, gain one, judge")
    demo.add_argument("--peers", type=int, default=4, metavar="N", help="daemons at the start (4)")
    demo.add_argument("--rounds", type=int, default=None, metavar="N", help="outer steps")
    demo.add_argument("--state-dir", metavar="DIR", default=None, help="keep the peers' state directories there")
    _verb(verbs, "version", "host:version", "the version of this program")
    completion = _verb(verbs, "completion", "completion:completion", "a completion script for a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
