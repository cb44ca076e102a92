"""The command line without a daemon, or with bad words: what it says, what it answers, what it imports."""

import io
import json
import os
import pty
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intellectd.daemon.cli import completion, output
from intellectd.daemon.cli.main import _tell, main
from intellectd.daemon.cli.parser import build_parser
from intellectd.daemon.config import SETTINGS
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.frames import encode_frame
from tests.daemon.fake_answers import RUN_ID

HEAVY = ("torch", "libp2p", "trio", "transformers", "cryptography", "numpy", "prometheus_client", "multiaddr")
Capture = pytest.CaptureFixture[str]


def usage_error(words: list[str], capsys: Capture) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], ["status"], ["join", RUN_ID], ["config", "show"], ["version"], ["doctor"]]
)
def test_nothing_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    program = f"""
import sys
from intellectd.daemon.cli.main import _tell, main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    environ = {**os.environ, "INTELLECTD_SOCKET": str(tmp_path / "none.sock"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["runs", "--json"],
        ["peers"],
        ["metrics"],
        ["join", RUN_ID],
        ["leave", RUN_ID],
        ["wait", RUN_ID],
        ["checkpoint", "export", RUN_ID, "out"],
    ],
)
def test_without_a_daemon_the_answer_is_3_and_the_next_step(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "none.sock"
    assert main([*words, "--socket", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == "" if "--json" not in words else json.loads(out)["error"]["code"] == "not_running"
    assert err.startswith(f"intellectd: no daemon is running: nobody answers on {path}\n")
    assert f"intellectd run --socket {path}" in err


def test_a_dead_daemons_socket_is_no_daemon(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert main(["--socket", str(path), "status"]) == 3
    assert "no daemon is running" in capsys.readouterr().err


def test_what_a_stranger_said_does_not_drive_the_terminal(capsys: Capture) -> None:
    """A refusal repeats what a peer answered to the daemon. Its lines stay lines: that of a nested error has some."""
    error = OperatorError("12D3: \x1b[2Jno such run\x07\n  ask another", "hint\r\x1b]0;gone\x07")
    assert _tell(error, as_json=False) == 1
    assert capsys.readouterr().err == "intellectd: 12D3: �[2Jno such run�\n  ask another\n  hint��]0;gone�\n"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [(b"", "closed the connection"), (b"HTTP/1.1 400", "a frame claims"), (encode_frame({}), "without a reason")],
)
def test_somebody_else_on_the_socket_is_an_error(said: bytes, complaint: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.recv(4096)
                sock.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["status", "--socket", str(path)]) == 1
        thread.join()
    assert complaint in capsys.readouterr().err


def test_the_socket_may_be_named_before_and_after_the_verb_and_by_variable(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTELLECTD_SOCKET", "/var/none-by-variable")
    for words in (["--socket", "/var/none-by-flag", "status"], ["status", "--socket", "/var/none-by-flag"]):
        assert main(words) == 3
        assert "/var/none-by-flag" in capsys.readouterr().err
    assert main(["status"]) == 3
    assert "/var/none-by-variable" in capsys.readouterr().err


def test_a_socket_path_too_long_is_told(capsys: Capture) -> None:
    assert main(["status", "--socket", "/tmp/" + "x" * 200]) == 78
    assert "a unix socket's may have 107" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["join", "--json"], "usage", "RUN-ID"),
        (["--json"], "usage", "no verb"),
        (["--json", "config", "validate", "--config", "/nowhere"], "bad_config", "/nowhere"),
        (["status", "--json", "--socket", "/var/none"], "not_running", "/var/none"),
        (["config", "validate", "--json", "--network-bulk-announce", "0.0.0.0:0"], "bad_config", "others can dial"),
    ],
)
def test_with_json_an_error_is_one_object_too(words: list[str], code: str, what: str, capsys: Capture) -> None:
    exit_code = main(words)
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["schema"] == 1 and (said["error"]["code"], said["error"]["exit_code"]) == (code, exit_code)
    assert what in said["error"]["message"] and said["error"]["message"] in err


def test_an_answer_that_cannot_be_written(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m intellectd.daemon.cli.main version > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "intellectd: cannot write the answer: No space left on device",
    )


def test_a_mistyped_verb_gets_the_nearest(capsys: Capture) -> None:
    assert "did you mean `status`?" in usage_error(["stauts"], capsys)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["join"], "RUN-ID"),
        (["wait", RUN_ID, "--timeout", "soon"], "invalid number of seconds value: 'soon'"),
        (["wait", RUN_ID, "--timeout", "-1"], "invalid number of seconds"),
        (["wait", RUN_ID, "--timeout", "nan"], "invalid number of seconds"),
        (["config"], "PART"),
        (["checkpoint", "export", RUN_ID, "out", "--format", "gguf"], "invalid choice: 'gguf'"),
        (["status", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    ],
)
def test_usage_errors_are_short_and_answer_2(words: list[str], complaint: str, capsys: Capture) -> None:
    err = usage_error(words, capsys)
    assert complaint in err
    assert len(err.splitlines()) == 2


def test_no_verb_is_a_usage_error_with_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "exit codes:" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["join", "hello"], "is no run id"),
        (["join", RUN_ID[:-1]], "part of it is missing"),
        (["leave", RUN_ID[:10] + ("a" if RUN_ID[10] != "a" else "b") + RUN_ID[11:]], "mistyped"),
        (["join", RUN_ID, "--head", "12ab"], "not the hash of a record, 64 hex digits"),
        (["join", RUN_ID, "--peer", "203.0.113.5:4001"], "a multiaddr that ends in /p2p/"),
        (["join", RUN_ID, "--peer", "/ip4/203.0.113.5/tcp/4001"], "ends in /p2p/"),
        (["wait", RUN_ID, "--for", "round"], "wait for joined, synced, round=N or finished"),
        (["wait", RUN_ID, "--for", "round=-1"], "wait for joined"),
    ],
)
def test_wrong_arguments_are_told_before_any_daemon_is_asked(words: list[str], complaint: str, capsys: Capture) -> None:
    assert main([*words, "--socket", "/var/none"]) == 2
    assert complaint in capsys.readouterr().err


def test_a_run_file_that_is_not_there_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", str(tmp_path / "run.toml")]) == 78
    assert f"cannot read {tmp_path}/run.toml: No such file" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert main(["init", str(tmp_path / "binary")]) == 78
    (tmp_path / "huge").write_bytes(b"#" * 300_000)
    assert main(["init", str(tmp_path / "huge")]) == 78


def test_config_validate_answers_78_with_the_nearest_key(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[log]\nlevle = "info"\n')
    assert main(["config", "validate", "--config", str(path)]) == 78
    assert "did you mean `log.level`?" in capsys.readouterr().err
    path.write_text('[log]\nlevel = "debug"\n')
    assert main(["config", "validate", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} is valid\n"


def test_the_daemon_with_a_bad_config_answers_78_and_starts_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", "--config", str(tmp_path / "absent.toml")]) == 78
    assert "absent.toml cannot be read" in capsys.readouterr().err


def test_config_show_and_paths(tmp_path: Path, capsys: Capture) -> None:
    words = ["--state-dir", str(tmp_path), "--log-level", "debug", "--json"]
    assert main(["config", "show", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["state_dir"] == str(tmp_path)
    assert shown["sources"]["log.level"] == "flag --log-level"
    assert main(["config", "paths", *words]) == 0
    assert json.loads(capsys.readouterr().out)["paths"]["identity"] == f"{tmp_path}/identity.key"
    assert main(["config", "show", "--state-dir", str(tmp_path)]) == 0
    assert "network.listen" in capsys.readouterr().out


def test_every_setting_has_a_flag() -> None:
    flags = {word for word, _ in completion.collect(build_parser())["run",]}
    assert {"--" + setting.key.replace(".", "-").replace("_", "-") for setting in SETTINGS} <= flags


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OperatorError("the disk is full", "free some space"), 1, "the disk is full\n  free some space"),
        (ExceptionGroup("g", [ExceptionGroup("h", [OperatorError("in use")])]), 1, "in use"),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), 130, ""),
        (
            ZeroDivisionError("of ours"),
            1,
            "internal error: ZeroDivisionError: of ours\n",
        ),
    ],
)
def test_whatever_happens_becomes_words_and_a_code(
    error: BaseException, code: int, said: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr("intellectd.daemon.cli.look.status", fail)
    assert main(["status"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert main(["status", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err or "KeyboardInterrupt" in repr(error)


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m intellectd.daemon.cli.main completion bash | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_terminal_that_lacks_a_character_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ids are shown with an ellipsis, which not every encoding has; JSON has its own way to say it."""
    heard = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(heard, encoding="latin-1"))
    output.write("rn1a…z, né")
    output.write_json({"name": "rn1a…z, né"})
    plain, told = heard.getvalue().splitlines()
    assert plain == "rn1a?z, né".encode("latin-1")
    assert json.loads(told) == {"schema": 1, "name": "rn1a…z, né"}


def painted(environ: dict[str, str]) -> bytes:
    """What `status` writes to a terminal, through a real one."""
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, pytest.MonkeyPatch.context() as patch:
        for name in ("NO_COLOR", "TERM"):
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        stream.write(output.paint("halted", "red", stream))
        stream.flush()
        written = os.read(controller, 100)
    os.close(controller)
    return written


def test_colour_is_for_terminals_that_want_it() -> None:
    assert painted({"TERM": "xterm"}) == b"\x1b[31mhalted\x1b[0m"
    assert painted({"TERM": "xterm", "NO_COLOR": "1"}) == b"halted"
    assert painted({"TERM": "dumb"}) == b"halted"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb_and_flag(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("status", "checkpoint", "export", "validate", "peer", "for", "log-format"):
        assert word in script


def test_the_bash_script_completes_in_a_real_bash(tmp_path: Path, capsys: Capture) -> None:
    main(["completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    ask = 'source "$1"; COMP_WORDS=(intellectd {words}); COMP_CWORD={count}; _intellectd; echo "${{COMPREPLY[*]}}"'

    def complete(*words: str) -> list[str]:
        program = ask.format(words=" ".join(f"'{word}'" for word in words), count=len(words))
        done = subprocess.run(["bash", "-c", program, "bash", str(script)], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("sta") == ["status"]
    assert {"paths", "show", "validate"} <= {*complete("config", "")}
    assert complete("--json", "join", "--pe") == ["--peer"]
    assert complete("completion", "f") == ["fish"]


@pytest.mark.parametrize("words", [["--help", "--json"], ["--json", "join", "--help"]])
def test_help_is_json_where_json_was_asked_for(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and said["schema"] == 1 and said["help"].startswith("usage: intellectd")


def test_a_completion_script_is_json_where_json_was_asked_for(capsys: Capture) -> None:
    assert main(["completion", "fish"]) == 0
    script = capsys.readouterr().out
    assert main(["completion", "fish", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "shell": "fish", "script": script.rstrip("\n")}


def test_the_version_as_an_option_is_the_verb(capsys: Capture) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("intellectd ")
    answers = [main(words) or capsys.readouterr().out for words in (["--version", "--json"], ["version", "--json"])]
    assert answers[0] == answers[1] and json.loads(str(answers[0]))["version"]


def test_log_verify_says_that_a_file_is_no_state_directory(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["log", "verify", "", "--state-dir", str(tmp_path / "file")]) == 78
    assert "file is no folder" in capsys.readouterr().err
