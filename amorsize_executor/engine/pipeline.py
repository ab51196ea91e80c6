"""The onion: layers of middleware around a call, asked in order. Owned by the dispatcher; no lock, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amorsize_executor.engine.span import Span
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import (
    RUN,
    Again,
    Answered,
    Call,
    Deliver,
    Hold,
    Middleware,
    Notice,
    Outcome,
    Run,
)
from amorsize_executor.parameters import check_count
from amorsize_executor.wire.functions import FULL, ONE


@dataclass(slots=True, eq=False)
class Passage:
    """Where a call stands in the onion.

    Attributes:
        call: What the layers see.
        entered: Layers that have admitted the present attempt, counted from the outermost.
        stop_after_errors: The smallest bound that a layer has set for the chunk; 0 for none.
        timeout_s: The smallest limit that a layer has set for the call's running; 0 for none.
        limits: Those limits, each with its layer's number.
    """

    call: Call
    entered: int = 0
    stop_after_errors: int = 0
    timeout_s: float = 0.0
    limits: tuple[tuple[int, float], ...] = ()

    def bound_by(self, answer: Run, index: int) -> None:
        """Take over the bounds of a layer's answer where they are smaller."""
        bound, timeout_s = answer.stop_after_errors, answer.timeout_s
        if bound is not None and (not self.stop_after_errors or bound < self.stop_after_errors):
            self.stop_after_errors = bound
        if timeout_s is not None:
            self.limits += ((index, timeout_s),)
            if not self.timeout_s or timeout_s < self.timeout_s:
                self.timeout_s = timeout_s

    def resume_at(self, index: int) -> None:
        """Let a layer and those further in be asked anew; what they said of this attempt is over."""
        self.entered = index
        self.limits = tuple(limit for limit in self.limits if limit[0] < index)
        self.timeout_s = min((seconds for _index, seconds in self.limits), default=0.0)


def passage_of(span: Span) -> Passage:
    """Return the passage of a span of one call; made when it is first asked for."""
    if span.call is None:
        source, item = span.source, span.items[span.low]
        if source.style == FULL:
            args, kwargs = item
        else:
            args, kwargs = ((item,) if source.style == ONE else tuple(item)), {}
        function = source.function.callable
        span.call = Passage(Call(function, args, kwargs, span.start, 0, source.priority, source.key, source.ordinal))
    passage: Passage = span.call
    return passage


class Pipeline:
    """Asks the layers; those that leave a question to the base class are not asked it.

    Args:
        layers: Outermost first.

    Attributes:
        layers: The same.
        is_open: Whether the layers are ready to be asked.
    """

    def __init__(self, layers: Sequence[Middleware]) -> None:
        self.layers = tuple(layers)
        self.is_open = False
        numbered = list(enumerate(self.layers))
        self._admit = [(index, asked(layer, "admit")) for index, layer in numbered if asked(layer, "admit")]
        self._settle = [(index, asked(layer, "settle")) for index, layer in numbered if asked(layer, "settle")]
        self._settle.reverse()
        self._retract = [asked(layer, "retract") for layer in self.layers]
        self._errors_left = [layer.errors_left for layer in self.layers if asked(layer, "errors_left")]

    def admit(self, passage: Passage, tell: Callable[[Notice], object]) -> Run | Hold | Outcome:
        """Ask the layers that have not admitted the attempt yet, outermost first.

        Args:
            passage: The call.
            tell: Takes what layers want called soon.

        Returns:
            A ``Run``: the attempt may start. A ``Hold``: ask again later. An ``Outcome``: to be delivered.
        """
        call, entered = passage.call, passage.entered
        for index, admit in self._admit:
            if index < entered:
                continue
            try:
                answer = admit(call)
            except BaseException as error:  # noqa: BLE001 - what a hook raises is its call's end
                answer = Answered(Outcome(error=error))
            if answer is RUN:
                continue
            if not isinstance(answer, (Run, Answered, Hold)):
                answer = Answered(Outcome(error=self._wrong_answer(index, "admit", answer)))
            if answer.then is not None:
                tell(answer.then)
            if isinstance(answer, Run):
                passage.bound_by(answer, index)
                continue
            passage.entered = index
            if isinstance(answer, Hold):
                self.retract(passage, "held")
                return answer
            settled = self.settle(passage, answer.outcome, tell)
            return Hold(settled.seconds) if isinstance(settled, Again) else settled
        passage.entered = len(self.layers)
        call.attempt += 1
        return RUN

    def settle(self, passage: Passage, outcome: Outcome, tell: Callable[[Notice], object]) -> Outcome | Again:
        """Tell the layers that admitted the attempt how it ended, innermost first.

        Returns:
            The outcome to deliver, or ``Again``: that layer and those further in will be asked once more.
        """
        entered, passage.entered, passage.stop_after_errors = passage.entered, 0, 0
        for index, settle in self._settle:
            if index >= entered:
                continue
            try:
                answer = settle(passage.call, outcome)
            except BaseException as error:  # noqa: BLE001 - what a hook raises is its call's end
                answer = Deliver(Outcome(error=error))
            if answer is None:
                continue
            if not isinstance(answer, (Deliver, Again)):
                answer = Deliver(Outcome(error=self._wrong_answer(index, "settle", answer)))
            if answer.then is not None:
                tell(answer.then)
            if isinstance(answer, Again):
                passage.resume_at(index)
                return answer
            outcome = answer.outcome
        return outcome

    def retract(self, passage: Passage, reason: str) -> None:
        """Take the admissions of an attempt back, innermost first."""
        passage.stop_after_errors, passage.timeout_s, passage.limits = 0, 0.0, ()
        if reason == "taken back":
            passage.call.attempt -= 1  # it was not made
        while passage.entered:
            passage.entered -= 1
            retract = self._retract[passage.entered]
            if retract is None:
                continue
            try:
                retract(passage.call, reason)
            except BaseException:  # noqa: BLE001 - the call is not at fault and goes on; the layer's author is told
                logger.exception("%r failed to retract a call", self.layers[passage.entered])

    def _wrong_answer(self, index: int, question: str, answer: object) -> TypeError:
        """Return the error of a call of which a layer, by its author's mistake, says nothing that makes sense."""
        return TypeError(f"{self.layers[index]!r} answered {question} with {answer!r}, which is none of its answers")

    def errors_left(self) -> int | None:
        """Return how many errors in a row the strictest layer bears; None for any number."""
        try:
            left = [errors for ask in self._errors_left if (errors := ask()) is not None]
            for errors in left:
                check_count("errors_left", errors, least=0)
            return min(left, default=None)
        except BaseException:  # noqa: BLE001 - no call is at fault; the layer's author is told
            logger.exception("%r failed to tell how many errors it bears", self.layers)
            return None


def asked(layer: Middleware, question: str) -> Any:
    """Return a layer's own method, or None where it has only the base class's."""
    method = getattr(layer, question)
    return None if getattr(method, "__func__", None) is getattr(Middleware, question) else method
