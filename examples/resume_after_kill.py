"""A run that is killed three times and computes every result once, but for a handful in flight.

Run it with ``python examples/resume_after_kill.py``; it takes a few seconds and leaves nothing behind. It starts a
program of its own, kills that program and all its workers without a warning, and starts it again, until it completes.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from amorsize_executor import AdaptiveExecutor, CheckpointPolicy

ITEMS = 240
INTERVAL = 10
KILLS = 3


def costly(log: str, number: int) -> int:
    """Square a number, slowly, and note in a file that it was done."""
    time.sleep(0.01)
    with Path(log).open("a", encoding="ascii") as file:
        file.write(f"{number}\n")
    return number * number


# --- the program that is killed ---


def work(log: str, directory: str) -> None:
    """Compute all squares. This is all that a program needs to be able to go on where it was."""
    policy = CheckpointPolicy(directory, checkpoint_interval=INTERVAL, checkpoint_name="squares")
    with AdaptiveExecutor(max_workers=4, checkpoint=policy) as executor:
        results = list(executor.map(costly, [log] * ITEMS, range(ITEMS)))
    print(f"all {ITEMS} results are right: {results == [number * number for number in range(ITEMS)]}")


# --- the one that kills it ---


def count_done(log: Path) -> int:
    """Return how many calls have run so far."""
    return len(log.read_bytes().splitlines())


def kill_all(program: subprocess.Popen) -> None:
    """Kill a program and its workers, as a machine that goes away would."""
    if hasattr(os, "killpg"):
        os.killpg(program.pid, signal.SIGKILL)
    else:
        program.kill()
    program.communicate()


def live(number: int, log: Path, directory: Path, *, is_last: bool) -> None:
    """Start the program, and unless it is its last life, kill it at a random moment."""
    before, began = count_done(log), time.perf_counter()
    command = [sys.executable, __file__, str(log), str(directory)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603
    if is_last:
        said, _ = program.communicate()
        print(f"life {number}: {count_done(log) - before} calls in {time.perf_counter() - began:.1f} s; {said.strip()}")
        return
    enough = before + random.randint(30, 70)
    while count_done(log) < enough and program.poll() is None:
        time.sleep(0.002)
    kill_all(program)
    print(f"life {number}: killed after {count_done(log) - before} calls")


def main() -> None:
    """Tell the story."""
    random.seed(7)
    with tempfile.TemporaryDirectory() as folder:
        log, directory = Path(folder, "log"), Path(folder, "checkpoints")
        log.touch()
        print(f"{ITEMS} calls of 10 ms on 4 workers; results are committed every {INTERVAL}.\n")
        for number in range(1, KILLS + 2):
            live(number, log, directory, is_last=number == KILLS + 1)
        ran = count_done(log)
        print(f"\n{ran} calls were run for {ITEMS} results: {KILLS} kills cost {ran - ITEMS} calls.")
        live(KILLS + 2, log, directory, is_last=True)
        print("A run of a finished program computes nothing: every result comes from the journal.")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        work(sys.argv[1], sys.argv[2])
