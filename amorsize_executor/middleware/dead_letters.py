"""Dead letters: every call that has failed for good is kept with its arguments, so that it can be run again.

settle: an error ──► DeadLetterQueue ──► in memory, bounded
        │                           └──► the store (SQLite, shared by processes, bounded)
        ▼ on outward: the call's future fails all the same

A call that a checkpoint knows has one dead letter at most, however often the program is run again: the latest, and none
once it has succeeded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from amorsize_executor.errors import InvalidParameterTypeError, StorageError
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import RUN, Admission, Call, Middleware, Outcome
from amorsize_executor.storage.dead_letter import DLQEntry, DLQPolicy
from amorsize_executor.storage.dead_letter_queue import DeadLetterQueue


class DeadLetters(Middleware):
    """Keeps every call that has failed for good. The call's future fails all the same.

    Where the store cannot be opened or written any more, calls that have not started fail with ``StorageError``.

    Args:
        queue: Where they are kept; executors may share one.
    """

    def __init__(self, queue: DeadLetterQueue) -> None:
        self.queue = queue
        self._refusal: StorageError | None = None
        self._earlier: set[str] | None = None  # ids in the store when a checkpoint's call first asked

    def __repr__(self) -> str:
        return f"DeadLetters({self.queue!r})"

    def open(self) -> None:
        """Open the store; where that fails, ``admit`` says why."""
        try:
            self.queue.open()
            self._refusal = None
        except StorageError as error:
            logger.error("%s", error)
            self._refusal = error

    def close(self) -> None:
        """Commit everything and let go of the store."""
        self.queue.close()

    def admit(self, call: Call) -> Admission:
        """Let the call through, as long as its failure could be kept.

        Raises:
            StorageError: It could not.
        """
        del call
        failure = self._refusal or self.queue.journal.failure
        if failure is not None:
            raise StorageError(failure.path, failure.problem)
        return RUN

    def settle(self, call: Call, outcome: Outcome) -> None:
        """Keep a call that has failed; let go of what an earlier run kept of one that has succeeded."""
        try:
            if outcome.error is not None:
                self._keep(call, outcome.error)
            elif call.identity is not None and (self._earlier_ids() or self.queue.size()):
                self._let_go(_id_of(call.identity))
        except Exception:  # noqa: BLE001 - how the call ended matters more to the caller
            logger.exception("how a call of %s has ended could not be kept", _name_of(call.function))

    def _keep(self, call: Call, error: BaseException) -> None:
        entry = entry_of(call, error, self.queue.policy)
        if call.identity is not None:
            entry.entry_id = _id_of(call.identity)
        self.queue.add_soon(entry)

    def _let_go(self, entry_id: str) -> None:
        earlier = self._earlier_ids()
        if entry_id in earlier or self.queue.holds(entry_id):
            earlier.discard(entry_id)
            self.queue.remove_soon(entry_id)

    def _earlier_ids(self) -> set[str]:
        if self._earlier is None:
            self._earlier = set()  # where the store cannot be read, that is told once
            self._earlier |= self.queue.stored_ids()
        return self._earlier


def _id_of(identity: tuple[str, int, int, bytes]) -> str:
    """Return the id of the one dead letter of a call that a checkpoint knows."""
    return blake2b(repr(identity).encode(), digest_size=16).hexdigest()


def entry_of(call: Call, error: BaseException, policy: DLQPolicy) -> DLQEntry:
    """Return the dead letter of a call."""
    style, item = _item_of(call)
    metadata = {
        "function": _name_of(call.function),
        "attempts": call.attempt,
        "position": call.position,
        "map": call.batch,
        "key": call.key,
    }
    return DLQEntry.of(
        item,
        error,
        include_traceback=policy.include_traceback,
        retry_count=max(0, call.attempt - 1),
        metadata={name: value for name, value in metadata.items() if value is not None},
        style=style,
    )


def _item_of(call: Call) -> tuple[str, Any]:
    if call.kwargs:
        return "call", (call.args, call.kwargs)
    return ("item", call.args[0]) if len(call.args) == 1 else ("args", call.args)


def _name_of(function: Callable[..., Any]) -> str:
    """Return ``module:qualname``, of what is under partials."""
    while not hasattr(function, "__qualname__") and callable(getattr(function, "func", None)):
        function = function.func  # type: ignore[attr-defined]
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def layer_of(value: object) -> Middleware:
    """Return the layer that ``dead_letters=value`` asks for.

    Args:
        value: The directory of a store, a ``DLQPolicy``, a ``DeadLetterQueue``, or a layer.

    Raises:
        InvalidParameterTypeError: It is none of these.
        OSError: The directory cannot be made, or others may write into it.
    """
    if isinstance(value, (str, os.PathLike)):
        value = DLQPolicy(directory=value)
    if isinstance(value, DLQPolicy):
        value = DeadLetterQueue(value)
    if isinstance(value, DeadLetterQueue):
        return DeadLetters(value)
    if isinstance(value, Middleware):
        return value
    rule = "must be a directory, a DLQPolicy, a DeadLetterQueue or a ready layer"
    raise InvalidParameterTypeError("dead_letters", value, rule)
