"""Functions of which code tells that a call ends soon and leaves nothing behind.

Where such a call runs, and whether it ran before workers were forked, nobody can tell. So a map of such calls needs
nothing but its caller, until that finds it to be worth more. What is not sure counts as leaving traces.
"""

from __future__ import annotations

import builtins
import math
import opcode
import operator
import types
from collections.abc import Callable
from typing import Any

from amorsize_executor.wire.codec import PLAIN, are_plain

_PLAIN_BUILTINS = (
    *("abs", "ascii", "bin", "bool", "bytes", "chr", "complex", "divmod", "float", "hash", "hex", "int"),
    *("isinstance", "len", "max", "min", "oct", "ord", "pow", "repr", "round", "str"),
)
_HARMLESS = frozenset(getattr(builtins, name) for name in _PLAIN_BUILTINS)
_MODULES = (math, operator)
_OBJECTS = frozenset((math, operator))
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
) - frozenset(opcode.opmap[name] for name in opcode.opmap if "BACKWARD" in name or "GENERATOR" in name)
"""No loops, no stores but into local variables, no imports, no definitions, no exceptions that are caught."""

_ABSOLUTE_JUMPS = frozenset(opcode.hasjabs)
"""Python 3.10 only, where they may lead back."""

if _ABSOLUTE_JUMPS:
    _OPERATIONS -= {opcode.EXTENDED_ARG}


def leaves_no_trace(function: Callable[..., Any]) -> bool:
    """Tell whether calls with builtin scalar values (``codec.PLAIN``) certainly leave nothing behind."""
    if isinstance(function, types.FunctionType):
        return _is_straight(function)
    if isinstance(function, types.MethodDescriptorType):
        return function.__objclass__ in PLAIN
    return _is_harmless(function)


def _is_straight(function: types.FunctionType) -> bool:
    """Tell whether a function goes straight through plain values and harmless builtins, from its start to its end."""
    code = function.__code__
    kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    try:
        kept += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # an empty cell
        return False
    return (
        _OPERATIONS.issuperset(code.co_code[::2])
        and _goes_forward(code.co_code)
        and are_plain(kept)
        and all(_is_harmless_name(function, name) for name in code.co_names)
    )


def _goes_forward(code: bytes) -> bool:
    steps = enumerate(zip(code[::2], code[1::2]))
    return not _ABSOLUTE_JUMPS or all(target > place for place, (step, target) in steps if step in _ABSOLUTE_JUMPS)


def _is_harmless_name(function: types.FunctionType, name: str) -> bool:
    """Tell whether a name is that of something harmless, or of nothing; then it is looked up in plain values."""
    if name.startswith("_"):
        return False
    namespace = function.__globals__
    found = namespace[name] if name in namespace else getattr(builtins, name, None)
    return are_plain((found,)) or _is_harmless(found)


def _is_harmless(found: Any) -> bool:
    kind = type(found)
    if kind is types.BuiltinFunctionType:
        return found in _HARMLESS or any(found is getattr(module, found.__name__, None) for module in _MODULES)
    return found in _HARMLESS if kind is type else kind is types.ModuleType and found in _OBJECTS
