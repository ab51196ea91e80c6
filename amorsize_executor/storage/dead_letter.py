"""A dead letter: a call that has failed for good, with its arguments; and the policy by which such calls are kept."""

from __future__ import annotations

import enum
import math
import os
import time
import traceback as tracebacks
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.parameters import check_choice, check_count, check_flag
from amorsize_executor.storage import encoding, place

STYLES = "item", "args", "call"
"""How an entry's item becomes a call: ``f(item)``, ``f(*item)``, ``f(*item[0], **item[1])``."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "error_type": str,
    "error_message": str,
    "timestamp": (int, float),
    "traceback": (str, type(None)),
    "metadata": dict,
    "entry_id": str,
}


class DLQFormat(enum.Enum):
    """How arguments are kept: as JSON, with a pickle only for what JSON cannot hold, or all as pickle."""

    JSON = "json"
    PICKLE = "pickle"


@dataclass(frozen=True)
class DLQPolicy:
    """How failed calls are kept.

    Attributes:
        directory: Where the store lies; made with mode 0700.
        format: How arguments are kept.
        max_entries: Most entries, here and in the store, >= 0; the oldest go first. 0 for no bound.
        include_traceback: Keep tracebacks, the worker's where there is one.
        auto_persist: Write each entry to the store at once.

    Raises:
        ValueError: A parameter is out of its range.
    """

    directory: str | os.PathLike[str] = ".amorsize_dlq"
    format: DLQFormat = DLQFormat.JSON
    max_entries: int = 10000
    include_traceback: bool = True
    auto_persist: bool = True

    def __post_init__(self) -> None:
        place.check_path("directory", self.directory)
        if not isinstance(self.format, DLQFormat):
            raise InvalidParameterTypeError("format", self.format, "must be DLQFormat.JSON or DLQFormat.PICKLE")
        check_count("max_entries", self.max_entries, least=0, optional=False)
        check_flag("include_traceback", self.include_traceback)
        check_flag("auto_persist", self.auto_persist)


@dataclass
class DLQEntry:
    """A call that has failed for good.

    Attributes:
        item: What the function was called with; ``style`` says how.
        error_type: Name of the exception's class.
        error_message: Its text.
        timestamp: When it failed, in seconds since 1970.
        traceback: The worker's, where there was one; None if there is none.
        retry_count: How often it was tried again, >= 0.
        metadata: What else is known; of a call of an executor ``function`` (``module:qualname``), ``attempts``,
            ``position``, ``map`` and ``key``.
        style: ``"item"``: ``f(item)``; ``"args"``: ``f(*item)``; ``"call"``: ``f(*item[0], **item[1])``.
        entry_id: What it is known by in the store.
    """

    item: Any
    error_type: str
    error_message: str
    timestamp: float
    traceback: str | None = None
    retry_count: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    style: str = "item"
    entry_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, item: Any, error: BaseException, *, include_traceback: bool = True, **known: Any) -> DLQEntry:
        """Return the entry of a call that failed just now; ``known`` are further fields."""
        return cls(item, **_describe(error, include_traceback=include_traceback), **known)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; the item is the same object."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DLQEntry:
        """Return the entry that ``to_dict`` was asked of; what has a default may be missing.

        Raises:
            ValueError: A field is missing, unknown or of the wrong type, or the item is no call of the style.
        """
        try:
            entry = cls(**data)
            entry._check()
        except TypeError as error:
            message = f"is no dead letter: {error}"
            raise ValueError(message) from error
        return entry

    def _check(self) -> None:
        """Raise unless the fields can be stored, shown and run: what came from a file may be anything."""
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise InvalidParameterTypeError(name, value, "is of another type in a dead letter")
        if not math.isfinite(self.timestamp):
            raise InvalidParameterError("timestamp", self.timestamp, "must be finite")
        check_count("retry_count", self.retry_count, least=0, optional=False)
        check_choice("style", self.style, STYLES)
        if self.can_rerun and not all(isinstance(name, str) for name in self.arguments()[1]):
            raise InvalidParameterTypeError("item", self.item, "must have text as names of arguments")

    @property
    def can_rerun(self) -> bool:
        """Whether the arguments are at hand, and not only their repr, and it is known what they are."""
        return self.style in STYLES and encoding.is_whole(self.item)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what to call the function with: positional and keyword arguments."""
        if self.style == "item":
            return (self.item,), {}
        if self.style == "args":
            return tuple(self.item), {}
        args, kwargs = self.item
        return tuple(args), dict(kwargs)

    def failed_again(self, error: BaseException, *, include_traceback: bool = True) -> DLQEntry:
        """Return the entry after one more failure; when it failed first stays known as ``first_failed_at``."""
        return replace(
            self,
            **_describe(error, include_traceback=include_traceback),
            retry_count=self.retry_count + 1,
            metadata={"first_failed_at": self.timestamp, **self.metadata},
        )


def _describe(error: BaseException, *, include_traceback: bool) -> dict[str, Any]:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        message = encoding.show(error)
    return {
        "error_type": type(error).__name__,
        "error_message": message,
        "timestamp": time.time(),
        "traceback": _traceback_of(error) if include_traceback else None,
    }


def _traceback_of(error: BaseException) -> str | None:
    """Return the worker's traceback if the error came from one, else the error's own, if it has one."""
    trace = error.__traceback__
    try:
        remote = getattr(error.__cause__, "tb", None)
        if isinstance(remote, str):
            return remote.strip().strip('"').strip()
        text = None if trace is None else "".join(tracebacks.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - an error or a cause that refuses questions; where it was raised can be told
        text = "".join(tracebacks.format_tb(trace))
    return text and text.rstrip()
