"""The control socket: answers for clients, and no harm from hostile ones. Real sockets, virtual time."""

import contextlib
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from intellectd.daemon import control
from intellectd.daemon.claims import AlreadyRunning, SocketInTheWay
from intellectd.daemon.control import ControlError, ControlServer
from intellectd.daemon.frames import FRAME_BYTES_MAX, FrameError
from intellectd.daemon.listeners import unix_listener
from intellectd.daemon.socket_path import SOCKET_PATH_BYTES_MAX, SocketPathError

Answer = dict[str, Any]


class Daemon:
    """Handlers that a test can look into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = trio.Event()
        self.cancelled = trio.Event()
        self.attached: list[Answer] = []
        handlers = {"echo": self.echo, "refuse": self.refuse, "break": self.broken, "wait": self.wait, "big": self.big}
        self.server = ControlServer(path, handlers, self.attach)

    async def echo(self, request: Answer) -> Answer:
        return {"said": request.get("say")}

    async def refuse(self, request: Answer) -> Answer:
        raise ControlError("no_such_run", "no such run here", "see `intellectd runs`")

    async def broken(self, request: Answer) -> Answer:
        raise ZeroDivisionError("of ours")

    async def big(self, request: Answer) -> Answer:
        return {"blob": b"x" * FRAME_BYTES_MAX}

    async def wait(self, request: Answer) -> Answer:
        self.waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    async def attach(self, sock: trio.socket.SocketType, request: Answer) -> None:
        if request.get("run") == "unknown":
            raise ControlError("no_such_run", "no such run here")
        self.attached.append(request)
        await control.send_frame(sock, {"ok": True, "got": await control.recv_frame(sock)})


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with serving(tmp_path / "intellectd.sock") as running:
        yield running


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.server.serve)
        yield daemon
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def client(path: Path) -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        await sock.connect(str(path))
        yield sock


async def ask(sock: trio.socket.SocketType, op: str, **fields: Any) -> Answer:
    await control.send_frame(sock, {"op": op, "version": 1, **fields})
    return await control.recv_frame(sock)


async def said_and_closed(sock: trio.socket.SocketType) -> list[Answer]:
    """Everything the daemon still says until it hangs up."""
    answers = []
    with contextlib.suppress(FrameError, OSError):
        while True:
            answers.append(await control.recv_frame(sock))
    return answers


async def test_one_client_asks_several_times(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        assert await ask(sock, "echo", say=1) == {"ok": True, "schema": 1, "said": 1}
        assert await ask(sock, "echo", say=[2]) == {"ok": True, "schema": 1, "said": [2]}


async def test_refusals_carry_code_message_and_hint(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        refused = await ask(sock, "refuse")
        assert refused["ok"] is False
        assert refused["error"] == {
            "code": "no_such_run",
            "message": "no such run here",
            "hint": "see `intellectd runs`",
        }
        unknown = (await ask(sock, "dance"))["error"]
        assert unknown["code"] == "unknown_op"
        assert "'dance'" in unknown["message"]
        assert "echo" in unknown["hint"]
        assert (await ask(sock, "echo", say=3))["said"] == 3


async def test_a_fault_in_an_operation_ends_neither_the_daemon_nor_the_conversation(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        error = (await ask(sock, "break"))["error"]
        assert error["code"] == "internal"
        assert "ZeroDivisionError: of ours" in error["message"]
        assert (await ask(sock, "echo", say=1))["ok"]


@pytest.mark.parametrize("version", [None, 2, "1"])
async def test_another_version_is_told_both(version: object, daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        await control.send_frame(sock, {"op": "echo", "version": version})
        error = (await control.recv_frame(sock))["error"]
    assert error["code"] == "version"
    assert f"version {version!r}" in error["message"]
    assert "this daemon 1" in error["message"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", FRAME_BYTES_MAX + 1),
        struct.pack(">I", 0),
        struct.pack(">I", 3) + b"\x93\x01\x02",
        struct.pack(">I", 1) + b"\xc1",
    ],
)
async def test_garbage_is_answered_with_an_error_and_a_hangup(garbage: bytes, daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        await sock.send(garbage)
        answers = await said_and_closed(sock)
    assert [answer["error"]["code"] for answer in answers] == ["bad_frame"]
    async with client(daemon.path) as sock:
        assert (await ask(sock, "echo"))["ok"]


async def test_an_answer_over_the_limit_is_an_error_for_that_client_only(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        await control.send_frame(sock, {"op": "big", "version": 1})
        (answer,) = await said_and_closed(sock)
    assert "over the limit" in answer["error"]["message"]


async def test_a_silent_client_is_hung_up_on(daemon: Daemon, autojump_clock: trio.abc.Clock) -> None:
    async with client(daemon.path) as sock:
        started = trio.current_time()
        assert await said_and_closed(sock) == []
        assert trio.current_time() - started == pytest.approx(control.IDLE_S_MAX)


async def test_a_frame_that_never_ends_is_given_up(daemon: Daemon, autojump_clock: trio.abc.Clock) -> None:
    async with client(daemon.path) as sock:
        started = trio.current_time()
        await sock.send(struct.pack(">I", 100) + b"never more than this")
        (answer,) = await said_and_closed(sock)
        assert "not complete after 10 s" in answer["error"]["message"]
        assert trio.current_time() - started == pytest.approx(control.FRAME_S_MAX)


async def test_who_hangs_up_while_waiting_frees_the_daemon_of_the_work(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        await control.send_frame(sock, {"op": "wait", "version": 1})
        await daemon.waiting.wait()
    with trio.fail_after(30):
        await daemon.cancelled.wait()


async def test_the_longest_idle_client_makes_room_for_a_new_one(daemon: Daemon) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(daemon.path)) for _ in range(control.CLIENTS_MAX)]
        for sock in clients:
            assert (await ask(sock, "echo"))["ok"]
        assert (await ask(clients[0], "echo"))["ok"]  # so that the second is the longest idle
        newcomer = await stack.enter_async_context(client(daemon.path))
        assert (await ask(newcomer, "echo", say="in"))["said"] == "in"
        assert await said_and_closed(clients[1]) == []
        assert (await ask(clients[0], "echo"))["ok"]


async def test_when_every_client_is_busy_a_new_one_is_told_so(daemon: Daemon) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(control.CLIENTS_MAX):
            daemon.waiting = trio.Event()
            sock = await stack.enter_async_context(client(daemon.path))
            await control.send_frame(sock, {"op": "wait", "version": 1})
            await daemon.waiting.wait()
        late = await stack.enter_async_context(client(daemon.path))
        (answer,) = await said_and_closed(late)
        assert answer["error"]["code"] == "busy"


async def test_a_trainer_gets_the_socket_itself(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        await control.send_frame(sock, {"op": "attach", "version": 1, "run": "mine"})
        await control.send_frame(sock, {"op": "initial"})
        assert await control.recv_frame(sock) == {"ok": True, "got": {"op": "initial"}}
    assert [request["run"] for request in daemon.attached] == ["mine"]


async def test_a_refused_trainer_is_told_why(daemon: Daemon) -> None:
    async with client(daemon.path) as sock:
        assert (await ask(sock, "attach", run="unknown"))["error"]["code"] == "no_such_run"


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "run" / "intellectd.sock"
    async with serving(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert path.stat().st_mode & 0o777 == 0o660
        assert [entry.name for entry in path.parent.iterdir()] == ["intellectd.sock"]
    assert not path.exists()


async def test_a_socket_that_vanishes_comes_back_and_costs_nobody_a_connection(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """A user's /run folder goes with the last login, and comes back with the next."""
    folder = tmp_path / "run"
    async with serving(folder / "d.sock") as daemon, client(daemon.path) as before:
        shutil.rmtree(folder)
        await trio.sleep(control.LOOK_S + 1)
        async with client(daemon.path) as after:
            for sock in (before, after):
                assert (await ask(sock, "echo", say="hi"))["said"] == "hi"
        shutil.rmtree(folder)
        folder.write_text("in the way")
        await trio.sleep(control.LOOK_S + 1)
        assert (await ask(before, "echo", say="still here"))["said"] == "still here"
        folder.unlink()
        await trio.sleep(control.LOOK_S + 1)
        async with client(daemon.path) as after:
            assert (await ask(after, "echo", say="hi"))["said"] == "hi"


async def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "intellectd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path):
        with pytest.raises(AlreadyRunning, match="a daemon already answers") as caught:
            async with unix_listener(path):
                raise AssertionError("took the socket of a live daemon")
        assert caught.value.exit_code == 75
        async with client(path) as sock:
            assert (await ask(sock, "echo"))["ok"]


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "intellectd.sock"
    path.write_bytes(b"precious")
    with pytest.raises(SocketInTheWay, match="is no socket"):
        async with unix_listener(path):
            raise AssertionError("replaced a file")
    assert path.read_bytes() == b"precious"


async def test_daemons_of_one_folder_do_not_take_each_others_socket_away(tmp_path: Path) -> None:
    others = {tmp_path / name: name.encode() for name in ("host-~", "host-1~", "host~")}  # about to be renamed
    for path, text in others.items():
        path.write_bytes(text)
    async with unix_listener(tmp_path / "host-2"):
        assert all(path.read_bytes() == text for path, text in others.items())


async def test_a_path_may_have_all_bytes_that_a_socket_has(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="i-") as folder:
        path = Path(folder) / ("s" * (SOCKET_PATH_BYTES_MAX - len(folder) - 1))
        async with unix_listener(path), await trio.open_unix_socket(str(path)):
            assert [entry.name for entry in Path(folder).iterdir()] == [path.name]


def test_a_path_too_long_is_told_before_binding(tmp_path: Path) -> None:
    async def handler(request: Answer) -> Answer:
        return {}

    no_attach: Callable[..., Any] = handler
    with pytest.raises(SocketPathError, match="107"):
        ControlServer(tmp_path / ("s" * 108), {}, no_attach)
