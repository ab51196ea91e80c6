"""Exceptions on their way home: type, arguments, notes, the whole traceback and the chain of causes.

The traceback travels twice: as text, which becomes ``__cause__`` as in ``ProcessPoolExecutor``, and as frames
(tblib), so that debuggers and pytest show the worker's lines. An exception that does not survive pickling is rebuilt
without calling its ``__init__``, and what does not pickle in it is text. Nothing that one does can hurt another call.
"""

from __future__ import annotations

import pickle
import traceback
from types import TracebackType
from typing import Any

from amorsize_executor.wire.codec import Codec

_DEPTH = 16  # links of a chain that travel
_FRAMES = 50  # frames that travel from either end of a traceback


def encode_error(codec: Codec, error: BaseException, skip_frames: int = 0) -> bytes:
    """Return the bytes of an exception, with the traceback less its first ``skip_frames`` frames. Never raises.

    Runs in: the worker.
    """
    trace = error.__traceback__
    for _ in range(skip_frames):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    error.__traceback__ = trace
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as refusal:  # noqa: BLE001 - a broken __str__ or __cause__ must not hide the error
        text = f"{type(error).__qualname__} (its traceback could not be shown: {refusal!r})"
    return pickle.dumps((text, _links(codec, error)), 5)


def decode_error(codec: Codec, data: Any) -> BaseException:
    """Return the exception that ``encode_error`` saw. Never raises.

    Runs in: the dispatcher thread.
    """
    text, links = pickle.loads(data)
    error = _rebuild(codec, links)
    from concurrent.futures.process import _RemoteTraceback  # noqa: PLC0415

    remote = _RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]
    remote.__cause__, remote.__suppress_context__ = error.__cause__, True
    error.__cause__ = remote
    return error


def _links(codec: Codec, error: BaseException) -> list[tuple[Any, ...]]:
    """Flatten the chain: (pickle, spare parts, frames, index of cause, index of context, suppress)."""
    chain: list[BaseException] = [error]
    where = {id(error): 0}
    for link in chain:
        for other in (link.__cause__, link.__context__):
            if other is not None and id(other) not in where and len(chain) < _DEPTH:
                where[id(other)] = len(chain)
                chain.append(other)
    return [
        (
            *_parts(codec, link),
            _frames(link.__traceback__),
            where.get(id(link.__cause__)),
            where.get(id(link.__context__)),
            link.__suppress_context__,
        )
        for link in chain
    ]


def _parts(codec: Codec, error: BaseException) -> tuple[bytes | None, bytes | None, str]:
    shown = _show(error)
    try:
        data = codec.dumps(error)
        if type(codec.loads(data)) is type(error):
            return data, None, shown
    except BaseException:  # noqa: BLE001, S110 - whatever it raised, it does not survive as it is: send the parts
        pass
    try:
        data = codec.dumps((type(error), error.args, error.__dict__))
        codec.loads(data)
    except BaseException:  # noqa: BLE001, S110 - then what refuses as text
        pass
    else:
        return None, data, shown
    lost: list[str] = []
    args = tuple(_portable(codec, part, f"args[{place}]", lost) for place, part in enumerate(error.args))
    attributes = {name: _portable(codec, part, name, lost) for name, part in error.__dict__.items()}
    note = f"came as text, not being picklable: {', '.join(lost)}"
    attributes["__notes__"] = [*attributes.get("__notes__", ()), note]
    try:
        return None, codec.dumps((type(error), args, attributes)), shown
    except BaseException:  # noqa: BLE001 - then only the name of its type is left
        return None, None, shown


def _portable(codec: Codec, part: Any, name: str, lost: list[str]) -> Any:
    """Return a part of an exception as it is, or its repr where it does not survive the way; its name is noted then."""
    try:
        codec.loads(codec.dumps(part))
    except BaseException:  # noqa: BLE001 - whatever its reduction raises
        lost.append(name)
        try:
            return repr(part)
        except BaseException:  # noqa: BLE001 - a broken __repr__
            return f"<{type(part).__qualname__}>"
    return part


def _show(error: BaseException) -> str:
    try:
        return f"{type(error).__qualname__}: {error}"
    except BaseException:  # noqa: BLE001 - a broken __str__ must not hide the error
        return type(error).__qualname__


def _frames(trace: TracebackType | None) -> dict[str, Any] | None:
    if trace is None:
        return None
    shorten(trace)
    from tblib import Traceback  # noqa: PLC0415 - loaded with the first error

    frames: dict[str, Any] = Traceback(trace).as_dict()
    return frames


def shorten(trace: TracebackType) -> None:
    """Cut the middle out of a traceback with more frames than travel; recursion leaves thousands."""
    links = [trace]
    while links[-1].tb_next is not None:
        links.append(links[-1].tb_next)
    if len(links) > 2 * _FRAMES:
        links[_FRAMES - 1].tb_next = links[-_FRAMES]


def _rebuild(codec: Codec, links: list[tuple[Any, ...]]) -> BaseException:
    errors = [_revive(codec, *link[:3]) for link in links]
    for error, (_data, _spare, _shown, frames, cause, context, suppress) in zip(errors, links):
        error.__cause__ = errors[cause] if cause is not None else None
        error.__context__ = errors[context] if context is not None else None
        error.__suppress_context__ = suppress
        if frames is not None:
            from tblib import Traceback  # noqa: PLC0415

            error.__traceback__ = Traceback.from_dict(frames).as_traceback()
    return errors[0]


def _revive(codec: Codec, data: bytes | None, spare: bytes | None, shown: str) -> BaseException:
    try:
        if data is not None:
            error = codec.loads(data)
            if isinstance(error, BaseException):
                return error
        elif spare is not None:
            kind, args, attributes = codec.loads(spare)
            error = kind.__new__(kind, *args)
            error.args = args
            error.__dict__.update(attributes)
            return error  # type: ignore[no-any-return]
    except BaseException as refusal:  # noqa: BLE001 - it did not survive the way: say so in its place
        return RuntimeError(f"{shown} (the exception could not be rebuilt: {refusal!r})")
    return RuntimeError(shown)
