"""What this operating system can do for us, and what somebody has switched off.

``AMORSIZE_WITHOUT`` in the environment names things to do without, separated by commas: ``zygote``, ``memfd``,
``pidfd``. The other ways that macOS and Windows need are tested on Linux by it.
"""

from __future__ import annotations

import os
import sys


def has(feature: str) -> bool:
    """Tell whether ``"zygote"``, ``"memfd"`` or ``"pidfd"`` is there and was not switched off."""
    if feature in os.environ.get("AMORSIZE_WITHOUT", "").split(","):
        return False
    if feature == "memfd":
        return hasattr(os, "memfd_create")
    if feature == "pidfd":
        return hasattr(os, "pidfd_open")
    return sys.platform == "linux" and has("pidfd")
