"""The project's own means of measuring; none of it is a test, and none of it can fail a build.

    race                   every contestant on every workload           python -m tests.benchmarks.race
    figures                the figures that have a target, with floors  python -m tests.benchmarks.figures
    efficiency             efficiency against call duration             python -m tests.benchmarks.efficiency
    report                 the page and pictures from what these found  python -m tests.benchmarks.report
    durable_cost           what it costs to keep a result
    simulation_agreement   whether the simulator tells the truth

Run them from the project's folder on a quiet machine, one at a time. ``--quick`` shows in a minute or two that the
first three run.
"""
