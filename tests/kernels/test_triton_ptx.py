"""What the Triton kernels are compiled to: each operation rounded by itself, to nearest, no denormal flushed.

The interpreter cannot show it, for it computes with numpy; the compiler can, without a GPU.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Not importorskip: imported here, without its interpreter, it would be of no use to test_triton.py.
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install -e '.[cuda]')"
)

# What IEEE 754 defines to the last bit. Conversions between widths or from integers that cannot lose anything, and
# fp64 to fp32 to nearest (a mean's way to a level).
EXACT = re.compile(r"(add|sub|mul|div)\.rn\.f(32|64)|cvt\.(f64\.f32|rn\.f32\.f64|rn\.f(32|64)\.[su](8|16|32|64))")


def ptx(tmp_path: Path, *words: str) -> dict[str, list[str]]:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.kernels.triton_ptx", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def inexact(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Kernels with an instruction that may round otherwise: fused, approximate, flushing."""
    bad = {name: [kind for kind in kinds if not EXACT.fullmatch(kind)] for name, kinds in found.items()}
    return {name: kinds for name, kinds in bad.items() if kinds}


def test_every_operation_is_rounded_by_itself(tmp_path: Path) -> None:
    found = ptx(tmp_path)
    assert len(found) > 30
    assert "div.rn.f32" in {kind for kinds in found.values() for kind in kinds}
    assert inexact(found) == {}


@pytest.mark.slow
def test_every_operation_of_every_variant_is_rounded_by_itself(tmp_path: Path) -> None:
    found = ptx(tmp_path, "every")
    assert len(found) > 60
    assert inexact(found) == {}


def test_fusion_would_be_seen(tmp_path: Path) -> None:
    """Without the option that `launch.py` sets, the same kernel is compiled to what the test above refuses."""
    kinds = inexact(ptx(tmp_path, "fused"))["encode"]
    assert any(kind.startswith(("fma.", "mul.f32", "add.f32")) for kind in kinds), kinds
