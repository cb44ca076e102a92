"""The numbers of intellectd: layout of tensors, codecs, reduction, outer optimizer, digests.

Knows of no peers, files or time. `layout`, `codec` and `digest` do not import torch; `ops` does.
"""
