"""The kernels in Triton, for vectors on a CUDA device. `launch.py` is the host's side; without triton nothing here
imports, and `intellectd.kernels.device` says so."""
