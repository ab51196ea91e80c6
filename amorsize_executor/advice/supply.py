"""Items of any iterable, some of them taken ahead as a sample, and none of them lost or doubled by that."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, MappingView, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from amorsize_executor.advice.arguments import count_items

_CONTAINERS = (Sequence, AbstractSet, Mapping, MappingView)
"""What gives the same items each time; a length and a way to iterate, as a drained queue has them too, say less."""


class Resumed(Iterator[Any]):
    """What an iterator gives, with what was pulled from it already in front.

    An error that it raised meanwhile is raised again at its place, once; what the iterator gives after it follows.
    """

    def __init__(self, pulled: Iterable[Any], error: Exception | None, source: Iterator[Any]) -> None:
        self._pulled = deque(pulled)
        self._error = error
        self._source = source

    def __next__(self) -> Any:
        if self._pulled:
            return self._pulled.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return next(self._source)


class Supply:
    """A task's items. ``iter`` is asked of the data once, so that sources which cannot begin anew lose nothing.

    Args:
        data: Any iterable.
        most: How many items to take ahead, >= 1.

    Attributes:
        total: How many items there are, or None where nobody knows.
        ahead: (position, item) of what was taken ahead, by position. Of a sequence they are spread from the first
            item to the last, since data is often sorted; of all else they are the first.
        error: What the source raised meanwhile.
        begins_anew: Whether the items can be had again and again.
    """

    def __init__(self, data: Iterable[Any], most: int) -> None:
        self.total = count_items(data)
        self.error: Exception | None = None
        self._data = data
        self.begins_anew = isinstance(data, _CONTAINERS) or hasattr(type(data), "__array__")
        self._source: Iterator[Any] | None = None
        self.ahead: list[tuple[int, Any]] = []
        if isinstance(data, Sequence) and self.total is not None:
            try:
                self.ahead.extend((position, data[position]) for position in spread(self.total, most))
            except Exception as error:  # noqa: BLE001 - it is kept, and raised again where the items are used
                self.error = error
            return
        pulled: list[Any] = []
        try:
            self._source = iter(data)
            pulled.extend(itertools.islice(self._source, most))  # keeps what came before an error
        except Exception as error:  # noqa: BLE001 - as above
            self.error = error
        self.ahead = list(enumerate(pulled))
        if self.error is None and len(pulled) < most:
            self.total = len(pulled)

    def complete(self) -> Iterable[Any]:
        """Return all items: the data itself where it can begin anew, else an iterator that what was taken leads."""
        if self._source is None or self.begins_anew:
            return self._data
        return Resumed([item for _, item in self.ahead], self.error, self._source)

    def without(self, positions: Collection[int]) -> Iterator[Any]:
        """Return the items at all other positions, in order.

        What has no way to begin anew goes on in the same source as ``complete``: use the one or the other.
        """
        if self._source is None or self.begins_anew:
            return itertools.chain.from_iterable(leave_out(iter(self._data), sorted(positions)))
        kept = [item for position, item in self.ahead if position not in positions]
        return Resumed(kept, self.error, self._source)


def leave_out(items: Iterator[Any], positions: list[int]) -> Iterator[Iterator[Any]]:
    """Yield the parts of an iterator between ascending positions, each to be used up before the next is asked for."""
    begin = 0
    for position in positions:
        yield itertools.islice(items, position - begin)
        next(items, None)
        begin = position + 1
    yield items


def spread(total: int, most: int) -> list[int]:
    """Return up to ``most`` positions below ``total``, evenly from the first to the last, ascending, each once."""
    if total <= most:
        return list(range(total))
    if most == 1:
        return [0]
    return [place * (total - 1) // (most - 1) for place in range(most)]
