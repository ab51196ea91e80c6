"""What this operating system can do for us, and what somebody has switched off.

``AMORSIZE_WITHOUT`` in the environment names things to do without, separated by commas: ``zygote``, ``memfd``,
``pidfd``. The other ways that macOS and Windows need are tested on Linux by it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache


def has(feature: str) -> bool:
    """Tell whether ``"zygote"``, ``"memfd"`` or ``"pidfd"`` is there and was not switched off."""
    if feature in os.environ.get("AMORSIZE_WITHOUT", "").split(","):
        return False
    if feature == "memfd":
        return _has_memfd()
    if feature == "pidfd":
        return _has_pidfd()
    return sys.platform == "linux" and has("pidfd")


@cache
def _has_memfd() -> bool:
    return hasattr(os, "memfd_create") and _works(lambda: os.memfd_create("amorsize-probe"))


@cache
def _has_pidfd() -> bool:
    return hasattr(os, "pidfd_open") and _works(lambda: os.pidfd_open(os.getpid()))


def _works(open_one: Callable[[], int]) -> bool:
    """Tell whether the kernel knows a call and lets us: an interpreter may be newer than it, a sandbox stricter."""
    try:
        os.close(open_one())
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True
