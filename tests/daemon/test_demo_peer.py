"""A daemon of the demo is alone with its own configuration, whatever is exported where the demo is started."""

import sys
from pathlib import Path

import pytest

from intellectd.daemon.config import SETTINGS, load_config
from intellectd.daemon.demo.peer import Peer


def test_what_an_operator_has_exported_is_not_for_the_demos_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them would live in that state directory and listen there."""
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nexec env\n")
    stand_in.chmod(0o700)
    exported = {setting.variable for setting in SETTINGS} | {"INTELLECTD_CONFIG"}
    for name in exported:
        monkeypatch.setenv(name, str(tmp_path / "mine"))
    monkeypatch.setenv("INTELLECTD_KERNELS", "torch")
    monkeypatch.setattr(sys, "executable", str(stand_in))
    peer = Peer(1, tmp_path)
    try:
        assert peer.process.wait(60) == 0
        told = {line.partition("=")[0] for line in peer.log.read_text().splitlines()}
        assert "INTELLECTD_KERNELS" in told and not told & exported
        assert load_config(peer.folder / "config.toml", {}, {}).state_dir == peer.folder
    finally:
        peer.end()
