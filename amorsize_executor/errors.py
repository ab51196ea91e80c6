"""Every error of the package: one root, and the standard library's classes beside it.

A message is built from fields, so a program can read the facts, and every error survives pickling.
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import TimeoutError as FuturesTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

if sys.version_info >= (3, 11):
    _BothTimeoutErrors = TimeoutError
else:

    class _BothTimeoutErrors(FuturesTimeoutError, TimeoutError):  # noqa: N818 - a base of such
        """What both classes stand for; they are one from 3.11 on."""


class AmorsizeError(Exception):
    """Root of all errors that this package raises by itself."""


class InvalidParameterError(AmorsizeError, ValueError):
    """An argument is of the right type and outside its range.

    Attributes:
        name: The parameter's name.
        value: What was given.
        rule: What would have been accepted, in words; a whole sentence begins with the name.
    """

    def __init__(self, name: str, value: object, rule: str) -> None:
        self.name, self.value, self.rule = name, value, rule
        is_sentence = rule.startswith(f"{name} ")
        told = f": {rule}, got {value!r}" if is_sentence else f" {name}={value!r}: {rule}"
        super().__init__(f"Invalid parameter{told}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.value, self.rule)


class InvalidParameterTypeError(InvalidParameterError, TypeError):
    """An argument is of the wrong type (also a ``TypeError``)."""


class MissingExtraError(AmorsizeError, ImportError):
    """An optional package is not installed; the message names the pip command that installs it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        self.feature, self.package, self.extra = feature, package, extra
        super().__init__(
            f"{feature} needs the package {package!r}: pip install 'amorsize-executor[{extra}]'",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.feature, self.package, self.extra)


class UnsupportedOptionError(AmorsizeError, ValueError):
    """An option needs something that the chosen backend cannot do; both are named."""

    def __init__(self, option: str, backend: str, capability: str) -> None:
        self.option, self.backend, self.capability = option, backend, capability
        super().__init__(f"{option} needs a backend that {capability}; {backend} cannot")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.option, self.backend, self.capability)


class StorageError(AmorsizeError, OSError):
    """A file of ours cannot be used: foreign, damaged, not ours alone, or the disk refuses it.

    Attributes:
        path: The file or directory.
        problem: What is the matter, and where it helps, what to do.
    """

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = str(path), problem
        super().__init__(f"{self.path}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problem)


class ConfigFileError(AmorsizeError, ValueError):
    """A saved config cannot be used: damaged, out of range, of another function or version.

    Attributes:
        path: The file.
        problem: What is the matter, and what to do.
    """

    def __init__(self, path: object, problem: str) -> None:
        self.path, self.problem = str(path), problem
        super().__init__(f"{self.path}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problem)


class CheckpointMismatchError(AmorsizeError, ValueError):
    """What a checkpoint holds under a map's or call's name came from another function or other data.

    Attributes:
        checkpoint: The checkpoint's name.
        place: Which map or call, in words.
        difference: What differs.
    """

    def __init__(self, checkpoint: str, place: str, difference: str) -> None:
        self.checkpoint, self.place, self.difference = checkpoint, place, difference
        super().__init__(
            f"checkpoint {checkpoint!r} cannot be resumed: {place}: {difference}. "
            "Give this work another checkpoint name or key=, or delete the checkpoint",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.checkpoint, self.place, self.difference)


class UnstableKeyError(AmorsizeError, TypeError):
    """Something has no hash that is the same in every process, so that no checkpoint can know it again.

    Attributes:
        what: What it is part of: the arguments, the function.
        kind: Its type's name.
    """

    def __init__(self, what: str, kind: str) -> None:
        self.what, self.kind = what, kind
        super().__init__(
            f"{what}: {kind} has no stable hash, by which a checkpoint could know it again; "
            "name the work yourself with options(key=...)",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.kind)


class WorkerDiedError(AmorsizeError, BrokenProcessPool):
    """A call was running in a worker that died, as often as ``worker_death_retries`` allows and once more.

    The executor itself goes on; only this call is lost.

    Attributes:
        pid: The last worker's process id.
        exit_status: Its exit code, ``-n`` for death by signal n, or None where nobody could tell.
        deaths: How many workers died under this call.
    """

    def __init__(self, pid: int, exit_status: int | None, deaths: int) -> None:
        self.pid, self.exit_status, self.deaths = pid, exit_status, deaths
        super().__init__(
            f"worker process {pid} {describe_exit(exit_status)} while it ran this call "
            f"({deaths} worker{'s' if deaths != 1 else ''} lost to it)",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pid, self.exit_status, self.deaths)


class CallTimeoutError(AmorsizeError, _BothTimeoutErrors):
    """A call ran longer than its ``timeout``; its worker was stopped.

    It is a ``TimeoutError`` and a ``concurrent.futures.TimeoutError``.

    Attributes:
        seconds: The limit.
        pid: The process id of the worker that was stopped.
    """

    def __init__(self, seconds: float, pid: int) -> None:
        self.seconds, self.pid = seconds, pid
        super().__init__(f"the call ran longer than {seconds:g} s, so worker process {pid} was stopped")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds, self.pid)


class CircuitBreakerError(AmorsizeError):
    """A circuit breaker is open, so the call was not made.

    Attributes:
        message: Why, in words.
        state: The breaker's state when it refused.
        opened_at: When it opened, in seconds of its clock; None where it was not told.
        retry_after: Seconds until it will let a call through, >= 0.
    """

    def __init__(
        self, message: str, state: Any = None, opened_at: float | None = None, retry_after: float = 0.0
    ) -> None:
        self.message, self.state, self.opened_at, self.retry_after = message, state, opened_at, retry_after
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.state, self.opened_at, self.retry_after)


class RateLimitExceeded(AmorsizeError):  # noqa: N818 - the name that callers know
    """A rate limit is used up, and its policy says not to wait.

    Attributes:
        retry_after: Seconds until there is room, >= 0.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"the rate limit is used up; there is room again in {retry_after:.3g} s")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.retry_after,)


def describe_exit(exit_status: int | None) -> str:
    """Say in words how a process ended: ``'was killed by SIGKILL'``, ``'exited with status 3'``."""
    if exit_status is None:
        return "died of an unknown cause"
    if exit_status >= 0:
        return f"exited with status {exit_status}"
    try:
        return f"was killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"


NO_CALLS_OWN = CheckpointMismatchError, StorageError
"""Errors of a run as a whole, which no item is to blame for: whoever skips what fails would be left with nothing."""
