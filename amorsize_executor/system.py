"""What this operating system can do for us, and what somebody has switched off.

``AMORSIZE_WITHOUT`` in the environment names things to do without, separated by commas: ``zygote``, ``memfd``,
``pidfd``. The other ways that macOS and Windows need are tested on Linux by it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Start a child that no Ctrl-C reaches before it has a handler of its own, and lets it through."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def let_interrupts_through() -> None:
    """Undo in such a child what its parent had blocked; it has its handler now."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
