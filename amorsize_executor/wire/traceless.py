"""Functions of which code tells that a call ends soon and leaves nothing behind.

Where such a call runs, and whether it ran before workers were forked, nobody can tell. So a map of such calls needs
nothing but its caller, until that finds it to be worth more. Nor can anybody tell how many of them run at a time, so
threads may share them, which is of use where they let go of the interpreter's lock. What is not sure counts as leaving
traces.
"""

from __future__ import annotations

import builtins
import math
import opcode
import operator
import re
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from amorsize_executor.wire.codec import PLAIN, are_plain
from amorsize_executor.wire.reach import is_exactly

_PLAIN_BUILTINS = (
    *("abs", "all", "any", "ascii", "bin", "bool", "bytes", "chr", "complex", "divmod", "float", "hash", "hex", "int"),
    *("isinstance", "len", "max", "min", "oct", "ord", "pow", "repr", "round", "str", "sum"),
)
_HARMLESS = frozenset(getattr(builtins, name) for name in _PLAIN_BUILTINS)
_MODULES = (math, operator, zlib)
_OBJECTS = frozenset(_MODULES)
_OPERATIONS = frozenset(
    opcode.opmap[name]
    for name in opcode.opmap
    if name.startswith(
        ("BINARY_", "COMPARE_", "DUP_TOP", "FORMAT_", "INPLACE_", "POP_JUMP_", "RETURN_", "ROT_", "UNARY_")
    )
    or name
    in (
        *("BUILD_LIST", "BUILD_MAP", "BUILD_SLICE", "BUILD_STRING", "BUILD_TUPLE", "CACHE", "CALL", "CALL_FUNCTION"),
        *("CALL_FUNCTION_KW", "CALL_KW", "CALL_METHOD", "CONTAINS_OP", "CONVERT_VALUE", "COPY", "COPY_FREE_VARS"),
        *("EXTENDED_ARG", "IS_OP", "JUMP_FORWARD", "JUMP_IF_FALSE_OR_POP", "JUMP_IF_TRUE_OR_POP", "KW_NAMES"),
        *("LOAD_ATTR", "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST"),
        *("LOAD_GLOBAL", "LOAD_METHOD", "NOP", "POP_TOP", "PRECALL", "PUSH_NULL", "RESUME", "STORE_FAST"),
        *("STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "SWAP", "TO_BOOL", "UNPACK_SEQUENCE"),
    )
) - frozenset(
    opcode.opmap[name] for name in opcode.opmap if any(word in name for word in ("BACKWARD", "GENERATOR", "MATRIX"))
)
"""No loops, no stores but into local variables, no imports, no definitions, no exceptions that are caught, no ``@``."""

_SIGNED = opcode.opmap.get("BINARY_OP")  # Python 3.10 has an operation for each sign
_MATRIX_SIGNS = {place for place, (name, _sign) in enumerate(getattr(opcode, "_nb_ops", ())) if "MATRIX" in name}
_ABSOLUTE_JUMPS = frozenset(opcode.hasjabs)
"""Python 3.10 only, where they may lead back."""

if _ABSOLUTE_JUMPS:
    _OPERATIONS -= {opcode.EXTENDED_ARG}


_ARRAY_NAMES = frozenset(
    (
        *("abs", "absolute", "add", "all", "allclose", "amax", "amin", "any", "arange", "argmax", "argmin"),
        *("argsort", "array", "array_equal", "asarray", "astype", "average", "bincount", "bool_", "ceil", "clip"),
        *("concatenate", "copy", "cos", "count_nonzero", "cumprod", "cumsum", "diff", "divide", "dtype", "e"),
        *("empty", "empty_like", "equal", "exp", "flatten", "float32", "float64", "floor", "full", "full_like"),
        *("greater", "hstack", "hypot", "imag", "inf", "int16", "int32", "int64", "int8", "isclose", "isfinite"),
        *("isinf", "isnan", "item", "less", "linspace", "log", "log10", "log1p", "log2", "maximum", "mean", "median"),
        *("minimum", "mod", "multiply", "nan", "nan_to_num", "nanmax", "nanmean", "nanmin", "nanstd", "nansum"),
        *("nbytes", "ndim", "negative", "nonzero", "ones", "ones_like", "percentile", "pi", "power", "prod", "ptp"),
        *("quantile", "ravel", "real", "repeat", "reshape", "roll", "round", "searchsorted", "shape", "sign", "sin"),
        *("size", "sort", "sqrt", "square", "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "T", "take"),
        *("tan", "tanh", "tile", "tobytes", "tolist", "transpose", "uint16", "uint32", "uint64", "uint8", "unique"),
        *("var", "vstack", "where", "zeros", "zeros_like", "bool", "divmod", "pow"),
    )
)
"""What of NumPy and of its arrays ends in a few passes over them, without threads, files or random numbers."""

_HASH_NAMES = frozenset(
    (
        *("blake2b", "blake2s", "md5", "new", "sha1", "sha224", "sha256", "sha384", "sha3_224", "sha3_256"),
        *("sha3_384", "sha3_512", "sha512", "shake_128", "shake_256"),
    )
)
"""What of ``hashlib`` takes values and gives a hash in one pass over them; not what is slow on purpose."""

_HOMES = frozenset(
    (
        *("builtins", "math", "operator", "_operator", "zlib", "numpy", "hashlib", "_hashlib", "_blake2", "_md5"),
        *("_sha1", "_sha2", "_sha256", "_sha512", "_sha3"),
    )
)
"""Where what these modules have comes from."""

_BUILT_IN = frozenset((types.BuiltinFunctionType, type(re.compile("").search)))
"""Types of functions and methods in C; methods that are told their class have a type of their own in some Pythons."""

_SOON_BYTES = 8 << 20
"""A few passes over an array of this size take some milliseconds."""

_ALL_BYTES = 256 << 20

_USUAL_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def leaves_no_trace(function: Callable[..., Any], *, on_arrays: bool = False) -> bool:
    """Tell whether calls with builtin scalar values (``codec.PLAIN``) certainly leave nothing behind.

    Args:
        function: What is called.
        on_arrays: Whether values may be NumPy's, too, which is loaded then. What a call changes in these is left out of
            account.
    """
    if isinstance(function, types.FunctionType):
        return _is_straight(function, on_arrays=on_arrays)
    if isinstance(function, types.MethodDescriptorType):
        return function.__objclass__ in PLAIN
    return _is_harmless(function)


def lets_go(function: Callable[..., Any]) -> bool:
    """Tell whether calls of a function may let go of the interpreter's lock, whatever they are given."""
    if not isinstance(function, types.FunctionType):
        return _is_unlocked(function)
    return any(_is_unlocked(look_up(function, name)) for name in function.__code__.co_names)


def _is_unlocked(found: Any) -> bool:
    is_of_zlib = found is zlib or (isinstance(found, types.BuiltinFunctionType) and found.__self__ is zlib)
    return is_of_zlib or is_of_numpy(found) or is_of_hashlib(found)


def are_arrays(items: list[Any]) -> bool:
    """Tell whether all items are NumPy arrays or scalars without objects in them, or plain."""
    numpy = _numpy()
    return numpy is not None and all(
        not item.dtype.hasobject if type(item) is numpy.ndarray else _is_scalar(item, numpy) for item in items
    )


def _is_scalar(item: Any, numpy: Any) -> bool:
    kind = type(item)
    return is_exactly(item, PLAIN) or (kind.__module__ == "numpy" and issubclass(kind, (numpy.number, numpy.bool_)))


def are_small(arrays: list[Any]) -> bool:
    """Tell whether what passed ``are_arrays`` is small, each and altogether."""
    total = 0
    for array in arrays:
        size = getattr(array, "nbytes", 0)
        total += size
        if size > _SOON_BYTES or total > _ALL_BYTES:
            return False
    return True


def treats_errors_as_usual() -> bool:
    """Tell whether NumPy, if it is loaded, treats floating-point errors in this thread as it does in any new one."""
    numpy = _numpy()
    return numpy is None or (numpy.geterr() == _USUAL_ERRORS and numpy.geterrcall() is None)


def _is_straight(function: types.FunctionType, *, on_arrays: bool) -> bool:
    """Tell whether a function goes straight through plain values and harmless builtins, from its start to its end."""
    code = function.__code__
    kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    try:
        kept += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # an empty cell
        return False
    found = {name: look_up(function, name) for name in code.co_names}
    is_narrow = on_arrays or any(is_of_numpy(each) for each in found.values())
    return (
        _OPERATIONS.issuperset(code.co_code[::2])
        and _goes_forward(code.co_code)
        and not _multiplies_matrices(code.co_code)
        and are_plain(kept)
        and all(are_plain((each,)) or _is_harmless(each) for each in found.values())
        and not any(name.startswith("_") or (is_narrow and _is_odd(name, each)) for name, each in found.items())
        and _oddities(found).isdisjoint(found)
        and all(map(_is_genuine, _had_by_modules(found)))
    )


def _had_by_modules(found: dict[str, Any]) -> Iterator[Any]:
    """Yield what names may mean as attributes of the modules that were found."""
    for module in found.values():
        if type(module) is types.ModuleType:
            yield from (vars(module)[name] for name in found if name in vars(module))


def _is_odd(name: str, found: Any) -> bool:
    """Tell whether a name may be that of an attribute, of arrays or of NumPy, that is not known to be harmless."""
    numpy = sys.modules["numpy"]
    return name not in _ARRAY_NAMES and (found is None or hasattr(numpy.ndarray, name) or name in dir(numpy))


def _oddities(found: dict[str, Any]) -> set[str]:
    """Return the names of what ``hashlib``, if it is among what was found, has and is not known to be harmless."""
    hashlib = sys.modules.get("hashlib")
    return set() if hashlib is None or hashlib not in found.values() else vars(hashlib).keys() - _HASH_NAMES


def _goes_forward(code: bytes) -> bool:
    steps = enumerate(zip(code[::2], code[1::2]))
    return not _ABSOLUTE_JUMPS or all(target > place for place, (step, target) in steps if step in _ABSOLUTE_JUMPS)


def _multiplies_matrices(code: bytes) -> bool:
    """Tell whether code has the sign ``@``, which takes far more than a few passes, and threads."""
    return any(step == _SIGNED and sign in _MATRIX_SIGNS for step, sign in zip(code[::2], code[1::2]))


def look_up(function: types.FunctionType, name: str) -> Any:
    """Return the global of that name; None for nothing, which is then looked up in values."""
    namespace = function.__globals__
    return namespace[name] if name in namespace else getattr(builtins, name, None)


def _is_harmless(found: Any) -> bool:
    kind = type(found)
    if kind is re.Pattern:  # compiled already, which is when it may print things
        return True
    if is_exactly(found, _BUILT_IN) and (
        found in _HARMLESS
        or any(found is getattr(module, found.__name__, None) for module in _MODULES)
        or type(found.__self__) is re.Pattern
    ):
        return True
    if (kind is type and found in _HARMLESS) or (kind is types.ModuleType and found in _OBJECTS):
        return True
    return is_of_numpy(found) or is_of_hashlib(found)


def is_of_numpy(found: Any) -> bool:
    """Tell whether an object is NumPy, or something of it that is known to be harmless."""
    return _is_of(found, _numpy(), _ARRAY_NAMES)


def is_of_hashlib(found: Any) -> bool:
    """Tell whether an object is ``hashlib``, or something of it that is known to be harmless."""
    return _is_of(found, sys.modules.get("hashlib"), _HASH_NAMES)


def _is_of(found: Any, module: Any, names: frozenset[str]) -> bool:
    """Tell whether an object is a module, if that is loaded, or what it has under one of ``names``."""
    if module is None or found is None:
        return False
    return found is module or (any(found is vars(module).get(name) for name in names) and _is_genuine(found))


def _is_genuine(value: Any) -> bool:
    """Tell whether what one of these modules has was not put there by somebody else, to count calls or to pretend."""
    kind = type(value)
    if kind is types.FunctionType:
        home = value.__globals__.get("__name__", "")
    elif kind is types.BuiltinFunctionType or kind is type:
        home = value.__module__ or ""
    else:
        home = kind.__module__
    return home.partition(".")[0] in _HOMES


def _numpy() -> Any:
    """Return NumPy; None where it is not loaded, or another thread is about to."""
    numpy = sys.modules.get("numpy")
    return numpy if hasattr(numpy, "zeros_like") else None
