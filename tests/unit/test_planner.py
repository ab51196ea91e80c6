"""The tuner as the engine sees it."""

from itertools import pairwise

import pytest

from amorsize_executor.records import Experience, Lane, Measurement
from amorsize_executor.tuning import planner
from amorsize_executor.tuning.decision_log import MOST_DECISIONS
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.tuning.planner import MOST_PROFILES, Limits, Tuner

GIB = 1 << 30
MACHINE = Machine(cores=2, physical_cores=2, available_memory=10 * GIB, memory_limit=16 * GIB)


def measure(call_s, calls=1, *, waiting=0.0, **fields):
    """Measure equal calls."""
    wall_s = call_s * calls
    return Measurement(calls, wall_s, wall_s * (1 - waiting), wall_s * waiting, call_s * wall_s, call_s, **fields)


def tuner(*measurements, **limits):
    """Make a tuner that has seen these calls of ``f``."""
    made = Tuner(MACHINE, Limits(**limits))
    for number, measurement in enumerate(measurements):
        made.observe("f", measurement, now_s=float(number))
    return made


def test_unknown_functions_stay_here_one_by_one():
    """Before the first measurement calls run in the caller's thread, or travel alone."""
    fresh = tuner()
    assert fresh.prefers_caller("f", remaining=10**6, ready_workers=2)
    assert fresh.plan.lane is Lane.CALLER
    assert fresh.chunk_calls("f", remaining=10**6, workers=2) == 1
    assert fresh.profile("f") is None


def test_cheap_calls_stay_here():
    """Calls that take less than shipping them stay in the caller's thread, however many there are."""
    assert tuner(measure(2e-6, 100)).prefers_caller("f", remaining=10**7, ready_workers=2)


def test_long_calls_leave():
    """Calls of 10 ms are shipped even if workers have to be started."""
    assert not tuner(measure(1e-2, 2)).prefers_caller("f", remaining=100, ready_workers=0)


def test_start_up_has_to_be_repaid():
    """Ten calls of 1 ms are finished here before workers are there, and shipped if these are there already."""
    assert tuner(measure(1e-3)).prefers_caller("f", remaining=10, ready_workers=0)
    assert not tuner(measure(1e-3)).prefers_caller("f", remaining=100, ready_workers=2)


def test_chunking_makes_short_calls_worth_shipping():
    """Calls of 50 µs are shorter than a dispatch, and many of them are shipped all the same."""
    assert not tuner(measure(5e-5, 100)).prefers_caller("f", remaining=10**5, ready_workers=2)


def test_what_is_dear_to_pickle_comes_back():
    """A megabyte of small objects takes far longer than one of bytes; what it took is known after the first chunk."""
    dear = tuner(measure(1e-2, 4, bytes_in=4 << 20))
    assert not dear.prefers_caller("f", remaining=100, ready_workers=2)
    dear.observe_shipping(5e-2, 1, 1 << 20, "f")
    assert dear.profile("f").byte_s == pytest.approx(5e-2 / (1 << 20), rel=0.01)
    assert dear.prefers_caller("f", remaining=100, ready_workers=2)
    assert dear.costs.ship_byte_s == tuner().costs.ship_byte_s  # of others nothing is known by it


def test_light_calls_tell_of_all_functions():
    """What shipping them costs is kept for everything."""
    light = tuner(measure(1e-3, 4, bytes_in=400))
    light.observe_shipping(5e-2, 10, 1000, "f")
    assert light.profile("f").byte_s is None
    assert light.costs.ship_chunk_s > tuner().costs.ship_chunk_s


def test_one_core_keeps_cpu_work_here():
    """With a single core, only calls that wait are worth a worker."""
    machine = Machine(1, 1, 10 * GIB, 10 * GIB)
    for waiting, stays in ((0.0, True), (0.9, False)):
        single = Tuner(machine, Limits())
        single.observe("f", measure(0.1, waiting=waiting), now_s=0.0)
        assert single.prefers_caller("f", remaining=100, ready_workers=0) is stays


def test_unknown_length_is_expected_to_go_on_as_long_again():
    """An endless iterator leaves the caller's thread once the calls so far would have repaid the start."""
    made = tuner(measure(1e-3, 4))
    assert made.prefers_caller("f", remaining=None, ready_workers=0)
    made.observe("f", measure(1e-3, 60), now_s=1.0)
    assert not made.prefers_caller("f", remaining=None, ready_workers=0)


def test_lanes_do_not_flap():
    """A lane is left only for one that is a tenth faster, so equal predictions change nothing."""
    made = tuner(measure(1e-2, 4))
    assert not made.prefers_caller("f", remaining=100, ready_workers=2)
    assert not made.prefers_caller("f", remaining=1, ready_workers=2)
    assert [decision.what for decision in made.decisions] == ["lane"]


def test_lanes_are_chosen_per_function():
    """A cheap function and a slow one take turns without moving each other."""
    made = tuner(measure(1e-2, 4))
    made.observe("cheap", measure(1e-6, 100), now_s=1.0)
    for _ in range(5):
        assert not made.prefers_caller("f", remaining=100, ready_workers=2)
        assert made.prefers_caller("cheap", remaining=100, ready_workers=2)
    assert len(made.decisions) == 1


def test_plan_says_what_is_done():
    """Where calls stay in the caller's thread, the plan says so and why, also with workers at hand."""
    made = tuner(measure(1e-6, 100, lane=Lane.CALLER))
    made.wanted_workers(now_s=1.0, current=0, busy=0, backlog=None)
    made.prefers_caller("f", remaining=1000, ready_workers=2)
    assert (made.plan.lane, made.plan.workers) == (Lane.CALLER, 0)
    assert made.plan.reason.startswith("Calls take 1 µs: 1,000 more would take 1 ms here and ")


def test_heavy_arguments_stay_here():
    """A call that costs more to ship than to run stays, judged by its bytes."""
    heavy = measure(1e-3, 10, bytes_in=10 * 10**7)
    assert tuner(heavy).prefers_caller("f", remaining=1000, ready_workers=2)


@pytest.mark.parametrize(("bytes_out", "stays"), [(100_000, False), (5, True)])
def test_pickling_heavy_results_says_nothing_of_other_functions(bytes_out, stays):
    """What workers do beside calls with light results is learned, since that they do beside all."""
    made = tuner()
    for number in range(100):
        made.observe("heavy", measure(0.02, 4, bytes_out=4 * bytes_out, beside_s=0.02), now_s=float(number))
    made.observe("f", measure(1e-3), now_s=101.0)
    assert made.prefers_caller("f", remaining=1000, ready_workers=2) is stays


def test_chunksize_of_the_user_rules():
    """A given chunk size is used as it is, bounded by what is left."""
    made = tuner(measure(1.0), chunksize=50)
    assert made.chunk_calls("f", remaining=1000, workers=2) == 50
    assert made.chunk_calls("f", remaining=7, workers=2) == 7
    assert made.chunk_calls("unknown", remaining=None, workers=2) == 50


def test_chunks_shrink_at_once():
    """One slow call among chunks of thousands is enough."""
    made = tuner(measure(1e-6, 10_000), measure(1e-6, 10_000))
    assert made.chunk_calls("f", remaining=10**8, workers=2) > 3000
    made.observe("f", measure(0.1), now_s=3.0)
    assert made.chunk_calls("f", remaining=10**8, workers=2) <= 2


def test_chunk_logs_only_doublings():
    """Chunk sizes are logged when they have doubled or halved, with a reason."""
    made = tuner(measure(1e-3, 100))
    for remaining in range(1000, 0, -1):
        made.chunk_calls("f", remaining=remaining, workers=2)
    sizes = [int(decision.after) for decision in made.decisions if decision.what == "chunksize"]
    assert sizes[0] == 200
    assert all(2 * later <= earlier for earlier, later in pairwise(sizes))
    assert "1 ms" in next(decision.reason for decision in made.decisions if decision.what == "chunksize")


def test_workers_start_at_the_cores_and_never_above_the_backlog():
    """A pool starts with the physical cores, or with as many workers as there are calls."""
    assert tuner().wanted_workers(now_s=0.0, current=0, busy=0, backlog=100) == 2
    assert tuner().wanted_workers(now_s=0.0, current=0, busy=0, backlog=1) == 1
    assert tuner(min_workers=4).wanted_workers(now_s=0.0, current=0, busy=0, backlog=1) == 4


def test_idle_workers_stay():
    """An empty queue does not make the pool smaller."""
    made = tuner()
    made.wanted_workers(now_s=0.0, current=0, busy=0, backlog=100)
    assert made.wanted_workers(now_s=1.0, current=2, busy=0, backlog=0) == 2


def test_waiting_gets_workers_up_to_the_cap():
    """Calls that wait get more workers, and ``max_workers`` is never passed."""
    for cap, expected in ((None, 16), (3, 3)):
        made = Tuner(MACHINE, Limits(max_workers=cap), caller_helps=False)
        level = made.wanted_workers(now_s=0.0, current=0, busy=0, backlog=10_000)
        for step in range(1, 8):
            made.observe("f", measure(0.1, waiting=1.0), now_s=0.0)
            level = made.wanted_workers(now_s=step * 0.01, current=level, busy=level, backlog=10_000)
        assert level == expected
        assert made.plan.workers == expected
        assert made.plan.reason.endswith(".")


def test_windows_has_at_most_61_workers(monkeypatch):
    """WaitForMultipleObjects sets the cap on Windows, above which no limit goes."""
    monkeypatch.setattr(planner, "MOST_WORKERS", 61)
    big = Machine(cores=128, physical_cores=128, available_memory=500 * GIB, memory_limit=500 * GIB)
    for limits in (Limits(), Limits(max_workers=100)):
        assert Tuner(big, limits).wanted_workers(now_s=0.0, current=0, busy=0, backlog=None) == 61


def test_memory_share():
    """A worker may grow by its share of ``max_memory``, which is 80 % of what is available by default."""
    made = tuner(max_memory=8 * GIB)
    made.wanted_workers(now_s=0.0, current=0, busy=0, backlog=None)
    assert made.memory_share() == 4 * GIB
    assert tuner().memory_share() == 8 * GIB


def test_memory_bounds_workers():
    """Workers times the growth of one stay within ``max_memory``."""
    made = tuner(measure(1.0, memory_growth=5 * GIB), max_memory=8 * GIB)
    assert made.wanted_workers(now_s=0.0, current=0, busy=0, backlog=None) == 1


def test_a_spike_of_memory_is_forgotten():
    """A single hungry call bounds the pool for hundreds of runs, not for ever."""
    made = tuner(measure(1.0, memory_growth=5 * GIB), max_memory=8 * GIB)
    for _ in range(1000):
        made.observe("f", measure(1e-3), now_s=1.0)
    assert made.wanted_workers(now_s=1.0, current=0, busy=0, backlog=None) == 2


def test_profiles_are_bounded():
    """The 256 functions measured last are kept."""
    made = tuner()
    for key in range(MOST_PROFILES + 10):
        made.observe(key, measure(1e-3), now_s=0.0)
        made.observe(0, measure(1e-3), now_s=0.0)
    assert len(made.profiles) == MOST_PROFILES
    assert made.profile(0) is not None
    assert made.profile(1) is None


def test_decisions_are_bounded():
    """The log of decisions forgets the oldest ones."""
    made = tuner()
    for key in range(2 * MOST_DECISIONS):
        made.observe(key, measure(1e-3, 1000), now_s=0.0)
        made.chunk_calls(key, remaining=10**6, workers=2)
    assert len(made.decisions) == MOST_DECISIONS


def test_decisions_count_from_the_start():
    """A decision's time is seconds since the executor started, whatever the clock shows."""
    made = Tuner(MACHINE, Limits(), started_s=1000.0)
    made.wanted_workers(now_s=1002.5, current=0, busy=0, backlog=None)
    assert made.decisions[0].at_s == pytest.approx(2.5)
    assert (made.decisions[0].before, made.decisions[0].after) == ("0", "2")


def chain_of(decisions):
    """Return {(what, function): [before, after, after...]}; fails where a decision does not begin at the last end."""
    chains = {}
    for decision in decisions:
        chain = chains.setdefault((decision.what, decision.function), [decision.before])
        assert chain[-1] == decision.before
        assert decision.after != decision.before
        chain.append(decision.after)
    return chains


def test_decisions_of_a_function_are_a_chain():
    """Each decision about a function begins where its last one ended, also when the function was forgotten."""
    made = Tuner(MACHINE, Limits())
    for turn in range(3):
        for key, call_s in (("slow", 1e-2), ("quick", 5e-5)):
            made.observe(key, measure(call_s * 3**turn, 100, lane=Lane.CALLER), now_s=float(turn))
            made.prefers_caller(key, remaining=10_000, ready_workers=2)
            made.chunk_calls(key, remaining=10_000, workers=2)
            made.prefers_caller(key, remaining=1, ready_workers=2)
            made.observe(key, measure(call_s, lane=Lane.CALLER), now_s=turn + 0.5)
    for number in range(MOST_PROFILES):
        made.observe(number, measure(1e-3), now_s=9.0)
    made.chunk_calls("quick", remaining=10_000, workers=2)
    chains = chain_of(made.decisions)
    assert chains["lane", "'quick'"][:2] == ["caller", "processes"]
    assert chains["chunksize", "'quick'"][-1] == "1"
    assert len(chains["chunksize", "'quick'"]) > 2


def test_plan_agrees_with_the_last_decisions():
    """Lane, workers and chunk size of the plan are those that were decided last."""
    made = tuner(measure(1e-3, 100))
    made.prefers_caller("f", remaining=1000, ready_workers=2)
    made.wanted_workers(now_s=1.0, current=0, busy=0, backlog=1)
    for remaining in (1000, 3):
        made.chunk_calls("f", remaining=remaining, workers=2)
        decided = {decision.what: decision.after for decision in made.decisions}
        plan = made.plan
        assert (str(plan.lane), str(plan.workers), str(plan.chunksize)) == (
            decided["lane"],
            decided["workers"],
            decided["chunksize"],
        )


def test_calls_that_nobody_waits_for_leave():
    """Where a chunk is sent of what was never predicted, the plan says where its calls run, and a decision why."""
    made = tuner()
    made.chunk_calls("f", remaining=20, workers=2)
    assert made.plan.lane is Lane.PROCESSES
    assert "No caller is free" in made.decisions[-1].reason


def test_without_a_helping_caller_the_lane_is_never_the_callers():
    """With ``isolate=True`` calls never run in the caller, from the first plan on."""
    isolated = Tuner(MACHINE, Limits(), caller_helps=False)
    assert isolated.plan.lane is Lane.PROCESSES
    isolated.chunk_calls("f", remaining=20, workers=2)
    assert not isolated.decisions


def test_a_chunk_size_that_was_asked_for_rules():
    """A map's own chunk size is used as it is, and the plan shows it."""
    made = tuner(measure(1.0))
    assert made.chunk_calls("f", remaining=3, workers=2, asked=50) == 50
    assert made.plan.chunksize == 50


def test_looking_ahead_decides_nothing():
    """How many calls a stream keeps asked for is no decision."""
    made = tuner(measure(1e-3, 100))
    assert made.foresee_chunk("f", workers=2) > 1
    assert not made.decisions


def test_plan_predicts():
    """With calls left and measured, the plan says what they will take here and in workers."""
    made = tuner(measure(0.01, 4))
    made.wanted_workers(now_s=4.0, current=0, busy=0, backlog=100)
    made.prefers_caller("f", remaining=100, ready_workers=2)
    plan = made.plan
    assert (plan.lane, plan.workers) == (Lane.PROCESSES, 2)
    assert plan.serial_s == pytest.approx(1.0)
    assert plan.predicted_s == pytest.approx(0.5, rel=0.1)


def test_equal_histories_give_equal_plans():
    """There is no clock and no chance inside."""

    def live():
        made = tuner(measure(1e-3, 3), measure(2e-3, 5, waiting=0.5))
        made.observe_gap(4e-4)
        made.observe_start_up(9e-3)
        made.observe_shipping(1e-4, 5, 1000)
        made.prefers_caller("f", remaining=500, ready_workers=0)
        made.wanted_workers(now_s=3.0, current=0, busy=0, backlog=500)
        made.chunk_calls("f", remaining=500, workers=2)
        return made.plan, made.costs, list(made.decisions)

    assert live() == live()


def test_heavy_arguments_stay_in_the_caller():
    """What costs more to ship than to run stays; so does work for a function that is heavier than all its calls."""
    heavy = Measurement(1, 3e-4, 3e-4, 0.0, 9e-8, 3e-4, 4_000_000, 16, lane=Lane.CALLER)
    assert tuner(heavy).prefers_caller("f", remaining=10_000, ready_workers=2)
    light = Measurement(10, 5e-3, 5e-3, 0.0, 2.5e-6, 5e-4, lane=Lane.CALLER)
    made = tuner()
    made.observe("g", light, now_s=0.0, function_bytes=48_000_000)
    assert made.prefers_caller("g", remaining=300, ready_workers=2)
    assert not made.prefers_caller("g", remaining=10_000, ready_workers=2)


# --- what was known before ---


def test_a_function_begins_with_the_chunk_size_that_it_had():
    """Shared evenly where less is left, and only until workers have measured it here."""
    made = tuner()
    made.begin_with("f", Experience("A saved plan", chunksize=40))
    assert made.foresee_chunk("f", workers=2) == 40
    assert made.chunk_calls("f", remaining=1000, workers=2) == 40
    assert made.chunk_calls("f", remaining=10, workers=2) == 5
    assert made.chunk_calls("f", remaining=None, workers=2) == 40
    assert made.chunk_calls("g", remaining=1000, workers=2) == 1
    made.observe("f", measure(1.0), now_s=1.0)
    assert made.chunk_calls("f", remaining=1000, workers=2) == 1


def test_a_chunk_size_of_the_users_beats_what_was_known():
    """``Limits.chunksize`` is an order."""
    made = tuner(chunksize=7)
    made.begin_with("f", Experience("A saved plan", chunksize=40))
    assert made.chunk_calls("f", remaining=1000, workers=2) == 7
    assert made.foresee_chunk("f", workers=2) == 7


def test_what_a_caller_measures_bounds_a_chunk_that_was_known():
    """A saved plan for calls of a millisecond does no harm when they take a second."""
    made = tuner()
    made.begin_with("f", Experience("A saved plan", chunksize=1000))
    made.observe("f", measure(1.0, lane=Lane.CALLER), now_s=1.0)
    assert made.chunk_calls("f", remaining=10**5, workers=2) == 1
    quick = tuner()
    quick.begin_with("f", Experience("A saved plan", chunksize=100))
    quick.observe("f", measure(1e-3, lane=Lane.CALLER), now_s=1.0)
    assert 50 < quick.chunk_calls("f", remaining=10**5, workers=2) <= 200


def test_a_function_begins_in_the_lane_that_its_measurements_predict():
    """No call has to be tried here first."""
    for call_s, stays in ((1e-6, True), (1e-2, False)):
        made = tuner()
        made.begin_with("f", Experience("An earlier run", measure(call_s, 10)))
        assert made.prefers_caller("f", remaining=1000, ready_workers=0) is stays


@pytest.mark.parametrize(("workers", "stays"), [(None, True), (1, True), (2, False)])
def test_a_plan_without_measurements_goes_by_its_workers(workers, stays):
    """More than one worker means that calls leave."""
    made = tuner()
    made.begin_with("f", Experience("A saved plan", workers=workers, chunksize=5))
    assert made.prefers_caller("f", remaining=1000, ready_workers=0) is stays


def test_the_pool_begins_with_the_workers_that_it_had():
    """Within the bounds, for the work that repays them, and the reason is logged."""
    made = tuner()
    made.begin_with("f", Experience("An earlier run", measure(0.1, 10, waiting=0.9), workers=16))
    assert made.wanted_workers(now_s=0.0, current=0, busy=0, backlog=1000) == 16
    assert made.decisions[-1][1:5] == ("workers", "0", "16", "An earlier run says 16 workers.")
    few = tuner(max_workers=4)
    few.begin_with("f", Experience("An earlier run", workers=16))
    assert few.wanted_workers(now_s=0.0, current=0, busy=0, backlog=1000) == 4
    little = tuner()
    little.begin_with("f", Experience("An earlier run", measure(1e-4, 10), workers=16))
    assert little.wanted_workers(now_s=0.0, current=0, busy=0, backlog=100) == 2


def test_a_function_met_later_raises_the_pool_and_never_lowers_it():
    """The workers serve the others too."""
    made = tuner(measure(0.1, 10))
    assert made.wanted_workers(now_s=1.0, current=0, busy=0, backlog=1000) == 2
    made.begin_with("g", Experience("An earlier run", workers=1))
    assert made.wanted_workers(now_s=1.0, current=2, busy=0, backlog=1000) == 2
    made.begin_with("h", Experience("An earlier run", workers=8))
    assert made.wanted_workers(now_s=1.0, current=2, busy=0, backlog=1000) == 8


def test_what_was_measured_here_beats_what_was_known():
    """And is told only once."""
    made = tuner(measure(1e-3, 10))
    made.begin_with("f", Experience("An earlier run", measure(9.0, 10), chunksize=9))
    assert made.profile("f").call_s == pytest.approx(1e-3)
    assert made.chunk_calls("f", remaining=10**6, workers=2) > 9


def test_what_was_learned_makes_an_equal_profile():
    """Mean, variance, shares and sizes survive; a run without the function has nothing to tell."""
    first = tuner(measure(1e-3, 10, waiting=0.25, bytes_in=1000, memory_growth=7), measure(3e-3, 40))
    size = first.chunk_calls("f", remaining=10**5, workers=2)
    learned = first.experience("f")
    second = tuner()
    second.begin_with("f", learned)
    for name in ("call_s", "variance_s2", "waiting_share", "cpu_share", "memory_growth", "proven", "longest_s"):
        assert getattr(second.profile("f"), name) == pytest.approx(getattr(first.profile("f"), name))
    assert second.profile("f").bytes_in == pytest.approx(first.profile("f").bytes_in, abs=1)
    assert second.experience("f") is None
    assert second.experience("g") is None
    assert learned.chunksize == size > 1


def test_a_forgotten_function_forgets_what_was_known():
    """The tables do not grow."""
    made = tuner()
    made.begin_with("f", Experience("An earlier run", measure(1e-3, 10), chunksize=9))
    for number in range(MOST_PROFILES):
        made.observe(number, measure(1e-3), now_s=1.0)
    assert made.chunk_calls("f", remaining=1000, workers=2) == 1


def test_an_experience_that_turns_out_wrong_is_let_go_of():
    """Its few calls would outweigh many cheap ones."""
    made = tuner()
    made.begin_with("f", Experience("An earlier run", measure(18.0, 12), chunksize=2))
    made.observe("f", measure(1e-3, 100), now_s=1.0)
    assert made.profile("f").call_s == pytest.approx(1e-3)
    assert made.profile("f").remembered == 0


def test_forecasts_take_the_fewest_workers_that_do():
    """Two cores are worth two workers, waiting more; a given number is taken as it is; nothing is decided."""
    seen = tuner(measure(1e-2, 10))
    forecast = seen.forecast("f", 1000)
    assert forecast.workers == 2
    assert forecast.serial_s == pytest.approx(10.0)
    assert 1.9 < forecast.speedup <= 2.0
    assert forecast.reason
    assert seen.forecast("f", 1000, workers=1, chunksize=7)[:2] == (1, 7)
    assert seen.forecast("f", 1).workers == 1
    assert seen.forecast("f", 0).speedup == 1.0
    waiting = tuner(measure(1e-2, 10, waiting=0.99))
    assert waiting.forecast("f", 1000).workers > waiting.forecast("f", 1000, load_s=0.1).workers > 2
    assert not seen.decisions
