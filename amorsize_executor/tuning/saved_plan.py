"""Plans that outlive a run: how many workers, how many calls a chunk, for which function, made on which machine."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from amorsize_executor.errors import ConfigFileError, InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.parameters import check_choice, check_count, check_number
from amorsize_executor.records import Experience, Measurement
from amorsize_executor.storage import plan_file
from amorsize_executor.tuning.machine import probe_machine

FORMAT = 1
"""Version of the files; those of a later one are refused."""

MOST_WORKERS, MOST_CALLS = 10_000, 1 << 40
_KINDS = "process", "thread", "serial"
_REQUIRED = "n_jobs", "chunksize"
_COMPARED = {"platform": "system", "cores": "usable cores", "physical_cores": "usable physical cores"}


@dataclass(frozen=True)
class ConfigData:
    """A plan that can be saved, and begun with.

    Attributes:
        n_jobs: Workers, 1 to 10,000; 1 means serial code.
        chunksize: Calls a chunk, >= 1.
        executor_type: ``"process"``, ``"thread"`` or ``"serial"``.
        estimated_speedup: Predicted, against serial code; >= 0.
        function_name: The function that it is for; None for any.
        data_size: Items that it was made for; None where nobody knew.
        avg_execution_time: Seconds a call, >= 0; None where none was measured.
        notes: Yours.
        system_info: The machine that it was made on; None for this one.
        timestamp: When, in ISO 8601; None for now.
        source: What made it: ``"optimize"``, ...

    Raises:
        ValueError: Something is out of its range, or of the wrong type (then also a ``TypeError``).
    """

    n_jobs: int
    chunksize: int
    executor_type: str = "process"
    estimated_speedup: float = 1.0
    function_name: str | None = None
    data_size: int | None = None
    avg_execution_time: float | None = None
    notes: str | None = None
    system_info: dict[str, Any] | None = None
    timestamp: str | None = None
    source: str = "optimize"

    def __post_init__(self) -> None:
        for name, most in (("n_jobs", MOST_WORKERS), ("chunksize", MOST_CALLS)):
            check_count(name, getattr(self, name), optional=False)
            if getattr(self, name) > most:
                raise InvalidParameterError(name, getattr(self, name), f"{name} must be <= {most:,}")
        check_choice("executor_type", self.executor_type, _KINDS)
        check_number("estimated_speedup", self.estimated_speedup, least=0)
        check_count("data_size", self.data_size, least=0)
        if self.avg_execution_time is not None:
            check_number("avg_execution_time", self.avg_execution_time, least=0)
        for name in ("function_name", "notes", "timestamp", "source"):
            check_text(name, getattr(self, name), optional=name != "source")
        if self.system_info is None:
            object.__setattr__(self, "system_info", describe_system())
        elif not (isinstance(self.system_info, dict) and all(isinstance(name, str) for name in self.system_info)):
            raise InvalidParameterTypeError("system_info", self.system_info, "must be a dictionary by names, or None")
        if self.timestamp is None:
            object.__setattr__(self, "timestamp", datetime.now().isoformat(timespec="seconds"))  # noqa: DTZ005 - local

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, with the versions of the package and of the format."""
        from importlib import metadata  # noqa: PLC0415 - 20 ms, and only files need it

        try:
            version = metadata.version("amorsize-executor")
        except metadata.PackageNotFoundError:  # run from a source tree
            version = "unknown"
        return {**asdict(self), "amorsize_version": version, "format": FORMAT}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ConfigData:
        """Return what ``to_dict`` gave. Keys that nobody knows are left alone.

        Raises:
            KeyError: ``n_jobs`` or ``chunksize`` is missing.
            ValueError: Something is out of its range, or of the wrong type.
        """
        for name in _REQUIRED:
            if name not in document:
                raise KeyError(name)
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**{"source": "unknown", **known})

    def is_for(self, function: Callable[..., Any]) -> bool:
        """Tell whether this plan is for a function: by its name, with or without its module, or for any."""
        if self.function_name is None:
            return True
        inner = getattr(function, "func", function)
        qualname = getattr(inner, "__qualname__", type(inner).__qualname__)
        module = getattr(inner, "__module__", "")
        names = {qualname, qualname.rpartition(".")[2], f"{module}:{qualname}", f"{module}.{qualname}"}
        is_named = self.function_name in names or self.function_name.endswith(f".py:{qualname}")
        return is_named or find_named(self.function_name) is function

    def differences(self) -> list[str]:
        """Say how the machine that this plan was made on differs from this one; empty if it does not."""
        there, here = self.system_info or {}, describe_system()
        return [
            f"{there[key]} {what} there, {here[key]} here"
            if key != "platform"
            else f"{there[key]} there, {here[key]} here"
            for key, what in _COMPARED.items()
            if key in there and there[key] != here[key]
        ]

    def as_experience(self) -> Experience:
        """Return the plan as a tuner begins with it."""
        call_s, measured = self.avg_execution_time, None
        if call_s:
            wall_s = call_s * self.chunksize
            measured = Measurement(self.chunksize, wall_s, wall_s, 0.0, call_s * wall_s, call_s)
        return Experience("A saved plan", measured, self.n_jobs, self.chunksize)

    def __str__(self) -> str:
        about = f" for {self.function_name}" if self.function_name else ""
        return (
            f"n_jobs={self.n_jobs}, chunksize={self.chunksize}, {self.executor_type}{about}: "
            f"predicted {self.estimated_speedup:.2f}x, by {self.source}, {self.timestamp}"
        )


def find_named(name: str) -> Any:
    """Return what ``module:name`` or ``module.name`` means in a loaded module, which may know it from another."""
    module, _, path = name.rpartition(":" if ":" in name else ".")
    found: Any = sys.modules.get(Path(module).stem if module.endswith(".py") else module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def check_text(name: str, value: object, *, optional: bool) -> None:
    """Raise unless ``value`` is text, or None where that is allowed."""
    if not (isinstance(value, str) or (optional and value is None)):
        raise InvalidParameterTypeError(name, value, "must be text" + (" or None" if optional else ""))


def describe_system() -> dict[str, Any]:
    """Return what plans depend on: system, Python, usable cores (counts), available memory (bytes), start method."""
    import multiprocessing  # noqa: PLC0415 - loaded wherever an executor is
    import platform  # noqa: PLC0415 - 5 ms

    machine = probe_machine()
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return {
        "platform": platform.system(),
        "platform_version": platform.release(),
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "cores": machine.cores,
        "physical_cores": machine.physical_cores,
        "available_memory": machine.available_memory,
        "start_method": method,
    }


def load(path: str | os.PathLike[str], form: str = "auto", *, stacklevel: int = 1) -> ConfigData:
    """Return the plan that a file holds; warn if it was made on another machine, or by another version.

    Args:
        path: The file.
        form: ``"json"``, ``"yaml"``, or ``"auto"`` for what its suffix says.
        stacklevel: Frames between this one and the user's, for the warning.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigFileError: It is damaged, misses something, or something is out of its range.
        MissingExtraError: It is YAML, and PyYAML is not installed.
    """
    file = Path(path)
    document = plan_file.read(file, plan_file.format_of(file, form))
    version = document.get("format", FORMAT)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigFileError(file, f"has format {version!r}; it must be a number >= 1")
    if version > FORMAT:
        problem = f"was written by a later version of this package (format {version}; this one reads {FORMAT}); "
        raise ConfigFileError(file, problem + "upgrade amorsize-executor, or save the config anew")
    try:
        plan = ConfigData.from_dict(document)
    except KeyError as error:
        raise ConfigFileError(file, f"has no {error.args[0]}; save the config anew, or add it") from error
    except InvalidParameterError as error:
        rule = error.rule if error.rule.startswith(error.name) else f"{error.name} {error.rule}"
        raise ConfigFileError(file, f"{rule}, got {error.value!r}; mend it, or save the config anew") from error
    differences = plan.differences()
    if differences:
        message = f"{file}: this config was saved on another machine ({'; '.join(differences)}); its plan may not suit"
        warnings.warn(message, stacklevel=stacklevel + 1)
    return plan


def save(plan: ConfigData, path: str | os.PathLike[str], form: str = "auto", *, overwrite: bool = False) -> None:
    """Write a plan to a file, atomically.

    Raises:
        FileExistsError: The file is there, and is not to be overwritten.
        MissingExtraError: YAML is asked for, and PyYAML is not installed.
        StorageError: It cannot be written.
    """
    file = Path(path)
    plan_file.write(file, plan.to_dict(), plan_file.format_of(file, form), overwrite=overwrite)
