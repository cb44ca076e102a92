"""The host's configuration: precedence, and refusing what it does not know with the nearest name."""

import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.config import SETTINGS, Config, ConfigError, load_config
from intellectd.daemon.config_values import split_host_port
from intellectd.daemon.socket_path import SocketPathError, daemon_socket, default_socket

PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
EXAMPLE = Path(__file__).parents[2] / "deploy/config.example.toml"
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str = "", flags: Mapping[str, Any] | None = None, **environ: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load_config(path, flags or {}, {"HOME": str(tmp_path), **environ})

    return load_text


def test_an_empty_file_gives_the_defaults(load: Load) -> None:
    config = load("")
    assert config.trainer == "builtin"
    assert config.network.listen == ("/ip4/0.0.0.0/tcp/4001",)
    assert config.network.bulk_listen == "0.0.0.0:4002"
    assert config.metrics.listen == "127.0.0.1:9477"
    assert config.log.format == "auto"
    assert config.data == {}
    assert config.sources["trainer"] == "default"


def test_flag_over_variable_over_file_over_default(load: Load, tmp_path: Path) -> None:
    text = '[log]\nlevel = "error"\nformat = "json"\n[metrics]\nlisten = "127.0.0.1:1"\n'
    config = load(text, {"log.level": "debug"}, INTELLECTD_LOG_LEVEL="warning", INTELLECTD_METRICS_LISTEN="")
    assert (config.log.level, config.sources["log.level"]) == ("debug", "flag --log-level")
    assert (config.metrics.listen, config.sources["metrics.listen"]) == ("", "INTELLECTD_METRICS_LISTEN")
    assert (config.log.format, config.sources["log.format"]) == ("json", str(tmp_path / "config.toml"))
    assert config.sources["network.listen"] == "default"


def test_paths_in_a_file_are_relative_to_it_and_flags_to_the_working_directory(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load('state_dir = "state"\n[data]\ncorpus = "../corpus"\n', {"socket": "s.sock"})
    assert config.state_dir == tmp_path / "state"
    assert config.data == {"corpus": tmp_path.parent / "corpus"}
    assert config.socket == elsewhere / "s.sock"
    assert config.identity_path == tmp_path / "state/identity.key"


def test_lists_come_from_toml_from_flags_and_from_a_variable(load: Load) -> None:
    one, two = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}", f"/dns4/host.test/tcp/2/p2p/{PEER}"
    assert load(f'[network]\nbootstrap = ["{one}", "{two}"]').network.bootstrap == (one, two)
    assert load("", {"network.bootstrap": [one, two]}).network.bootstrap == (one, two)
    assert load("", INTELLECTD_NETWORK_BOOTSTRAP=f"{one}, {two}").network.bootstrap == (one, two)


@pytest.mark.parametrize("text", ['["python3", "train.py"]', '  [ "python3", "train.py" ] '])
def test_a_trainer_command_is_a_list_everywhere(text: str, load: Load) -> None:
    assert load("", {"trainer": text}).trainer == ("python3", "train.py")
    assert load(f"trainer = {text}").trainer == ("python3", "train.py")


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('state_dri = "x"', "state_dri", "did you mean `state_dir`?"),
        ('listen = ["/ip4/0.0.0.0/tcp/1"]', "listen", "did you mean `network.listen` or `metrics.listen`?"),
        ('[log]\nlevle = "info"', "log.levle", "did you mean `log.level`?"),
        ('[netwrok]\nlisten = "x"', "netwrok", "did you mean `network`?"),
        ("[metrics]\nqqqqqq = 1", "metrics.qqqqqq", "known here: metrics.listen"),
        ('[dat]\nx = "y"', "dat", "did you mean `data`?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(text: str, key: str, hint: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=f"unknown key `{key}`") as caught:
        load(text)
    assert caught.value.hint.startswith(hint)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('trainer = "python3 train.py"', "`trainer` must be"),
        ("trainer = []", "`trainer` must be"),
        ("trainer = [1]", "`trainer` must be"),
        ("trainer_threads = -1", "`trainer_threads` must be a whole number"),
        ("trainer_threads = true", "`trainer_threads` must be a whole number"),
        ("[network]\nupload_mbit = -1", "`network.upload_mbit` must be a whole number"),
        ("[network]\ndownload_mbit = 0.5", "`network.download_mbit` must be a whole number"),
        ("[network]\nserve_percent = 0", "`network.serve_percent` must be a whole number from 1 to 100"),
        ("[network]\nserve_percent = 101", "`network.serve_percent` must be a whole number from 1 to 100"),
        ("evaluate = 1", "`evaluate` must be true or false"),
        ("state_dir = 5", "`state_dir` must be a text"),
        ('state_dir = ""', "`state_dir` must be a path"),
        ("network = 1", "write \\[network\\]"),
        ("data = 1", "write \\[data\\]"),
        ("[data]\ncorpus = 1", "`data.corpus` must be"),
        ('[data]\npython-stdlib = "x"', "is built in"),
        ('[network]\nlisten = ["0.0.0.0:4001"]', "a multiaddr such as"),
        ('[network]\nlisten = ["/ip4/0.0.0.0/tcp/70000"]', "a multiaddr such as"),
        ('[network]\nbootstrap = ["/ip4/1.2.3.4/tcp/1"]', "ends in /p2p/"),
        ('[network]\nbootstrap = ["/ip4/1.2.3.4/tcp/1/p2p/12D3Koo…"]', "ends in /p2p/"),
        ('[network]\nbulk_listen = "4002"', "host:port"),
        ('[network]\nbulk_listen = "::1:4002"', "for IPv6"),
        ('[metrics]\nlisten = "127.0.0.1:99999"', "host:port"),
        ('[log]\nformat = "xml"', "one of auto, human, json"),
        ("state_dir = ", "not valid TOML"),
        ('a = "\\ud800"', "not valid TOML"),
    ],
)
def test_an_ill_typed_value_is_told_with_what_was_expected(text: str, complaint: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(text)
    assert "config.toml" in caught.value.message


def test_a_wrong_variable_is_blamed_by_its_name(load: Load) -> None:
    with pytest.raises(ConfigError, match="INTELLECTD_TRAINER_THREADS: `trainer_threads` must be"):
        load("", INTELLECTD_TRAINER_THREADS="many")


def test_a_file_that_was_named_must_be_there_and_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_config(tmp_path / "absent.toml", {}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(None, {}, {"INTELLECTD_CONFIG": str(tmp_path)})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "binary.toml", {}, {})


def test_every_line_of_the_example_is_valid_and_shows_a_key_that_exists(load: Load) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    uncommented = [line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in lines]
    example = "\n".join(line for line in uncommented if "/opt/mine" not in line).replace("12D3KooW…", PEER)
    config = load(example)
    assert config.trainer == "builtin"
    shown = [setting.key for setting in SETTINGS if f"{setting.key.rpartition('.')[2]} = " not in example]
    assert shown == []


def test_systemd_says_where_state_lives(load: Load, tmp_path: Path) -> None:
    assert load("", STATE_DIRECTORY="/var/lib/intellectd:/var/lib/more").state_dir == Path("/var/lib/intellectd")
    assert load("", XDG_STATE_HOME=str(tmp_path)).state_dir == tmp_path / "intellectd"
    assert load("").state_dir == tmp_path / ".local/state/intellectd"


def test_a_user_without_a_home_is_told_where_it_would_be(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may be a number that no file knows."""

    def unknown(_user: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    assert load("", HOME="").state_dir == Path("/.local/state/intellectd")
    assert default_socket({}).name == "intellectd.sock"
    with pytest.raises(ConfigError, match="nobody knows the home directory of ~somebody"):
        load('state_dir = "~somebody/state"')


def test_a_socket_path_that_the_kernel_cannot_hold_is_told_with_its_limit(load: Load) -> None:
    long = "/tmp/" + "d" * 103
    with pytest.raises(SocketPathError, match="has 108 bytes; a unix socket's may have 107") as caught:
        load("", {"socket": long})
    assert caught.value.exit_code == 78
    assert load("", {"socket": long[:-1]}).socket == Path(long[:-1])


def test_a_users_own_daemon_stands_before_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.socket_path.SYSTEM_SOCKET_DIR", tmp_path / "run/intellectd")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "user")}
    # Nothing may be written there and nothing is there: the user's own.
    assert daemon_socket(environ) == default_socket(environ) == tmp_path / "user/intellectd.sock"
    (tmp_path / "run/intellectd").mkdir(parents=True)
    assert daemon_socket(environ) == default_socket(environ) == tmp_path / "run/intellectd/intellectd.sock"
    (tmp_path / "user").mkdir()
    (tmp_path / "user/intellectd.sock").touch()
    assert default_socket(environ) == tmp_path / "user/intellectd.sock"


@given(st.text(max_size=30))
def test_a_host_and_port_or_an_expectation(text: str) -> None:
    try:
        host, port = split_host_port(text)
    except ValueError as error:
        assert "host" in str(error) or "IPv6" in str(error)
    else:
        assert host and 0 <= port <= 65535


def test_a_state_directory_that_is_a_file_is_a_configuration_error(load: Load, tmp_path: Path) -> None:
    """Also when the file stands in the way of a folder that is to be made."""
    (tmp_path / "file").write_text("")
    for name, says in (("file", "file is no folder"), ("file/sub", "file/sub cannot be made: .*/file is no folder")):
        with pytest.raises(ConfigError, match=says) as raised:
            load("", {"state_dir": str(tmp_path / name)})
        assert raised.value.exit_code == 78 and "name a folder" in raised.value.hint
    assert load("", {"state_dir": str(tmp_path / "not/yet")}).state_dir == tmp_path / "not/yet"


def test_a_host_that_nobody_can_dial_says_so(load: Load) -> None:
    assert load('[network]\nbulk_announce = "none"').network.bulk_announce == "none"
    assert load("", INTELLECTD_NETWORK_BULK_ANNOUNCE="none").network.bulk_announce == "none"
    with pytest.raises(ConfigError, match='or "none"'):
        load('[network]\nbulk_announce = "0.0.0.0:4002"')
