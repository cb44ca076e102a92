"""`intellectd doctor`: what each check says of hosts that are well and of those that are not, and the whole command."""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import trio

from intellectd.daemon.cli.main import main
from intellectd.daemon.doctor import kernel, place, running, software
from intellectd.daemon.errors import OperatorError
from intellectd.daemon.store.budget import disk_bytes, memory_bytes
from intellectd.protocol.ids import encode
from intellectd.protocol.manifest import Manifest, SignedManifest, Tensor, canonical, config_from_toml
from tests.daemon.fake_answers import Answers, serving, status_answer

SYSCTL_FILE = Path(__file__).parents[2] / "deploy/sysctl.d/90-intellectd.conf"
ELEMENTS = 256 * 4096
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

GOOD = {
    "net.ipv4.tcp_available_congestion_control": "reno cubic bbr",
    "net.ipv4.tcp_allowed_congestion_control": "reno cubic bbr",
    "net.core.rmem_max": "67108864",
    "net.core.wmem_max": "67108864",
    "net.ipv4.tcp_rmem": "4096 131072 6291456",
    "net.ipv4.tcp_wmem": "4096 16384 4194304",
    "net.ipv4.tcp_slow_start_after_idle": "0",
}


def proc_sys(folder: Path, **changes: str) -> Path:
    """A /proc/sys with these values; "" leaves a file out. Names end like those of GOOD."""
    for name, value in GOOD.items():
        text = next((changed for end, changed in changes.items() if name.endswith(end)), value)
        path = folder / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text + "\n")
    return folder


def run_in(state: Path, name: str, **outer: object) -> Path:
    config = config_from_toml({"name": name, "outer": outer})
    manifest = Manifest(1, canonical(config), "KEY", bytes(32), ["PA"], [Tensor("w", [ELEMENTS])], bytes(32))
    folder = state / "runs" / name
    folder.mkdir(parents=True)
    (folder / "manifest").write_bytes(encode(SignedManifest(manifest, bytes(64))))
    return folder


def meminfo(folder: Path, total: int, available: int) -> Path:
    file = folder / "meminfo"
    file.write_text(f"MemTotal:       {total // 1024} kB\nMemFree: 1 kB\nMemAvailable:   {available // 1024} kB\n")
    return file


# ---- the kernel


def test_a_well_tuned_kernel_is_well(tmp_path: Path) -> None:
    tree = proc_sys(tmp_path)
    for check in (kernel.congestion, kernel.buffers, kernel.idle):
        assert (check(tree).level, check(tree).todo) == ("ok", "")


@pytest.mark.parametrize(
    ("check", "changes", "says", "todo"),
    [
        (kernel.congestion, {"tcp_available_congestion_control": "reno cubic"}, "no bbr", "modprobe tcp_bbr"),
        (kernel.congestion, {"allowed_congestion_control": "reno cubic"}, "only reno cubic may", "reno cubic bbr"),
        (kernel.congestion, {"tcp_available_congestion_control": ""}, "does not say", "/proc/sys"),
        (kernel.buffers, {"rmem_max": "212992", "wmem_max": "212992"}, "4 MiB sending", "net.core.rmem_max=67108864"),
        (kernel.buffers, {"tcp_wmem": "4096", "rmem_max": "x"}, "does not say", "/proc/sys"),
        (kernel.idle, {"after_idle": "1"}, "ten packets", "tcp_slow_start_after_idle=0"),
    ],
)
def test_what_the_kernel_lacks(
    check: Callable[[Path], kernel.Finding], changes: dict[str, str], says: str, todo: str, tmp_path: Path
) -> None:
    found = check(proc_sys(tmp_path, **changes))
    assert found.level == "warn" and says in found.text and todo in found.todo


def test_the_file_that_is_shipped_asks_for_what_the_doctor_wants(tmp_path: Path) -> None:
    lines = [line.lstrip("-") for line in SYSCTL_FILE.read_text().splitlines() if line.strip() and line[0] != "#"]
    values = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    assert dict.fromkeys(values) == dict.fromkeys(name for name in GOOD if "available" not in name)
    tree = proc_sys(tmp_path, **{name.rpartition(".")[2]: value for name, value in values.items()})
    for check in (kernel.congestion, kernel.buffers, kernel.idle):
        assert check(tree).level == "ok"


@pytest.mark.parametrize(("limit", "level"), [(256, "fail"), (1024, "warn"), (65_536, "ok"), (-1, "ok")])
def test_descriptors(limit: int, level: str) -> None:
    assert kernel.open_files(limit).level == level


def test_the_limit_of_a_daemon_is_its_own(tmp_path: Path) -> None:
    assert kernel.limit_of(os.getpid()) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for said, limit in (("512                  4096", 512), ("unlimited            unlimited", resource.RLIM_INFINITY)):
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7/limits").write_text(f"Limit  Soft  Hard  Units\nMax open files            {said}  files\n")
        assert kernel.limit_of(7, tmp_path) == limit
    assert kernel.limit_of(8, tmp_path) is None


def test_shared_memory_that_cannot_be_had(monkeypatch: Patch) -> None:
    assert kernel.shared_memory().level == "ok"

    def none(_name: str, _flags: int) -> int:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", none)
    assert kernel.shared_memory().level == "fail"


@pytest.mark.parametrize(("said", "level"), [(True, "ok"), (False, "warn"), (None, "warn")])
def test_the_clock(said: bool | None, level: str, monkeypatch: Patch) -> None:
    assert kernel._synchronised() in (True, False, None)  # asked of this very kernel
    monkeypatch.setattr(kernel, "_synchronised", lambda: said)
    assert kernel.clock().level == level


# ---- the place


def test_the_budget_is_that_of_every_run(tmp_path: Path) -> None:
    run_in(tmp_path, "one")
    run_in(tmp_path, "two", codec="topk", error_feedback=True)
    runs, bad = place.runs_in(tmp_path)
    assert bad == [] and [run.name for run in runs] == ["one", "two"]
    assert runs[0].disk == disk_bytes(ELEMENTS, "int8", False) and runs[1].disk > runs[0].disk
    assert runs[0].memory == memory_bytes(ELEMENTS, "int8") > 14 * ELEMENTS > runs[1].memory
    run_in(tmp_path / "other", "three", schedule="gossip")
    assert place.runs_in(tmp_path / "other")[0][0].memory == runs[0].memory + 4 * ELEMENTS
    needed = sum(run.memory for run in runs)
    for total, available, is_running, level in (
        (4 * needed, 2 * needed, False, "ok"),
        (4 * needed, needed // 2, False, "warn"),
        (4 * needed, needed // 2, True, "ok"),
        (needed // 2, needed // 4, True, "fail"),
    ):
        found = place.memory(runs, is_running, meminfo(tmp_path, total, available))
        assert found.level == level and "2 runs may take" in found.text
    assert place.memory(runs, False, tmp_path / "none").level == "warn"


def test_a_disk_without_room(tmp_path: Path, monkeypatch: Patch) -> None:
    run_in(tmp_path, "one")
    runs, _ = place.runs_in(tmp_path)
    real = os.statvfs(tmp_path)

    def free(count: int, flag: int = 0) -> None:
        facts = list(real)
        facts[1], facts[4], facts[8] = 1, count, flag  # f_frsize, f_bavail, f_flag
        monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(facts))

    for count, level in ((10**12, "ok"), (runs[0].disk // 2 + 2**26, "warn"), (2**20, "fail")):
        free(count)
        assert place.disk(tmp_path, runs).level == level
    free(10**12, os.ST_RDONLY)
    assert "read-only" in place.disk(tmp_path, runs).text


def test_a_state_directory_that_is_none_or_damaged(tmp_path: Path) -> None:
    assert place.state(tmp_path / "new", []).text.endswith("to be made")
    file = tmp_path / "file"
    file.write_text("")
    assert place.state(file, []).level == "fail"
    (run_in(tmp_path, "one") / "manifest").write_bytes(b"damaged")
    (found,) = [found for found in place.look(tmp_path, False) if found.name == "state"]
    assert found.level == "fail" and str(tmp_path / "runs/one/manifest") in found.text


def test_files_of_the_future(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    assert place.dates(tmp_path).level == "ok"
    os.utime(tmp_path / "lock", (time.time() + 86_400,) * 2)
    assert place.dates(tmp_path).level == "warn"


# ---- the daemon, its ports, what is installed


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_whose_a_port_is(listening: int, tmp_path: Path) -> None:
    assert running.port("p", "127.0.0.1", listening, os.getpid()).text.endswith("is the daemon's")
    assert running.port("p", "127.0.0.1", listening, None).level == "fail"
    assert running.port("p", "127.0.0.1", listening, os.getppid()).level == "fail"
    assert "may see" in running.port("p", "127.0.0.1", listening, os.getpid(), tmp_path).text
    assert running.port("p", "127.0.0.1", 0, None).level == "ok"
    assert running.port("p", "192.0.2.1", listening, None).level == "fail"  # of no host: for documentation


def test_a_port_that_the_daemon_should_have(listening: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert running.port("p", "127.0.0.1", free, None).level == "ok"
    assert "another configuration" in running.port("p", "127.0.0.1", free, os.getpid()).text


def test_a_daemon_of_another_version_or_none() -> None:
    assert running.daemon({"version": version("intellectd"), "pid": 7}, None).level == "ok"
    assert running.daemon({"version": "0.0.9", "pid": 7}, None).todo == "restart the daemon"
    assert running.daemon(None, None).text.startswith("not running")
    silent = OperatorError("the daemon did not answer", "look")
    assert running.daemon(None, silent).text == "the daemon did not answer"


def test_kernels_in_use_and_those_that_would_be(monkeypatch: Patch) -> None:
    fast = {"kernels": {"implementation": "native", "instructions": "avx2", "reason": ""}}
    slow = {"kernels": {"implementation": "torch", "reason": "the C kernels were not built"}}
    assert software.kernels({}, fast).level == "ok"
    assert "were not built" in software.kernels({}, slow).text and software.kernels({}, slow).level == "warn"
    assert software.kernels({"INTELLECTD_KERNELS": "torch"}, None).level == "warn"
    assert "vax" in software.kernels({"INTELLECTD_KERNELS_CPU": "vax"}, None).text
    monkeypatch.setattr(software.native, "find_spec", lambda _name: None)
    assert "not built" in software.kernels({}, None).text and software.kernels({}, None).level == "warn"


def test_a_gpu_and_what_is_missing_for_it(tmp_path: Path, monkeypatch: Patch) -> None:
    assert software.gpu(tmp_path).level == "ok"
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t\t NVIDIA H200\nIRQ: 16\n")
    for cuda, triton, level in (("", "", "warn"), ("13.0", "", "warn"), ("13.0", "3.7.1", "ok")):
        monkeypatch.setattr(software, "_cuda_of_torch", lambda cuda=cuda: cuda)
        monkeypatch.setattr(software, "_version", lambda _package, triton=triton: triton)
        found = software.gpu(tmp_path)
        assert found.level == level and "1 × NVIDIA H200" in found.text
    monkeypatch.setattr(software, "_version", lambda _package: "")
    assert software.torch().level == "fail"


def test_the_cuda_of_torch_is_read_and_not_imported() -> None:
    import torch

    assert software._cuda_of_torch() == (torch.version.cuda or "")


# ---- the command


def config_file(folder: Path, **more: str) -> Path:
    file = folder / "config.toml"
    lines = [f'state_dir = "{folder}/state"', f'socket = "{folder}/s.sock"', *(f"{k} = {v}" for k, v in more.items())]
    network = ["[network]", 'listen = ["/ip4/127.0.0.1/tcp/0"]', 'bulk_listen = "127.0.0.1:0"']
    file.write_text("\n".join([*lines, *network, "[metrics]", 'listen = ""', ""]))
    return file


@pytest.fixture
def few_files_will_do(monkeypatch: Patch) -> None:
    """However few this very process may open."""
    monkeypatch.setattr(kernel, "FILES_MIN", 0)


@pytest.mark.usefixtures("few_files_will_do")
def test_without_a_daemon_it_answers_all_the_same(tmp_path: Path, capsys: Capture) -> None:
    file = config_file(tmp_path)
    assert main(["doctor", "--config", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ok    configuration  {file} is valid"
    assert [line.split()[1] for line in lines[:4]] == ["configuration", "daemon", "socket", "control"]
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    assert main(["doctor", "--config", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == 1 and answer["healthy"] is True
    assert [check["name"] for check in answer["checks"]][:2] == ["configuration", "daemon"]
    assert {tuple(check) for check in answer["checks"]} == {("name", "level", "text", "todo")}
    assert len(answer["checks"]) == len(lines)


def test_what_fails_is_told_by_exit_code_and_with_the_next_step(tmp_path: Path, capsys: Capture) -> None:
    assert main(["doctor", "--config", str(config_file(tmp_path, stat_dir="7")), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    first = answer["checks"][0]
    assert (answer["healthy"], first["level"]) == (False, "fail")
    assert "stat_dir" in first["text"] and "state_dir" in first["todo"]
    (tmp_path / "s.sock").write_text("no socket")
    assert main(["doctor", "--config", str(config_file(tmp_path))]) == 1
    assert (
        f"fail  socket         {tmp_path / 's.sock'} exists and is no socket; move it away" in capsys.readouterr().out
    )


@pytest.mark.usefixtures("few_files_will_do")
async def test_a_running_daemon_is_asked(tmp_path: Path, capsys: Capture) -> None:
    answers = Answers()
    slow = {"implementation": "torch", "instructions": "", "reason": "no compiler was there"}
    answers.give("status", status_answer(version="0.0.9", pid=os.getpid(), kernels=slow, state_dir=str(tmp_path)))
    words = ["doctor", "--config", str(config_file(tmp_path))]
    async with serving(answers, tmp_path / "s.sock"):
        assert await trio.to_thread.run_sync(main, words) == 0
    out = capsys.readouterr().out
    assert f"warn  daemon         pid {os.getpid()} is intellectd 0.0.9" in out
    assert "warn  kernels        slow kernels are in use: no compiler was there; reinstall intellectd" in out
    assert f"ok    state          {tmp_path}, writable" in out
    assert "torch" not in sys.modules or "\x1b" not in out
