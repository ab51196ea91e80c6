"""What is known of one function from its measured calls.

The estimator. Measurements are summed with weights that fade: sums of calls, seconds, squared seconds, waiting,
processor time and bytes. What came before a new run of n calls is multiplied by a factor d <= 1 first, so that

* the memory is short: older calls count for at most 31 n or 256 calls, whichever is more, and slow drift shows;
* a *surprise* makes it shorter at once. With mean m and standard deviation s known, and x the new run's mean,
  z = |x - m| * sqrt(n) / max(s, min(m, x) / 2). If z > 4, the weight is multiplied by (4 / z)^2, the calls before
  count for at most their time at the new speed, and never for less than n / 4.

So after 20,000 calls of a microsecond one call of 10 ms makes the estimate 8 ms, whereas an outlier of a
distribution known to have a heavy tail is no surprise and moves the mean by its due. The n / 4 keeps enough of the
past for s to learn that this function has two speeds; otherwise alternating runs would each erase the other. It is
the test of a CUSUM chart (Page 1954) made on one run instead of an accumulated sum: no delay, no threshold of time.
"""

from __future__ import annotations

from amorsize_executor.records import Lane, Measurement

SURPRISE = 4.0
MEMORY_RUNS = 31
MEMORY_CALLS = 256
KEPT_SHARE = 0.25
MEMORY_FADE = 1 / 64


class FunctionProfile:
    """The recent behaviour of one function. Owned by one thread at a time.

    Attributes:
        calls: Calls measured since the beginning.
        longest_s: The longest call ever measured, in seconds.
        memory_growth: Recent peak of a worker's growth with this function, in bytes; it fades slowly.
        proven: Largest number of calls in one measured run since the last surprise; 0 before the first run.
        surprises: How often the function turned out to be unlike before.
        last_lane: Where it was measured last.
        function_bytes: What the function itself weighs on its way to a worker.
        remembered: Calls among ``calls`` that an earlier run measured.
        is_plain: Where calls ran in the caller: whether items and results travel many in one pickle.
        byte_s: Seconds that the parent takes for a byte of its arguments, where these are heavy and were sent; or None.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_cpu",
        "_squares",
        "_waiting",
        "_wall",
        "_weight",
        "byte_s",
        "call_s",
        "calls",
        "function_bytes",
        "is_plain",
        "last_lane",
        "longest_s",
        "memory_growth",
        "proven",
        "remembered",
        "surprises",
    )

    def __init__(self) -> None:
        self._weight = self._wall = self._squares = self._cpu = self._waiting = 0.0
        self._bytes_in = self._bytes_out = 0.0
        self.call_s = self.longest_s = 0.0
        self.calls = self.memory_growth = self.proven = self.surprises = self.function_bytes = 0
        self.remembered = 0
        self.is_plain = False
        self.last_lane: Lane | None = None
        self.byte_s: float | None = None

    def observe(self, m: Measurement) -> None:
        """Take a measured run of calls into account. About 2 us."""
        calls, wall_s = m.calls, m.wall_s
        if self._weight:
            self._fade(calls, wall_s)
        self._weight += calls
        self._wall += wall_s
        self._squares += m.squares_s2
        self._cpu += m.cpu_s
        self._waiting += min(m.waiting_s, wall_s)
        self._bytes_in += m.bytes_in
        self._bytes_out += m.bytes_out
        self.call_s = self._wall / self._weight
        self.calls += calls
        self.proven = max(self.proven, calls)
        self.longest_s = max(self.longest_s, m.longest_s)
        fade = int((self.memory_growth - m.memory_growth) * MEMORY_FADE)
        self.memory_growth = max(m.memory_growth, self.memory_growth - fade)
        self.last_lane = m.lane
        if m.lane is not Lane.PROCESSES:
            self.is_plain = m.is_plain

    def remember(self, m: Measurement) -> None:
        """Begin with calls that an earlier run measured; what is measured here outweighs them soon."""
        self.observe(m)
        self.remembered = m.calls

    def sum_up(self) -> Measurement:
        """Return a run of ``proven`` calls as they are of late, to begin another run with.

        Its sums give the same mean, variance and shares as this profile's; some call was measured.
        """
        calls = max(1, self.proven)
        share = calls / self._weight
        return Measurement(
            calls,
            self._wall * share,
            self._cpu * share,
            self._waiting * share,
            self._squares * share,
            self.longest_s,
            int(self._bytes_in * share),
            int(self._bytes_out * share),
            self.memory_growth,
            self.last_lane or Lane.CALLER,
        )

    def _fade(self, calls: int, wall_s: float) -> None:
        """Reduce the weight of what came before a run of ``calls`` that took ``wall_s``."""
        weight, mean_s, run_s = self._weight, self.call_s, wall_s / calls
        kept = min(weight, max(MEMORY_RUNS * calls, MEMORY_CALLS))
        floor_s = min(mean_s, run_s) / 2
        variance = max(self.variance_s2, floor_s * floor_s, 1e-18)
        away = run_s - mean_s
        z2 = away * away * calls / variance
        if z2 > SURPRISE * SURPRISE:
            self.surprises += 1
            self.proven = calls
            kept *= SURPRISE * SURPRISE / z2
            if away > 0:
                kept = min(kept, weight * mean_s / run_s)
            kept = min(max(kept, calls * KEPT_SHARE), weight)
        if kept < weight:
            self._scale(kept / weight)

    def _scale(self, factor: float) -> None:
        self._weight *= factor
        self._wall *= factor
        self._squares *= factor
        self._cpu *= factor
        self._waiting *= factor
        self._bytes_in *= factor
        self._bytes_out *= factor

    @property
    def variance_s2(self) -> float:
        """Variance of a call's seconds, >= 0; 0 before the first measurement."""
        if not self._weight:
            return 0.0
        return max(0.0, self._squares / self._weight - self.call_s * self.call_s)

    @property
    def waiting_share(self) -> float:
        """Share of the time spent neither on a processor nor in line for one, 0 to 1."""
        return self._waiting / self._wall if self._wall > 0 else 0.0

    @property
    def cpu_share(self) -> float:
        """Processor seconds per second of wall time, >= 0; above 1 where calls use several threads."""
        return self._cpu / self._wall if self._wall > 0 else 0.0

    @property
    def bytes_in(self) -> float:
        """Bytes of arguments a call, >= 0."""
        return self._bytes_in / self._weight if self._weight else 0.0

    @property
    def bytes_out(self) -> float:
        """Bytes of results a call, >= 0."""
        return self._bytes_out / self._weight if self._weight else 0.0

    @property
    def call_bytes(self) -> float:
        """Bytes of arguments and results a call, >= 0."""
        return (self._bytes_in + self._bytes_out) / self._weight if self._weight else 0.0

    def __repr__(self) -> str:
        return (
            f"<FunctionProfile {self.calls} calls, {self.call_s:.3g} s each, "
            f"{self.waiting_share:.0%} waiting, {self.call_bytes:.0f} bytes>"
        )
