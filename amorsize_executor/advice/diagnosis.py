"""``DiagnosticProfile``: everything that a recommendation rests on, in numbers and in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

WIDTH = 79
_KIB = 1024


@dataclass
class DiagnosticProfile:
    """What was measured, what is predicted, and what decided. All attributes may be changed.

    Attributes:
        avg_execution_time: Seconds a call.
        avg_pickle_time: Seconds to pickle a result.
        avg_data_pickle_time: Seconds to pickle an item.
        return_size_bytes: Bytes of a pickled result.
        data_size_bytes: Bytes of a pickled item.
        peak_memory_bytes: Resident memory that the process grew by while it ran the sample.
        sample_count: Calls that were measured.
        is_picklable: Whether function and sampled items can travel to another process.
        coefficient_of_variation: Standard deviation of a call's time over its mean.
        is_heterogeneous: Whether that is above 0.5.
        workload_type: ``"cpu_bound"``, ``"mixed"`` or ``"io_bound"``.
        cpu_time_ratio: Processor seconds per second; above 1 where a call uses several threads.
        physical_cores: Usable physical cores.
        logical_cores: Usable logical processors.
        spawn_cost: Seconds until the first worker answers.
        chunking_overhead: Seconds a chunk, beside its calls.
        available_memory: Bytes that can be had without swapping.
        multiprocessing_start_method: How workers are started.
        total_items: Number of items; -1 where nobody knows.
        estimated_serial_time: Seconds of plain serial code for all items; for an unknown number, for as many as were
            assumed.
        estimated_result_memory: Bytes of all results.
        max_workers_cpu: Workers that the processors, and the waiting of calls, are worth.
        max_workers_memory: Workers that fit into memory.
        optimal_chunksize: Calls a chunk.
        target_chunk_duration: Seconds that a chunk aims at.
        overhead_spawn: Seconds of starting workers.
        overhead_ipc: Seconds of shipping calls and their bytes.
        overhead_chunking: Seconds of dispatching chunks.
        parallel_compute_time: Seconds of the calls themselves, shared by the workers.
        theoretical_max_speedup: Workers times faster, without any overhead.
        estimated_speedup: Times faster, with all.
        speedup_efficiency: The one over the other, 0 to 1.
        rejection_reasons: Why it is not worth it.
        constraints: What bounds the number of workers, or the memory.
        recommendations: What to do.
    """

    avg_execution_time: float = 0.0
    avg_pickle_time: float = 0.0
    avg_data_pickle_time: float = 0.0
    return_size_bytes: int = 0
    data_size_bytes: int = 0
    peak_memory_bytes: int = 0
    sample_count: int = 0
    is_picklable: bool = False
    coefficient_of_variation: float = 0.0
    is_heterogeneous: bool = False
    workload_type: str = "cpu_bound"
    cpu_time_ratio: float = 1.0
    physical_cores: int = 1
    logical_cores: int = 1
    spawn_cost: float = 0.0
    chunking_overhead: float = 0.0
    available_memory: int = 0
    multiprocessing_start_method: str = ""
    total_items: int = 0
    estimated_serial_time: float = 0.0
    estimated_result_memory: int = 0
    max_workers_cpu: int = 1
    max_workers_memory: int = 1
    optimal_chunksize: int = 1
    target_chunk_duration: float = 0.2
    overhead_spawn: float = 0.0
    overhead_ipc: float = 0.0
    overhead_chunking: float = 0.0
    parallel_compute_time: float = 0.0
    theoretical_max_speedup: float = 1.0
    estimated_speedup: float = 1.0
    speedup_efficiency: float = 1.0
    rejection_reasons: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    recommendations: list[str] = field(default_factory=list)

    def format_time(self, seconds: float) -> str:
        """Write a duration: microseconds below 1 ms, milliseconds below 1 s, else seconds."""
        for unit, factor in (("μs", 1e6), ("ms", 1e3)):
            if seconds * factor < 1000:  # noqa: PLR2004 - the next unit
                return f"{seconds * factor:.1f}{unit}"
        return f"{seconds:.2f}s"

    def format_bytes(self, bytes_val: float) -> str:
        """Write a number of bytes with B, KB, MB or GB, to the base 1,024."""
        size = float(bytes_val)
        for unit in ("B", "KB", "MB"):
            if size < _KIB:
                return f"{size:.0f}{unit}" if unit == "B" else f"{size:.2f}{unit}"
            size /= _KIB
        return f"{size:.2f}GB"

    def get_overhead_breakdown(self) -> dict[str, float]:
        """Return the shares of ``spawn``, ``ipc`` and ``chunking`` in the overhead, in percent: 100, or 0 for none."""
        parts = {"spawn": self.overhead_spawn, "ipc": self.overhead_ipc, "chunking": self.overhead_chunking}
        total_s = sum(parts.values())
        return {name: 100.0 * seconds / total_s if total_s > 0 else 0.0 for name, seconds in parts.items()}

    def explain_decision(self) -> str:
        """Return a report of numbered sections; those with nothing to say are left out."""
        sections = [
            ("WORKLOAD ANALYSIS", list(self._say_workload())),
            ("SYSTEM RESOURCES", list(self._say_system())),
            ("OPTIMIZATION DECISION", list(self._say_decision())),
            ("PERFORMANCE PREDICTION", list(self._say_prediction())),
            ("REJECTION REASONS", self.rejection_reasons),
            ("ACTIVE CONSTRAINTS", self.constraints),
            ("RECOMMENDATIONS", self.recommendations),
        ]
        lines = ["=" * WIDTH, "DIAGNOSTIC PROFILE: why this recommendation", "=" * WIDTH]
        for number, (title, body) in enumerate(((title, body) for title, body in sections if body), 1):
            lines += ["", f"[{number}] {title}"]
            for line in body:
                lines += textwrap.wrap(f"  {line}", WIDTH, subsequent_indent="    ")
        return "\n".join([*lines, "=" * WIDTH])

    def _say_workload(self) -> Iterator[str]:
        if not self.sample_count and not self.avg_execution_time:
            yield "Sampled calls:            none that ended well"
            return
        yield f"Function execution time:  {self.format_time(self.avg_execution_time)} per item"
        yield f"Workload type:            {self.workload_type} ({self.cpu_time_ratio:.0%} of it on a processor)"
        times = self.format_time(self.avg_data_pickle_time), self.format_time(self.avg_pickle_time)
        sizes = self.format_bytes(self.data_size_bytes), self.format_bytes(self.return_size_bytes)
        yield f"Pickle (item, result):    {', '.join(times)}"
        yield f"Size (item, result):      {', '.join(sizes)}"
        yield f"Peak memory of a call:    {self.format_bytes(self.peak_memory_bytes)}"
        yield f"Function is picklable:    {'yes' if self.is_picklable else 'no'}"
        yield f"Sampled calls:            {self.sample_count:,}, variation {self.coefficient_of_variation:.2f}" + (
            " (heterogeneous)" if self.is_heterogeneous else ""
        )
        yield f"Total items:              {self.total_items:,}" if self.total_items >= 0 else "Total items: unknown"

    def _say_system(self) -> Iterator[str]:
        yield f"Cores:                    {self.physical_cores} physical, {self.logical_cores} logical"
        yield f"Available memory:         {self.format_bytes(self.available_memory)}"
        yield f"Workers start:            {self.multiprocessing_start_method or 'unknown'}"
        if self.spawn_cost > 0:
            yield f"Start-up of workers:      {self.format_time(self.spawn_cost)}"
            yield f"Cost of a chunk:          {self.format_time(self.chunking_overhead)}"

    def _say_decision(self) -> Iterator[str]:
        if self.estimated_serial_time > 0:
            yield f"Workers by CPU:           {self.max_workers_cpu}"
            yield f"Workers by memory:        {self.max_workers_memory}"
        target = self.format_time(self.target_chunk_duration)
        yield f"Chunk size:               {self.optimal_chunksize:,} (aims at {target})"
        if self.estimated_result_memory > 0:
            yield f"Memory of all results:    {self.format_bytes(self.estimated_result_memory)}"

    def _say_prediction(self) -> Iterator[str]:
        if self.estimated_serial_time <= 0:
            return
        yield f"Serial time:              {self.format_time(self.estimated_serial_time)}"
        yield f"Parallel compute time:    {self.format_time(self.parallel_compute_time)}"
        shares = self.get_overhead_breakdown()
        for name, label in (("spawn", "Starting"), ("ipc", "Shipping"), ("chunking", "Chunks")):
            seconds = getattr(self, f"overhead_{name}")
            yield f"{label + ' overhead:':<25} {self.format_time(seconds)} ({shares[name]:.0f}%)"
        yield f"Theoretical speedup:      {self.theoretical_max_speedup:.2f}x"
        yield f"Estimated speedup:        {self.estimated_speedup:.2f}x"
        yield f"Efficiency:               {self.speedup_efficiency:.0%}"
