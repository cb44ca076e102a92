"""The host's own configuration: every key, its default, and where its value came from.

Owns precedence (flag, INTELLECTD_* variable, file, default) and refusing what it does not know, with the
nearest name. Refuses to know runs: those are manifests, and a manifest never says what this host executes.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intellectd.daemon import config_values as values
from intellectd.daemon.errors import EXIT_CONFIG, OperatorError
from intellectd.daemon.socket_path import check_socket_path, daemon_socket, home, user_state_dir
from intellectd.daemon.store.budget import SNAPSHOTS_KEPT

SYSTEM_CONFIG_FILE = Path("/etc/intellectd/config.toml")
CONFIG_FILE_BYTES_MAX = 1024 * 1024  # far above 256 addresses of 120 bytes
DATA_SOURCES_MAX = 256
BUILTIN_DATA = "python-stdlib"  # known to every host, so no folder may take its name


class ConfigError(OperatorError):
    """The configuration cannot be used; names the key and where it was set."""

    exit_code = EXIT_CONFIG


@dataclass(frozen=True)
class NetworkConfig:
    listen: tuple[str, ...]
    announce: tuple[str, ...]  # empty: what the listen addresses resolve to
    bulk_listen: str
    bulk_announce: str  # "": what bulk_listen comes to; "none": nobody can dial this host
    bootstrap: tuple[str, ...]
    upload_mbit: int = 0  # of tensors, 10^6 bits per second; 0: no limit
    download_mbit: int = 0
    serve_percent: int = 50  # of upload_mbit, for joiners


@dataclass(frozen=True)
class MetricsConfig:
    listen: str  # empty: off


@dataclass(frozen=True)
class SnapshotsConfig:
    keep: int = SNAPSHOTS_KEPT
    keep_gb: int = 0  # of one run, 10^9 bytes; 0: no limit


@dataclass(frozen=True)
class LogConfig:
    format: str  # auto, human or json
    level: str


@dataclass(frozen=True)
class Config:
    state_dir: Path
    socket: Path
    trainer: str | tuple[str, ...]
    trainer_threads: int  # 0: torch's own default
    evaluate: bool
    network: NetworkConfig
    data: Mapping[str, Path]
    metrics: MetricsConfig
    log: LogConfig
    snapshots: SnapshotsConfig = SnapshotsConfig()
    file: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def identity_path(self) -> Path:
        return self.state_dir / "identity.key"


@dataclass(frozen=True)
class Setting:
    key: str
    read: values.Reader
    default: Any  # None: depends on the environment, see _defaults
    help: str

    @property
    def variable(self) -> str:
        return "INTELLECTD_" + self.key.replace(".", "_").upper()


_addresses = values.list_of(values.multiaddr)
SETTINGS = (
    Setting("state_dir", values.read_path, None, "identity, runs and snapshots live here"),
    Setting("socket", values.read_path, None, "unix socket for the CLI and trainers"),
    Setting("trainer", values.read_trainer, "builtin", "builtin, external, or a command as a list"),
    Setting("trainer_threads", values.read_count, 0, "torch threads of the trainer, 0 for torch's default"),
    Setting("evaluate", values.read_bool, True, "compute the held-out loss of each new anchor here"),
    Setting("network.listen", _addresses, ("/ip4/0.0.0.0/tcp/4001",), "multiaddrs of the control plane"),
    Setting("network.announce", _addresses, (), "multiaddrs told to peers instead (behind NAT)"),
    Setting("network.bulk_listen", values.read_host_port, "0.0.0.0:4002", "host:port for tensors"),
    Setting("network.bulk_announce", values.read_announced, "", "host:port told to peers instead, or none"),
    Setting("network.bootstrap", values.list_of(values.multiaddr_of_peer), (), "peers to try at first"),
    Setting("network.upload_mbit", values.read_count, 0, "Mbit/s of tensors sent, 0 for no limit"),
    Setting("network.download_mbit", values.read_count, 0, "Mbit/s of tensors received, 0 for no limit"),
    Setting("network.serve_percent", values.read_percent, 50, "of upload_mbit, what joiners may take: 1 to 100"),
    Setting("snapshots.keep", values.read_kept, SNAPSHOTS_KEPT, "states of each run on this disk, at most"),
    Setting("snapshots.keep_gb", values.read_count, 0, "GB of them, 0 for no limit; the newest proven one stays"),
    Setting("metrics.listen", values.read_host_port_or_none, "127.0.0.1:9477", 'host:port, "" for off'),
    Setting("log.format", values.one_of("auto", "human", "json"), "auto", "auto, human or json"),
    Setting("log.level", values.one_of("debug", "info", "warning", "error"), "info", "least level shown"),
)


def config_file(environ: Mapping[str, str], explicit: Path | None = None) -> Path:
    """The file that is read: the one named, or the place where one would be looked for."""
    named = explicit or environ.get("INTELLECTD_CONFIG")
    if named:
        return Path(named)
    if os.geteuid() == 0 or "CONFIGURATION_DIRECTORY" in environ:
        return SYSTEM_CONFIG_FILE
    folder = environ.get("XDG_CONFIG_HOME") or str(home(environ) / ".config")
    return Path(folder) / "intellectd/config.toml"


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which what the file says is what holds: for daemons other than this user's own."""
    names = {"INTELLECTD_CONFIG", *(setting.variable for setting in SETTINGS)}
    return {name: value for name, value in environ.items() if name not in names}


def load_config(file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Config:
    """`flags` maps setting keys to what the command line gave; None means it was not given."""
    path = config_file(environ, file)
    must_exist = file is not None or "INTELLECTD_CONFIG" in environ
    document = _parse(path) if must_exist or path.exists() else None
    settings, data = _flatten(document or {}, path)
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        raw, source, base = _choose(setting, flags, environ, settings, path)
        sources[setting.key] = source
        chosen[setting.key] = _read(setting, raw, source, base)
    check_socket_path(chosen["socket"])
    check_state_dir(chosen["state_dir"], sources["state_dir"])
    return _build(chosen, _read_data(data, path), path if document is not None else None, sources)


def check_state_dir(path: Path, source: str) -> None:
    """It is a folder, or could be made. Raises ConfigError."""
    there = next((str(part) for part in (path, *path.parents) if os.path.lexists(part)), "/")
    if not os.path.isdir(there):
        what = "is no folder" if there == str(path) else f"cannot be made: {there} is no folder"
        raise ConfigError(
            f"{source}: the state directory {path} {what}",
            "name a folder, which is made if it is not there, or move away what lies in its place",
        )


def _choose(
    setting: Setting, flags: Mapping[str, Any], environ: Mapping[str, str], settings: Mapping[str, Any], path: Path
) -> tuple[Any, str, Path]:
    if flags.get(setting.key) is not None:
        return flags[setting.key], "flag --" + setting.key.replace(".", "-").replace("_", "-"), Path.cwd()
    if setting.variable in environ:
        return environ[setting.variable], setting.variable, Path.cwd()
    if setting.key in settings:
        return settings[setting.key], str(path), path.absolute().parent
    default = _environment_default(setting.key, environ) if setting.default is None else setting.default
    return default, "default", Path.cwd()


def _environment_default(key: str, environ: Mapping[str, str]) -> str:
    if key == "socket":
        return str(daemon_socket(environ))
    given_by_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return given_by_systemd or str(user_state_dir(environ))


def _read(setting: Setting, raw: Any, source: str, base: Path) -> Any:
    try:
        return setting.read(raw, base)
    except ValueError as error:
        raise ConfigError(f"{source}: `{setting.key}` must be {error}; it is {raw!r:.200}") from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            body = file.read(CONFIG_FILE_BYTES_MAX + 1)
        if len(body) > CONFIG_FILE_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {CONFIG_FILE_BYTES_MAX} bytes", "is it a config file?")
        return tomllib.loads(body.decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config file {path} cannot be read: {error.strerror}",
            "deploy/config.example.toml is a commented one to start from",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from error


def _flatten(document: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any]:
    """The document as `section.key` → value, with [data] apart, and every name known."""
    known = [setting.key for setting in SETTINGS]
    sections = sorted({key.split(".")[0] for key in known if "." in key})
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if name in sections and isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name in sections:
            raise ConfigError(f"{path}: `{name}` must be a table: write [{name}] on a line of its own")
        elif name != "data":
            flat[name] = value
    for key in flat:
        if key not in known:
            raise ConfigError(f"{path}: unknown key `{key}`", _nearest(key, known + sections + ["data"]))
    return flat, document.get("data", {})


def _nearest(key: str, known: list[str]) -> str:
    section, _, last = key.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    near = elsewhere or difflib.get_close_matches(key, siblings, n=1)
    if near:
        return "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    return "known here: " + ", ".join(siblings)


def _read_data(data: Any, path: Path) -> dict[str, Path]:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: `data` must be a table: write [data] on a line of its own")
    if len(data) > DATA_SOURCES_MAX:
        raise ConfigError(f"{path}: [data] has more than {DATA_SOURCES_MAX} sources")
    if BUILTIN_DATA in data:
        raise ConfigError(f"{path}: the data source `{BUILTIN_DATA}` is built in", "choose another name in [data]")
    folders: dict[str, Path] = {}
    for name, folder in data.items():
        try:
            folders[name] = values.read_path(folder, path.absolute().parent)
        except ValueError as error:
            raise ConfigError(f"{path}: `data.{name}` must be {error}; it is {folder!r:.200}") from error
    return folders


def _build(
    chosen: Mapping[str, Any], data: Mapping[str, Path], file: Path | None, sources: Mapping[str, str]
) -> Config:
    def section(name: str) -> dict[str, Any]:
        return {key.partition(".")[2]: value for key, value in chosen.items() if key.startswith(name + ".")}

    return Config(
        **{key: value for key, value in chosen.items() if "." not in key},
        network=NetworkConfig(**section("network")),
        metrics=MetricsConfig(**section("metrics")),
        log=LogConfig(**section("log")),
        snapshots=SnapshotsConfig(**section("snapshots")),
        data=data,
        file=file,
        sources=sources,
    )
