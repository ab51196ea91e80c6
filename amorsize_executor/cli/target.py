"""Functions by their name on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amorsize_executor.errors import AmorsizeError


class TargetError(AmorsizeError, ValueError):
    """A name on the command line names no function; the text says what is missing."""


def load_function(name: str) -> Callable[..., Any]:
    """Return what a name stands for.

    It is ``module:function``, ``module:Class.method``, ``module.function`` or ``path/to/file.py:function``. Modules
    of the current directory are found, as with ``python -m``; a file's neighbours are found by it.

    Raises:
        TargetError: There is no separator, no such module, file or attribute, or it cannot be called.
    """
    place, separator, path = name.rpartition(":")
    if not separator and not name.endswith(".py"):
        place, separator, path = name.rpartition(".")
    if not (place and separator and path):
        message = f"{name!r} names no function; write module:function or path/to/file.py:function"
        raise TargetError(message)
    if place.endswith(".py"):
        target = _import_file(Path(place))
    else:
        _search(Path.cwd())
        target, path = _import(place, path) if ":" in name else _import_dotted(place, path)
    for part in path.split("."):
        if not hasattr(target, part):
            near = f"; did you mean {close!r}?" if (close := _closest(part, dir(target))) else ""
            message = f"{place!r} has no {path!r}{near}"
            raise TargetError(message)
        target = getattr(target, part)
    if callable(target):
        return target  # type: ignore[no-any-return]
    message = f"{name!r} cannot be called"
    raise TargetError(message)


def _search(directory: Path) -> None:
    """Have modules of a directory found first."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _import(module: str, path: str) -> tuple[Any, str]:
    """Return a module, and the path in it."""
    try:
        return import_module(module), path
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        told = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        message = f"cannot import {module!r}: {told}"
        raise TargetError(message) from error


def _import_dotted(module: str, path: str) -> tuple[Any, str]:
    """Return the module of a dotted name, which may be shorter than all but the last word: ``module.Class.method``."""
    whole = module
    while True:
        try:
            return import_module(module), path
        except ModuleNotFoundError as error:
            above, _, last = module.rpartition(".")
            if error.name != module or not above:
                return _import(whole, path)
            module, path = above, f"{last}.{path}"
        except (Exception, SystemExit):  # noqa: BLE001 - said by the same words as of the other form
            return _import(module, path)


def _import_file(file: Path) -> Any:
    """Import a file as the module that its neighbours know it as, so that workers can import it too."""
    file = file.resolve()
    if not file.is_file():
        message = f"there is no file {str(file)!r}"
        raise TargetError(message)
    names, root = [file.stem], file.parent
    while (root / "__init__.py").is_file():  # of a package, as its relative imports need it
        names, root = [root.name, *names], root.parent
    if root != file.parent:
        sys.path.append(str(file.parent))
    _search(root)
    top, whole = names[0], file if len(names) == 1 else root / names[0] / "__init__.py"
    is_dotted = any("." in name for name in names)  # it would be a part of something
    spec = None if is_dotted or top in sys.modules else find_spec(top)
    origin = getattr(sys.modules.get(top), "__file__", None) if spec is None else spec.origin
    if is_dotted or origin is None or Path(origin).resolve() != whole:
        message = (
            f"{str(file)!r} cannot be imported as {'.'.join(names)!r}, which is something else here; rename the file"
        )
        raise TargetError(message)
    return _import(".".join(names).removesuffix(".__init__"), "")[0]


def _closest(name: str, names: list[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only for those who mistype

    return next(iter(difflib.get_close_matches(name, names, 1)), None)
