"""The command line: a command in a host, one in each, changes while they run, and what is said of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.wan.__main__ import main
from tests.wan.network import why_not

ROOT = Path(__file__).parents[2]
needs_network = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
RUN_S = 60.0
LISTENER = """
import socket
with socket.create_server(("", 4001)) as server:
    print(server.accept()[0].recv(10))
"""
DIALLER = """
import contextlib, socket, sys
connection = None
while connection is None:
    with contextlib.suppress(ConnectionRefusedError):  # nobody listens yet
        connection = socket.create_connection((sys.argv[1], 4001), 30)
connection.send(b"through")
"""


def called(*words: str, told: str = "") -> subprocess.CompletedProcess[str]:
    line = (sys.executable, "-m", "tests.wan", *words)
    return subprocess.run(line, cwd=ROOT, input=told, capture_output=True, text=True, timeout=RUN_S, check=False)


@needs_network
def test_a_command_runs_in_its_host_and_its_exit_code_is_ours() -> None:
    script = "read line; echo {host} {address} {london} $WAN_ADDRESS $line; ip -o -4 address show wan0; exit 7"
    done = called("--topology", "three-continents", "--host", "tokyo", "--", "sh", "-c", script, told="hello\n")
    first, second = done.stdout.splitlines()
    assert first == "tokyo 198.18.0.5 198.18.0.4 198.18.0.5 hello"
    assert "198.18.0.5/24" in second
    assert (done.returncode, done.stderr) == (7, "")


@needs_network
def test_each_host_runs_it_and_lines_name_their_host() -> None:
    done = called(
        "--topology", "three-continents.toml", "--each", "--", "sh", "-c", "echo {host} >&2; test {host} != tokyo"
    )
    names = ["dallas", "frankfurt", "london", "tokyo", "washington"]
    assert sorted(done.stdout.splitlines()) == [f"{name} | {name}" for name in names]
    assert done.returncode == 1


@needs_network
def test_hosts_talk_while_the_network_changes(tmp_path: Path) -> None:
    listener, dialler = tmp_path / "listener.py", tmp_path / "dialler.py"
    listener.write_text(LISTENER)
    dialler.write_text(DIALLER)
    done = called(
        *("--topology", "three-continents", "--at", "0", "cut tokyo", "--at", "0.5", "heal tokyo"),
        *("--on", "tokyo", f"{sys.executable} {listener}"),
        *("--on", "london", f"{sys.executable} {dialler} {{tokyo}}"),
    )
    assert done.stderr.splitlines() == ["after 0 s: cut tokyo", "after 0.5 s: heal tokyo"]
    assert done.stdout == "tokyo | b'through'\n"
    assert done.returncode == 0


@needs_network
def test_without_a_command_it_tells_how_to_get_in() -> None:
    done = called("--topology", "three-continents")
    assert done.stdout.startswith("dallas ")
    assert done.stdout.count("nsenter --net=/proc/") == 5
    assert done.returncode == 0


@needs_network
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "nowhere"], "nowhere.toml"),
        (["--topology", "three-continents", "--host", "x", "--", "true"], "no host 'x'"),
        (["--topology", "three-continents", "--on", "x", "true"], "no host 'x'"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert said in capsys.readouterr().err
