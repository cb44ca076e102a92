"""Which implementation of the kernels a process uses: C where it is built and gives the reference's bits, else torch.

Owns the choice and its reason. Both give identical bits, so peers may differ in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from intellectd.kernels import native, reference
from intellectd.kernels.agreement import first_difference
from intellectd.kernels.interface import Kernels

ENVIRONMENT = "INTELLECTD_KERNELS"  # "torch" or "native"; without it, native if it loads


class KernelChoiceError(RuntimeError):
    """INTELLECTD_KERNELS asks for what cannot be had."""


@dataclass(frozen=True)
class Choice:
    name: str  # "native" or "torch"
    reason: str  # why not native; "" when it is
    kernels: Kernels
    instructions: str = ""  # of native: the instruction set


def choose(environment: Mapping[str, str], library: Callable[[], str] = native.built_library) -> Choice:
    """Pick the implementation. Only an explicit wish for native that cannot be met is an error: KernelChoiceError."""
    wish = environment.get(ENVIRONMENT, "")
    if wish not in ("", "native", "torch"):
        raise KernelChoiceError(f'{ENVIRONMENT}={wish!r}: use "native" or "torch", or unset it')
    if wish == "torch":
        return Choice("torch", f"{ENVIRONMENT}=torch asks for it", reference)
    try:
        loaded = _trusted_native(library(), native.wished_instructions(environment))
        return Choice("native", "", loaded, loaded.instructions)
    except native.NativeUnavailable as why:
        if wish == "native" or native.wished_instructions(environment):
            raise KernelChoiceError(f"the environment asks for native kernels, but {why}") from why
        return Choice("torch", str(why), reference)


def _trusted_native(path: str, instructions: str) -> native.Native:
    loaded = native.load(path, instructions)
    different = first_difference(loaded, reference)
    if different is not None:
        raise native.NativeUnavailable(f"{different} differs from torch's on this host; {native.REBUILD}")
    return loaded
