"""What a worker imports anyway before it can return from its first call: its zygote had better do so, once for all.

Only what is installed, and certain: the modules that a function's globals name, because they are imported with it, and
those that its code imports before its first branch and before it does anything that an import may depend on, such as to
set a variable of the environment. A user's own modules may hold what each worker has to have for itself, such as a
generator of random numbers.
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

_ENDS = {
    *dis.hasjrel,
    *dis.hasjabs,
    *(
        dis.opmap[name]
        for name in dis.opmap
        if name.startswith(("RETURN", "RAISE", "CALL", "PRECALL", "STORE_", "DELETE_", "YIELD", "SEND"))
        or name in {"BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL", "GET_AWAITABLE"}
    ),
} - {dis.opmap[name] for name in dis.opmap if name.startswith(("STORE_FAST", "STORE_NAME", "STORE_DEREF"))}
"""Branches, and what may change more than a local variable."""
_WITH_HOMES = {type, types.FunctionType, types.BuiltinFunctionType}
_INSTALLED = {"site-packages", "dist-packages"}


def imports_ahead(function: Callable[..., Any]) -> list[str]:
    """Return the names of installed modules that workers will import for a function, in the order of their finding."""
    names: dict[str, None] = {}
    seen: set[types.CodeType] = set()
    waiting = [innermost(function)]
    while waiting:
        each = waiting.pop()
        names[_home_of(each)] = None
        if type(each) is not types.FunctionType or each.__code__ in seen:
            continue
        seen.add(each.__code__)
        names.update(dict.fromkeys(_imports_of(each.__code__)))
        for value in _globals_of(each):
            if type(value) is types.FunctionType and value.__module__ == "__main__":
                waiting.append(value)
            names[_home_of(value)] = None
    names.pop("__main__", None)  # which a clean process has not, and which may be installed
    return [name for name in names if _is_installed(name.partition(".")[0])]


def _home_of(value: Any) -> str:
    """Return the module that has to be imported for a value; an empty text where none is known.

    Asks nothing of an object of a user's class: a proxy would make what it stands for, or raise.
    """
    kind = type(value)
    is_module = kind is types.ModuleType
    home: object = value.__name__ if is_module else (value if kind in _WITH_HOMES else kind).__module__
    return home if isinstance(home, str) else ""


def _globals_of(function: types.FunctionType) -> list[Any]:
    """Return what comes along with a function: with one that goes by name all that its module has bound."""
    known = function.__globals__.copy()  # which other threads may change
    if function.__module__ != "__main__":
        return [value for name, value in known.items() if not name.startswith("__")]
    return [known[name] for code in _codes(function.__code__) for name in code.co_names if name in known]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _imports_of(code: types.CodeType) -> Iterator[str]:
    """Yield what code imports before its first branch, and before it changes anything."""
    constants: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opcode in _ENDS:
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
    except Exception:  # noqa: BLE001 - no name, a module made by hand, or a finder of the user's: it is not certain
        return False
    return found is not None and found.origin is not None and not _INSTALLED.isdisjoint(Path(found.origin).parts)
