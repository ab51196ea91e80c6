"""Files of memory and where they are mapped: what segments ask of the system."""

from __future__ import annotations

import mmap
import os
import sys
from functools import cache
from typing import Any

_MOST_WRITTEN = 1 << 30  # bytes in one system call


@cache
def can_map() -> bool:
    """Tell whether this interpreter has what a receiver needs; that of the other side is the same."""
    try:
        import ctypes  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def map_shared(descriptor: int, size: int) -> mmap.mmap:
    """Map a file; the mapping keeps a descriptor of its own where it cannot do without."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, trackfd=False)
    return mmap.mmap(descriptor, size)


def write_all(descriptor: int, raw: memoryview) -> None:
    """Write a buffer to the beginning of a file."""
    done = 0
    while done < raw.nbytes:
        done += os.pwrite(descriptor, raw[done : done + _MOST_WRITTEN], done)


@cache
def _system_mmap() -> Any:
    import ctypes  # noqa: PLC0415

    function = ctypes.CDLL(None).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


_MAP_FIXED = 0x10  # Linux on x86, ARM, POWER, RISC-V, s390; the mmap module has no name for it


def map_private(owner: Any, descriptor: int, size: int) -> None:
    """Map the same file at the same place, so that what is written from now on stays with who writes it."""
    import ctypes  # noqa: PLC0415

    protection, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    _system_mmap()(ctypes.addressof(owner), size, protection, kind, descriptor, 0)
