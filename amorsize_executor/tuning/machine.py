"""What the machine has for us: processors and memory, after affinity and the container's limits.

All probing of the package is here. On Linux the kernel's files are read directly (about 1 ms); elsewhere loky and
psutil are asked, and imported only then.
"""

import math
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

UNLIMITED = 1 << 60
"""Limits of version 1 groups from here on mean that there is none."""

ROOT = "/"


class Machine(NamedTuple):
    """What may be used.

    Attributes:
        cores: Usable logical processors, >= 1: the affinity set, bounded by the container's quota (rounded up).
        physical_cores: Usable physical ones, 1 to ``cores``; hyperthreads of one core count once.
        available_memory: Bytes that can be had now without swapping, page cache included.
        memory_limit: Bytes of the machine or of the container, whichever is less.
        quota_cores: Processors' worth of time a second that the container gets, or None where nothing limits it.
    """

    cores: int
    physical_cores: int
    available_memory: int
    memory_limit: int
    quota_cores: float | None = None


def probe_machine(root: str | os.PathLike[str] = ROOT, affinity: frozenset[int] | None = None) -> Machine:
    """Find out what may be used.

    Missing and malformed files count as saying nothing; what is left decides.

    Args:
        root: Where ``proc`` and ``sys`` are; tests give trees of their own.
        affinity: Numbers of the processors that this process may run on; None asks the system.

    Returns:
        A machine with at least one core.
    """
    if not sys.platform.startswith("linux") and root == ROOT:
        return _ask_libraries()
    allowed = affinity or frozenset(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]
    base = str(root).rstrip("/")
    groups = list(_find_groups(base))
    quota = min((cores for group in groups if (cores := _read_quota(group)) is not None), default=None)
    cores = len(allowed) if quota is None else max(1, min(len(allowed), math.ceil(quota - 1e-6)))
    physical = min(cores, _count_physical(base, allowed))
    total, available = _read_meminfo(base)
    for group in groups:
        limit, used = _read_memory(group)
        if limit is not None:
            total = min(total, limit)
            available = min(available, max(0, limit - used))
    return Machine(cores, physical, available, total, quota)


# --- Files ------------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    """Return a file's text, or nothing if it cannot be read."""
    pieces: list[bytes] = []
    try:
        descriptor = os.open(path, os.O_RDONLY)  # an executor's making reads a dozen; a file object costs twice as much
        try:
            while piece := os.read(descriptor, 65_536):
                pieces.append(piece)
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    return b"".join(pieces).decode("utf-8", "replace")


def _read_int(path: str) -> int | None:
    """Return the number that a file holds, or None (also for ``max``)."""
    try:
        return int(_read(path))
    except ValueError:
        return None


def _read_table(path: str) -> dict[str, int]:
    """Return lines of ``name number`` or ``name: number kB``, in bytes."""
    table: dict[str, int] = {}
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            unit = 1024 if words[-1] == "kB" else 1
            table[words[0].rstrip(":")] = int(words[1]) * unit
    return table


# --- Control groups ---------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """A directory of control files, and the controllers it speaks for (none named: version 2, all)."""

    directory: str
    controllers: frozenset[str]


def _find_groups(base: str) -> Iterator[_Group]:
    """Yield the process's control groups and all their ancestors: each of them can hold a limit."""
    mounts = list(_read_mounts(base))
    for line in _read(f"{base}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        controllers = frozenset(filter(None, names.split(",")))
        if not colon or (controllers and not controllers & {"cpu", "memory"}):
            continue
        for mounted, mount_root, mount_point in mounts:
            if mounted == controllers or (controllers and controllers & mounted):
                yield from _walk_up(base, mount_point, mount_root, path, controllers)
                break


def _read_mounts(base: str) -> Iterator[tuple[frozenset[str], str, str]]:
    """Yield (controllers, root within the hierarchy, mount point) of the control group file systems."""
    known = ("cpu", "cpuacct", "memory")
    for line in _read(f"{base}/proc/self/mountinfo").splitlines():
        left, dash, right = line.partition(" - cgroup")
        fields, tail = left.split(), right.split()
        if not dash or len(fields) <= 4 or not tail:  # noqa: PLR2004 - the root and the mount point are fields 4 and 5
            continue
        options = frozenset() if right.startswith("2 ") else frozenset(tail[-1].split(",")) & frozenset(known)
        if options or right.startswith("2 "):
            yield options, fields[3], fields[4]
    yield frozenset(), "/", "/sys/fs/cgroup"
    for names in (("cpu", "cpuacct"), ("cpu",), ("memory",)):
        yield frozenset(names), "/", f"/sys/fs/cgroup/{','.join(names)}"


def _walk_up(base: str, mount_point: str, mount_root: str, path: str, controllers: frozenset[str]) -> Iterator[_Group]:
    """Yield the group's directory and its ancestors up to the mount point, as far as they exist.

    In a container without a namespace of its own the path is the host's, and the mount shows only the part below
    ``mount_root``; a path that is not there at all falls back to the mount point.
    """
    parts, hidden = path.strip("/").split("/"), mount_root.strip("/").split("/")
    if parts[: len(hidden)] == hidden:
        parts = parts[len(hidden) :]
    for depth in range(len(parts), -1, -1):
        ancestor = parts[:depth]
        if ".." in ancestor or "" in ancestor:
            continue
        directory = "/".join([base + mount_point, *ancestor])
        if os.path.isdir(directory):  # noqa: PTH112 - as above, cheap
            yield _Group(directory, controllers)


def _read_quota(group: _Group) -> float | None:
    """Return processors' worth of time a second, or None where the group sets no limit."""
    if not group.controllers:
        words = _read(f"{group.directory}/cpu.max").split()
        pair = (words[0], words[1]) if len(words) > 1 else ("max", "0")
    elif "cpu" in group.controllers:
        pair = (_read(f"{group.directory}/cpu.cfs_quota_us"), _read(f"{group.directory}/cpu.cfs_period_us"))
    else:
        return None
    try:
        quota, period = int(pair[0]), int(pair[1])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read_memory(group: _Group) -> tuple[int | None, int]:
    """Return (limit or None, bytes used without the page cache that can be dropped)."""
    directory = group.directory
    if not group.controllers:
        limits = [limit for name in ("memory.max", "memory.high") if (limit := _read_int(f"{directory}/{name}"))]
        used_name, cache_name = "memory.current", "inactive_file"
    elif "memory" in group.controllers:
        limit = _read_int(f"{directory}/memory.limit_in_bytes")
        limits = [limit] if limit and limit < UNLIMITED else []
        used_name, cache_name = "memory.usage_in_bytes", "total_inactive_file"
    else:
        return None, 0
    limits = [limit for limit in limits if limit > 0]
    if not limits:
        return None, 0
    used = _read_int(f"{directory}/{used_name}") or 0
    cache = _read_table(f"{directory}/memory.stat").get(cache_name, 0)
    return min(limits), max(0, used - cache)


# --- Processors and memory --------------------------------------------------------------------------------------


def _count_physical(base: str, allowed: frozenset[int]) -> int:
    """Count the physical cores that the allowed logical ones belong to; a core that says nothing counts as one."""
    seen: set[int] = set()
    cores = 0
    for cpu in sorted(allowed):
        if cpu in seen:
            continue
        cores += 1
        seen.add(cpu)
        seen |= _parse_list(_read(f"{base}/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
    return max(1, cores)


def _parse_list(text: str) -> set[int]:
    """Parse the kernel's lists of numbers: ``'0,4-5'`` is {0, 4, 5}; what cannot be read is left out."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _read_meminfo(base: str) -> tuple[int, int]:
    """Return (total, available) bytes of the machine."""
    table = _read_table(f"{base}/proc/meminfo")
    total = table.get("MemTotal") or _ask_pages()
    free = table.get("MemFree", total // 2) + table.get("Cached", 0)
    return total, min(total, table.get("MemAvailable", free))


def _ask_pages() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 30


def _ask_libraries() -> Machine:
    """Ask loky and psutil, where the kernel has no such files."""
    import loky  # noqa: PLC0415 - only where the kernel has no files to read
    import psutil  # noqa: PLC0415 - the same

    cores = max(1, int(loky.cpu_count()))
    physical = max(1, min(cores, int(loky.cpu_count(only_physical_cores=True))))
    memory = psutil.virtual_memory()
    return Machine(cores, physical, int(memory.available), int(memory.total))
