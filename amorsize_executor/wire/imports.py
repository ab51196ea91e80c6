"""What a worker imports anyway before it can return from its first call: its zygote had better do so, once for all.

Only what is installed, and certain: the modules that a function's globals name, because they are imported with it, and
those that its code imports before its first branch. A user's own modules may hold what each worker has to have for
itself, such as a generator of random numbers.
"""

from __future__ import annotations

import dis
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amorsize_executor.wire.functions import innermost

_BRANCHES = {
    *dis.hasjrel,
    *dis.hasjabs,
    *(dis.opmap[name] for name in dis.opmap if name.startswith(("RETURN", "RAISE"))),
}
_INSTALLED = {"site-packages", "dist-packages"}


def imports_ahead(function: Callable[..., Any]) -> list[str]:
    """Return the names of installed modules that workers will import for a function, in the order of their finding."""
    names: dict[str, None] = {}
    seen: set[types.CodeType] = set()
    waiting = [innermost(function)]
    while waiting:
        each = waiting.pop()
        names[_home_of(each)] = None
        if not isinstance(each, types.FunctionType) or each.__code__ in seen:
            continue
        seen.add(each.__code__)
        names.update(dict.fromkeys(_imports_of(each.__code__)))
        for value in _globals_of(each):
            if isinstance(value, types.FunctionType) and value.__module__ == "__main__":
                waiting.append(value)
            names[_home_of(value)] = None
    names.pop("__main__", None)  # which a clean process has not, and which may be installed
    return [name for name in names if _is_installed(name.partition(".")[0])]


def _home_of(value: Any) -> str:
    """Return the module that has to be imported for a value; an empty text where none is known."""
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""


def _globals_of(function: types.FunctionType) -> list[Any]:
    """Return what comes along with a function: with one that goes by name all that its module has bound."""
    known = function.__globals__
    if function.__module__ != "__main__":
        return [value for name, value in known.copy().items() if not name.startswith("__")]
    return [known[name] for code in _codes(function.__code__) for name in code.co_names if name in known]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _imports_of(code: types.CodeType) -> Iterator[str]:
    """Yield what code imports before its first branch."""
    constants: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opcode in _BRANCHES:
            return
        if instruction.opname == "IMPORT_NAME" and constants[-2] == 0:  # not relative
            yield instruction.argval
            for name in constants[-1] or ():
                yield f"{instruction.argval}.{name}"  # where that is no module, its import will say so
        constants = [constants[-1], instruction.argval]


def _is_installed(package: str) -> bool:
    if package in sys.stdlib_module_names:
        return True
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):  # no name, or a module that somebody made by hand
        return False
    return found is not None and found.origin is not None and not _INSTALLED.isdisjoint(Path(found.origin).parts)
