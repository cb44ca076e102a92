"""Room on a disk for a file that memory is mapped over, taken before anything is written: where it lacked later, the
kernel would end the process with SIGBUS.

Owns what is done where a file system cannot reserve, as NFS before 4.2 and many in user space: zeros are written. The
C library does that, too (posix_fallocate(3)), but a byte in each 4 KiB: 262,144 calls for a GiB, each of which may go
over a network. Refuses to know what the file is for.
"""

import ctypes
import errno
import os

CHUNK_BYTES = 1024 * 1024  # as much as NFS sends at once
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)  # as fallocate(2) has it; what else it says is posix_fallocate's to say
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def take_room(descriptor: int, length: int) -> None:
    """Of `length` bytes from the beginning; what is there stays. A shorter file reads as zeros beyond its old end.
    Raises OSError."""
    if _can_reserve(descriptor):
        os.posix_fallocate(descriptor, 0, length)
        return
    zeros = memoryview(bytes(CHUNK_BYTES))
    offset = os.fstat(descriptor).st_size
    while offset < length:
        offset += os.pwrite(descriptor, zeros[: length - offset], offset)


def _can_reserve(descriptor: int) -> bool:
    """Of one byte, which a file that is about to have its room can spare."""
    return _libc.fallocate(descriptor, 0, 0, 1) == 0 or ctypes.get_errno() not in _UNSUPPORTED
