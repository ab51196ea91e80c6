"""CPython's own tests of ``concurrent.futures`` hold for ``AdaptiveExecutor``."""

from __future__ import annotations

import pytest

from tests import conformance_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.conformance,
    pytest.mark.timeout(conformance_suite.MODE_TIMEOUT_S + 2 * conformance_suite.TEST_TIMEOUT_S + 30),
    pytest.mark.skipif(
        not conformance_suite.interpreter_ships_suite(),
        reason="this interpreter does not ship test.test_concurrent_futures",
    ),
]


@pytest.mark.parametrize("on_worker_death", conformance_suite.POLICIES)
@pytest.mark.parametrize("mode", conformance_suite.MODES)
def test_conformance(mode: str, on_worker_death: str, request: pytest.FixtureRequest) -> None:
    """Every test that CPython has for its process pool passes, but those listed with a reason, which fail."""
    tally = conformance_suite.run_mode(mode, on_worker_death)

    # Printed at the end of the run. Not record_property, which warns beside --junitxml.
    request.node.user_properties.append(("conformance", f"{tally.mode}: {tally.counts()}"))
    if tally.failed:
        report = "\n\n".join(f"--- {test}\n{detail}" for test, detail in sorted(tally.failed.items()))
        pytest.fail(f"{tally.counts()}\n\n{report}", pytrace=False)
    assert tally.passed
