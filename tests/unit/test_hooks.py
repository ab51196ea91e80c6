"""Hooks: registered once, called in order, harmless when they fail."""

import pytest

from amorsize_executor import (
    HookContext,
    HookEvent,
    HookManager,
    create_error_hook,
    create_progress_hook,
    create_throughput_hook,
    create_timing_hook,
)


def test_hooks_are_called_in_order_and_once():
    """A hook registered twice is called once."""
    manager, seen = HookManager(), []
    first, second = (lambda context: seen.append(("first", context.event))), (lambda _context: seen.append("second"))
    for hook in (first, first, second):
        manager.register(HookEvent.ON_PROGRESS, hook)
    manager.trigger(HookContext(HookEvent.ON_PROGRESS))
    assert seen == [("first", HookEvent.ON_PROGRESS), "second"]
    assert (manager.get_hook_count(), manager.get_hook_count(HookEvent.PRE_EXECUTE)) == (2, 0)
    assert manager.unregister(HookEvent.ON_PROGRESS, first)
    assert not manager.unregister(HookEvent.ON_PROGRESS, first)
    assert manager.unregister_all() == 1
    assert not manager.has_hooks(HookEvent.ON_PROGRESS)


def test_a_failing_hook_is_counted_and_disturbs_nobody(capsys):
    """The next hook is called; stderr hears of it only if asked."""
    manager, seen = HookManager(verbose=True), []
    manager.register(HookEvent.ON_ERROR, lambda _context: 1 / 0)
    manager.register(HookEvent.ON_ERROR, seen.append)
    manager.trigger(HookEvent.ON_ERROR, HookContext(HookEvent.ON_ERROR))
    assert len(seen) == 1
    stats = manager.get_stats()
    assert stats["error_counts"] == {"on_error": 1}
    assert stats["call_counts"]["on_error"] == 2
    assert stats["hook_counts"]["on_error"] == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((HookEvent.ON_ERROR,), ValueError),
        ((HookEvent.ON_ERROR, HookContext(HookEvent.PRE_EXECUTE)), ValueError),
        ((HookContext(HookEvent.ON_ERROR), HookContext(HookEvent.ON_ERROR)), ValueError),
        (("on_error",), TypeError),
    ],
)
def test_trigger_refuses_what_it_cannot_mean(arguments, error):
    """Mixed forms and other types are errors."""
    with pytest.raises(error):
        HookManager().trigger(*arguments)


def test_register_refuses_what_is_no_event_or_no_hook():
    """Both are ``ValueError`` and ``TypeError``."""
    with pytest.raises(ValueError, match="event"):
        HookManager().register("on_error", print)
    with pytest.raises(TypeError, match="callback"):
        HookManager().register(HookEvent.ON_ERROR, None)


@pytest.mark.parametrize("method", ["unregister_all", "has_hooks", "get_hook_count"])
def test_what_is_no_event_is_told_everywhere(method):
    """With the parameter's name, not as a missing key."""
    with pytest.raises(ValueError, match="event"):
        getattr(HookManager(), method)("on_error")


def test_ready_made_hooks():
    """Progress at most so often and at 100; timing; throughput; errors where there are any."""
    seen = []
    progress = create_progress_hook(lambda *facts: seen.append(facts), min_interval=10)
    for at, percent in ((0, 10.0), (5, 20.0), (11, 30.0), (12, 100.0)):
        progress(
            HookContext(
                HookEvent.ON_PROGRESS, timestamp=at, percent_complete=percent, items_completed=at, total_items=12
            )
        )
    assert seen == [(10.0, 0, 12), (30.0, 11, 12), (100.0, 12, 12)]
    seen.clear()
    create_timing_hook(lambda *facts: seen.append(facts))(HookContext(HookEvent.POST_EXECUTE, elapsed_time=2.0))
    throughput = create_throughput_hook(seen.append, min_interval=10)
    for at in (0, 5, 10):
        throughput(HookContext(HookEvent.ON_PROGRESS, timestamp=at, throughput_items_per_sec=at + 1.0))
    error, on_error = LookupError(), create_error_hook(lambda *facts: seen.append(facts))
    on_error(HookContext(HookEvent.ON_ERROR))
    on_error(HookContext(HookEvent.ON_ERROR, error=error, error_traceback="t"))
    assert seen == [("post_execute", 2.0), 1.0, 11.0, (error, "t")]
