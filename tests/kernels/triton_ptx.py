"""Compiles the Triton kernels for an H100 or H200 (sm_90), which needs no GPU, and says what arithmetic came out.

`python -m tests.kernels.triton_ptx [every] [fused]` prints a line of JSON: for each kernel the floating-point
instructions of its PTX. `every`: all variants instead of one of each pass and codec; `fused`: the int8 encoder
alone, with fusion allowed, to show that what the tests look for would be seen. A process of its own: where triton
was imported for its interpreter it does not compile.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from intellectd.kernels.codec import CODECS, INT8, TOPK, Codec
from intellectd.kernels.cuda import passes, squares, steps
from intellectd.kernels.cuda.launch import OPTIONS

TARGET = GPUTarget("cuda", 90, 32)
_TYPES = {
    **dict.fromkeys(("enc", "out", "own", "incoming"), "*u8"),
    **dict.fromkeys(("x", "y", "error", "residual", "theta", "momentum", "gathered", "anchor", "total"), "*fp32"),
    **dict.fromkeys(("picks", "picked_bits", "refused_chunks"), "*i32"),
    **dict.fromkeys(("number", "weight", "divisor", "lr", "mu", "delay", "blocks"), "i32"),
    "sums": "*fp64",
    "first": "*i64",
}
_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+ )?([a-z0-9]+(?:\.[a-z0-9]+)+)", re.MULTILINE)
_FLOATING = re.compile(r"\bf(?:16|32|64)\b")
_MOVES = ("ld.", "st.", "mov.", "selp.", "shfl.", "setp.", "neg.", "abs.", "max.", "min.")

Variant = tuple[str, Any, dict[str, Any]]


def variants(codec: Codec, every: bool) -> Iterator[Variant]:
    """Name, kernel, constants. Without `every`, the variant of each pass that does the most."""
    constants, refused = {"CODEC": codec.native_id}, codec.refused_bits
    sources = (passes.PLAIN, passes.MEAN, passes.DELTA, passes.FED) if every else (passes.MEAN, passes.FED)
    for source in sources:
        if codec is TOPK:
            yield "topk_select", passes.topk_select, {"SOURCE": source, "REFUSED": refused}
        else:
            yield "encode", passes.encode, {**constants, "SOURCE": source, "REFUSED": refused}
    if codec is TOPK:
        yield "topk_pack", passes.topk_pack, {}
        yield "topk_residual", passes.topk_residual, {}
    for adds in (False, True) if every else (True,):
        yield "decode", passes.decode, {**constants, "ADDS": adds}
        for divides in (False, True) if every else (True,):
            if codec.may_reencode:
                hop = {**constants, "ADDS": adds, "DIVIDES": divides, "REFUSED": refused}
                yield "ring_hop", passes.ring_hop, hop
    yield "finite", passes.finite, constants
    optimizers = (steps.NESTEROV, steps.AVERAGE, steps.DELAYED, steps.DELAYED_TURN)
    for optimizer in optimizers if every else (steps.DELAYED_TURN,):
        yield "outer_step", steps.outer_step, {**constants, "OPTIMIZER": optimizer}


def all_variants(every: bool) -> Iterator[Variant]:
    for codec in CODECS.values():
        for name, kernel, constants in variants(codec, every):
            yield f"{name} of {codec.name} {sorted(constants.items())}", kernel, constants
    yield "subtract_into", passes.subtract_into, {}
    yield "group_sums", squares.group_sums, {}


def arithmetic(kernel: Any, constants: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """The kinds of floating-point instructions in its PTX but loads, stores, comparisons and the like."""
    types = {**_TYPES, "out": "*fp64"} if kernel is squares.group_sums else _TYPES
    names = [parameter.name for parameter in kernel.params]
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name].startswith("*")
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    ptx = compiled(ASTSource(kernel, signature, values, aligned), target=TARGET, options=options).asm["ptx"]
    found = {kind for kind in _INSTRUCTION.findall(ptx) if _FLOATING.search(kind)}
    return sorted(kind for kind in found if not kind.startswith(_MOVES))


def main() -> None:
    if "fused" in sys.argv:
        constants = {"CODEC": INT8.native_id, "SOURCE": passes.FED, "REFUSED": INT8.refused_bits}
        chosen: list[Variant] = [("encode", passes.encode, constants)]
        options = {**OPTIONS, "enable_fp_fusion": True}
    else:
        chosen, options = list(all_variants("every" in sys.argv)), dict(OPTIONS)
    found = {name: arithmetic(kernel, constants, options) for name, kernel, constants in chosen}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
