"""Objects with state that pickle: all copies in one process are one object, so their state is one a process."""

from __future__ import annotations

import threading
import uuid
from typing import Any
from weakref import WeakValueDictionary

_known: WeakValueDictionary[str, Any] = WeakValueDictionary()
_lock = threading.Lock()


class Shared:
    """Pickles as a name and its ``policy``: where the name is known it is that object, elsewhere a new one."""

    _name: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        with _lock:
            if self._name is None:
                self._name = uuid.uuid4().hex
                _known[self._name] = self
        return _find_or_make, (type(self), self._name, vars(self)["policy"])


def _find_or_make(kind: Any, name: str, policy: object) -> Any:
    with _lock:
        found = _known.get(name)
        if found is None:
            found = _known[name] = kind(policy)
            found._name = name  # noqa: SLF001 - its class is ours
        return found
