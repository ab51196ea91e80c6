"""What may be used, from trees of the kernel's files."""

import subprocess
import sys

import pytest

from amorsize_executor.tuning.machine import Machine, probe_machine

GIB = 1 << 30
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nCached: 4194304 kB\n"
V2_MOUNT = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"
V1_MOUNTS = (
    "31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 20 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 20 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
FOUR = frozenset(range(4))


@pytest.fixture
def plant(tmp_path):
    """Return a function that writes files below a fresh root and returns the root."""

    def write(files):
        for name, text in ({"proc/meminfo": MEMINFO} | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def v2(path, **files):
    """Lay out version 2 groups; ``a__b`` in a name is ``a.b``."""
    return {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2_MOUNT, **files}


def test_bare_machine(plant):
    """Without control groups the affinity set and the machine's memory are what there is."""
    assert probe_machine(plant({}), FOUR) == Machine(4, 4, 8 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("900000 100000", 4)],
)
def test_quota(plant, quota, cores):
    """A quota bounds the cores, rounded up, and is never below one."""
    assert probe_machine(plant(v2("/app", **{"sys/fs/cgroup/app/cpu.max": quota})), FOUR).cores == cores


def test_nested_groups(plant):
    """The strictest of a group and all its ancestors holds."""
    files = {
        "sys/fs/cgroup/a/b/c/cpu.max": "max 100000",
        "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
        "sys/fs/cgroup/a/cpu.max": "200000 100000",
        "sys/fs/cgroup/a/b/memory.max": str(4 * GIB),
        "sys/fs/cgroup/a/b/memory.current": str(3 * GIB),
        "sys/fs/cgroup/a/memory.max": str(6 * GIB),
        "sys/fs/cgroup/a/memory.current": str(5 * GIB + GIB // 2),
    }
    machine = probe_machine(plant(v2("/a/b/c", **files)), FOUR)
    assert machine == Machine(2, 2, GIB // 2, 4 * GIB, quota_cores=2.0)


def test_page_cache_is_available(plant):
    """Memory that only caches files counts as available."""
    files = {
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(2 * GIB),
        "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7\n",
    }
    assert probe_machine(plant(v2("/", **files)), FOUR).available_memory == GIB


def test_memory_high_is_a_limit(plant):
    """Where the kernel begins to throttle is where our memory ends."""
    files = {"sys/fs/cgroup/x/memory.max": "max", "sys/fs/cgroup/x/memory.high": str(GIB)}
    assert probe_machine(plant(v2("/x", **files)), FOUR).memory_limit == GIB


def test_version_1_and_hybrid(plant):
    """Version 1 groups speak for their own controllers, beside an empty version 2 tree."""
    files = {
        "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n3:pids:/else\n0::/\n",
        "proc/self/mountinfo": V1_MOUNTS,
        "sys/fs/cgroup/unified/cgroup.procs": "",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(3 * GIB),
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert probe_machine(plant(files), FOUR) == Machine(3, 3, 2 * GIB, 3 * GIB, quota_cores=3.0)


def test_version_1_without_quota(plant):
    """A quota of -1 is none."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    assert probe_machine(plant(files), FOUR).quota_cores is None


def test_container_without_a_namespace(plant):
    """Where the path is the host's and the mount shows the part below it, the group is found at the mount point."""
    files = {
        "proc/self/cgroup": "0::/docker/abc/sub\n",
        "proc/self/mountinfo": "30 20 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/sub/cpu.max": "100000 100000",
        "sys/fs/cgroup/memory.max": str(GIB),
    }
    machine = probe_machine(plant(files), FOUR)
    assert (machine.cores, machine.memory_limit) == (1, GIB)


def test_path_that_is_not_there(plant):
    """A group whose directory is not to be seen falls back to the ancestors that are."""
    assert probe_machine(plant(v2("/gone", **{"sys/fs/cgroup/cpu.max": "200000 100000"})), FOUR).cores == 2


def test_path_above_the_namespace(plant):
    """A path that leads out of the namespace is not followed."""
    assert probe_machine(plant(v2("/../other", **{"sys/fs/cgroup/cpu.max": "100000 100000"})), FOUR).cores == 1


def siblings(groups):
    """Write each group of logical processors as the kernel does."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{text}\n"
        for text, cpus in groups.items()
        for cpu in cpus
    }


def test_hyperthreads(plant):
    """Threads of one core count once."""
    root = plant(siblings({"0,4": (0, 4), "1,5": (1, 5), "2-3": (2, 3)}))
    machine = probe_machine(root, frozenset(range(6)))
    assert (machine.cores, machine.physical_cores) == (6, 3)


def test_affinity_restricts_physical_cores(plant):
    """Only cores that the process may run on count, by either of their threads."""
    root = plant(siblings({"0,4": (0, 4), "1,5": (1, 5)}))
    machine = probe_machine(root, frozenset({4, 5, 0}))
    assert (machine.cores, machine.physical_cores) == (3, 2)


def test_quota_restricts_physical_cores(plant):
    """There are never more physical cores than usable ones."""
    files = siblings({"0,2": (0, 2), "1,3": (1, 3)}) | {"sys/fs/cgroup/cpu.max": "100000 100000"}
    assert probe_machine(plant(v2("/", **files)), FOUR).physical_cores == 1


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3 4 5 6 7", "-100000 0", "100000", "\x00\xff"])
def test_malformed_files_say_nothing(plant, text):
    """A file that cannot be understood limits nothing and breaks nothing."""
    siblings_file = "sys/devices/system/cpu/cpu0/topology/thread_siblings_list"
    files = dict.fromkeys(("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.stat", siblings_file), text)
    files["sys/fs/cgroup/cpu.max"] = text if not text.startswith("1 2") else ""
    files["proc/self/mountinfo"] = text
    machine = probe_machine(plant(v2("/", **files)), FOUR)
    assert machine.cores == 4
    assert machine.memory_limit >= 1


def test_nothing_at_all(tmp_path):
    """Without any file there is still a machine with cores and memory."""
    machine = probe_machine(tmp_path, FOUR)
    assert (machine.cores, machine.physical_cores) == (4, 4)
    assert 0 < machine.available_memory <= machine.memory_limit


def test_old_kernels_without_available_memory(plant):
    """Before MemAvailable, what is free or cached is available."""
    root = plant({"proc/meminfo": "MemTotal: 4194304 kB\nMemFree: 1048576 kB\nCached: 1048576 kB\n"})
    assert probe_machine(root, FOUR).available_memory == 2 * GIB


def test_this_machine():
    """The machine that the tests run on has a core and memory."""
    machine = probe_machine()
    assert 1 <= machine.physical_cores <= machine.cores
    assert 0 < machine.available_memory <= machine.memory_limit


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the libraries are asked")
def test_probing_imports_neither_psutil_nor_loky():
    """On Linux, probing costs no import of a library."""
    code = (
        "import sys; from amorsize_executor.tuning.machine import probe_machine; probe_machine(); "
        "sys.exit(any(name in sys.modules for name in ('psutil', 'loky')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
