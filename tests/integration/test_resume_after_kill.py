"""A checkpointed run whose whole process group is killed again and again, until one run completes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import environment, poll_until

pytestmark = pytest.mark.slow

CALLS = 300
INTERVAL = 10
WORKERS = 2

RUN = f"""
    import sys
    from amorsize_executor import AdaptiveExecutor, CheckpointPolicy
    from tests import payloads

    def work(item):
        payloads.spin(3000)
        with open(sys.argv[1], "a", encoding="ascii") as log:
            log.write(f"{{item}}\\n")
        return item * item

    policy = CheckpointPolicy(sys.argv[2], checkpoint_interval={INTERVAL}, checkpoint_name="run")
    with AdaptiveExecutor({WORKERS}, chunksize=1, checkpoint=policy) as executor:
        results = list(executor.map(work, range({CALLS})))
    assert results == [item * item for item in range({CALLS})], results
    print("complete")
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_at_random_moments_completes(tmp_path, seed):
    """All results are right; a kill costs at most a commit interval, a commit under way, and what was in flight."""
    script, log = tmp_path / "run.py", tmp_path / "log"
    script.write_text(textwrap.dedent(RUN), encoding="utf-8")
    log.touch()
    kills = run_until_complete(script, log, random.Random(seed))
    ran = list(map(int, log.read_text(encoding="ascii").split()))
    assert kills >= 2
    assert set(ran) == set(range(CALLS))
    assert len(ran) - CALLS <= kills * (2 * INTERVAL + WORKERS)

    again = subprocess.run(command(script, log), env=environment(), capture_output=True, text=True, check=True)
    assert again.stdout == "complete\n"
    assert count_lines(log) == len(ran)


def run_until_complete(script: Path, log: Path, rng: random.Random) -> int:
    """Start the run, kill its process group after some calls, and start it again; return how often it was killed."""
    kills = 0
    while True:
        enough = count_lines(log) + rng.randint(1, 150)
        run = subprocess.Popen(
            command(script, log), env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        with run:
            assert poll_until(lambda: count_lines(log) >= enough or run.poll() is not None, 30)  # noqa: B023
            if run.poll() is not None:
                assert run.stdout.read() == "complete\n"
                return kills
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1


def command(script: Path, log: Path) -> list[str]:
    """Return how the run is started."""
    return [sys.executable, str(script), str(log), str(log.parent / "checkpoints")]


def count_lines(log: Path) -> int:
    """Return how many calls have run so far."""
    return log.read_bytes().count(b"\n")


FULL_DISK = """
    import resource, sys
    from amorsize_executor import AdaptiveExecutor, CheckpointPolicy, StorageError
    from tests import payloads

    policy = CheckpointPolicy(sys.argv[2], checkpoint_interval=5, checkpoint_name="run")
    with AdaptiveExecutor(2, chunksize=1, checkpoint=policy) as executor:
        limit = int(sys.argv[1])
        calls = executor.imap(payloads.repeat_slowly, range(400), buffersize=8, on_error="return")
        results = [next(calls)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        results += calls
    values = [result for result in results if isinstance(result, bytes)]
    refused = [result for result in results if isinstance(result, StorageError)]
    assert len(values) + len(refused) == 400, results
    assert all(value == b"%d " % number * 1000 for number, value in enumerate(results) if isinstance(value, bytes))
    print(len(values), len(refused), *{str(error).partition(": ")[2] for error in refused})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_ends_the_run_with_a_clear_error_and_loses_no_result(tmp_path):
    """Results that were computed arrive, the rest is refused; with room again, the run goes on where it was."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(FULL_DISK), encoding="utf-8")

    def run(limit):
        arguments = [sys.executable, str(script), str(limit), str(tmp_path / "checkpoints")]
        done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    out, err = run(200_000)
    values, refused, problem = out.split(maxsplit=2)
    assert int(values) >= 20
    assert int(refused) >= 1
    assert "disk" in problem
    assert "disk" in err
    assert run(-1) == ("400 0\n", "")
