"""The Triton kernels as the tests take them: on a CUDA device where there is one, else under Triton's interpreter.

Owns the import, which skips a module's tests, with the reason, where it cannot be had. The interpreter is chosen by
an environment variable when triton is first imported; it is unset again afterwards, so that no process started by a
test inherits it.
"""

import os
import sys
from importlib.util import find_spec

import pytest
import torch

from intellectd.kernels import device as gpu
from intellectd.kernels.interface import Kernels

NOT_INSTALLED = "triton is not installed (pip install -e '.[cuda]')"
TOO_LATE = "triton was imported before its interpreter could be chosen: TRITONgpu.INTERPRET=1 pytest tests/kernels"
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _loaded() -> Kernels:
    kernels = gpu.HostVectors(gpu.load(DEVICE), DEVICE)
    kernels.subtract_into(torch.zeros(256), torch.zeros(256))  # the first launch imports more of triton
    return kernels


def _interpreted() -> Kernels:
    before = os.environ.get(gpu.INTERPRET)
    if before != "1" and "triton" in sys.modules:
        pytest.skip(TOO_LATE, allow_module_level=True)
    os.environ[gpu.INTERPRET] = "1"
    try:
        return _loaded()
    finally:
        os.environ.pop(gpu.INTERPRET)
        if before is not None:
            os.environ[gpu.INTERPRET] = before


if find_spec("triton") is None:
    pytest.skip(NOT_INSTALLED, allow_module_level=True)
TRITON = _loaded() if DEVICE.type == "cuda" else _interpreted()
