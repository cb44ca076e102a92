"""A delta encoded with what was lost of the one before, and what is lost now kept for the next. SPEC P10.

Owns which vector is added and where the new loss goes: to a file, as large as the parameters in fp32, of which this
process keeps nothing mapped; so it costs page cache and 8 bytes a parameter of disk, until the next commit 4. Without
room for it a delta goes as it is. Refuses to know rounds.
"""

import torch

from intellectd.daemon.atomic import StorageError
from intellectd.daemon.store.residuals import Residuals
from intellectd.kernels import ops
from intellectd.kernels.codec import Codec
from intellectd.kernels.digest import update_root
from intellectd.kernels.ops import DeltaStats, Feedback


class ErrorFeedback:
    """Of one delta. `trouble` says afterwards why this went otherwise than it should have, or nothing."""

    def __init__(self, residuals: Residuals, error_of: bytes) -> None:
        self._residuals, self._error_of = residuals, error_of
        self.trouble = ""

    def encode(
        self, codec: Codec, anchor: torch.Tensor, local: torch.Tensor, out: torch.Tensor, threads: int
    ) -> tuple[DeltaStats, bytes]:
        """out <- enc(anchor - local + decay e), its stats and root. The stats are the delta's without e."""
        assert codec.feedback_decay is not None, "the manifest is not valid (SPEC C7)"
        elements = anchor.numel()
        try:
            lost = ops.as_bytes(self._residuals.new(elements)).view(torch.float32)
        except StorageError as error:
            self.trouble = f"nothing of what encoding loses is fed back: {error.message}"
            stats = ops.encode_delta(codec, anchor, local, out, threads=threads)
            return stats, update_root(out, threads)
        found = self._residuals.read(self._error_of, elements)
        before = lost if found is None else ops.as_bytes(found).view(torch.float32)  # new files are zeros
        stats = ops.encode_delta(codec, anchor, local, out, Feedback(before, codec.feedback_decay, lost), threads)
        if stats.first_nonfinite is not None and found is not None:  # is it the delta's fault, or the file's?
            lost.zero_()
            stats = ops.encode_delta(codec, anchor, local, out, Feedback(lost, codec.feedback_decay, lost), threads)
            if stats.first_nonfinite is None:
                self.trouble = "what was lost of the delta before is no number any more; it is forgotten"
        root = update_root(out, threads)
        try:
            if stats.first_nonfinite is None:
                self._residuals.keep(root, (self._error_of,))
            else:
                self._residuals.drop_new()
        except StorageError as error:
            self.trouble = f"what encoding lost is not kept: {error.message}"
        return stats, root
