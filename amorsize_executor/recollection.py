"""What an executor begins with instead of nothing: saved plans, and what earlier runs learned of its functions."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from amorsize_executor.errors import InvalidParameterTypeError, StorageError
from amorsize_executor.events import logger
from amorsize_executor.records import Experience, Lane
from amorsize_executor.storage import place
from amorsize_executor.storage.memory import Memory
from amorsize_executor.tuning import saved_plan
from amorsize_executor.tuning.saved_plan import ConfigData
from amorsize_executor.wording import name_function

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.storage.identity import FunctionIdentity
    from amorsize_executor.wire.functions import Function

_BACKENDS = {"thread": "thread", "serial": "caller"}
"""What executors need for plans that are not for processes."""


class Recollection:
    """Tells an engine's tuner what is known of each function, once, before its first call.

    What is remembered of a function counts more than a saved plan for it: it was learned by running.

    Args:
        plans: Saved plans; the first one that is for a function counts.
        memory: What earlier runs learned, or None.
        engine: Whose functions these are.
    """

    def __init__(self, plans: Sequence[ConfigData], memory: Memory | None, engine: Engine) -> None:
        self._plans = plans
        self._memory = memory
        self._engine = engine
        self._met: dict[Hashable, FunctionIdentity | None] = {}
        if memory is not None:
            engine.at_end = self._keep

    def meet(self, function: Function, stacklevel: int) -> None:
        """Tell what is known of a function that calls are about to be submitted of.

        Functions that the tuner does not tell apart, such as closures of one code, go by the first. Frame
        ``stacklevel`` above is the user's, as ``warnings.warn`` counts them.

        Runs in: the caller's thread, after the engine was started.

        Raises:
            StorageError: The memory's file cannot be used.
        """
        if function.key in self._met:
            return
        self._met[function.key] = None
        known = self._remember(function) or self._look_up(function.callable, stacklevel + 1)
        if known is not None:
            self._engine.command(lambda: self._engine.tuner.begin_with(function.key, known))

    def _remember(self, function: Function) -> Experience | None:
        if self._memory is None:
            return None
        try:
            self._met[function.key], known = self._memory.recall(function.callable)
        except BaseException:
            del self._met[function.key]  # asked again next time
            raise
        finally:
            if self._engine.has_ended:  # meanwhile, and nobody else would let go of the file
                self._memory.close()
        return known

    def _look_up(self, function: Callable[..., Any], stacklevel: int) -> Experience | None:
        if not self._plans:
            return None
        for plan in self._plans:
            if plan.is_for(function):
                backend = _BACKENDS.get(plan.executor_type)
                if backend is not None and self._engine.backend.lane is Lane.PROCESSES:
                    message = f"the saved config is for backend={backend!r}, not for processes; its plan may not suit"
                    warnings.warn(message, stacklevel=stacklevel)
                return plan.as_experience()
        names = ", ".join(str(plan.function_name) for plan in self._plans)
        message = f"the saved config is for {names}, not for {name_function(function)}, which begins without a plan"
        warnings.warn(message, stacklevel=stacklevel)
        return None

    def _keep(self) -> None:
        """Keep what was learned. Runs in: the dispatcher thread, at its end."""
        if self._memory is None:
            return
        tuner = self._engine.tuner
        learned = [(known, tuner.experience(key)) for key, known in list(self._met.items()) if known is not None]
        try:
            self._memory.keep((identity, found) for identity, found in learned if found is not None)
        except StorageError as error:  # results are not to suffer from it
            logger.warning("what was learned in this run is not kept: %s", error)
        finally:
            self._memory.close()


def make(config: Any, memory: Any, engine: Engine) -> Recollection:
    """Return what ``config=`` and ``memory=`` give; None is nothing. The memory's file is made at the first call.

    Args:
        config: A ``ConfigData``, the path of a saved one, or a list of such.
        memory: A path.
        engine: Whose functions it is about.

    Raises:
        InvalidParameterError: One of them is of the wrong type.
        FileNotFoundError: There is no such config.
        ConfigFileError: It cannot be used.
    """
    given = config if isinstance(config, (list, tuple)) else [] if config is None else [config]
    plans = list(map(_read_plan, given))  # no comprehension: before Python 3.12 it is a frame of its own
    plans.sort(key=lambda plan: plan.function_name is None)  # plans for one function count before those for any
    machine = engine.tuner.machine
    kind = f"{platform.machine()}, {machine.cores} cores of {machine.physical_cores}, {engine.backend.lane}"
    return Recollection(plans, None if memory is None else Memory(memory, kind), engine)


def _read_plan(entry: Any) -> ConfigData:
    if isinstance(entry, ConfigData):
        return entry
    if isinstance(entry, (str, os.PathLike)):
        place.check_path("config", entry)
        return saved_plan.load(entry, stacklevel=4)
    raise InvalidParameterTypeError("config", entry, "must be a ConfigData, the path of a saved one, or a list of such")
