"""An executor that tunes itself: ``with AdaptiveExecutor() as ex: ex.map(f, items)``.

Every public name is here. Importing the package starts nothing; what few calls need loads when it is first used. In a
zygote that was started clean the executor itself is such a thing: workers rarely make one, and all would pay for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amorsize_executor.advice.batch import estimate_safe_batch_size, process_in_batches
    from amorsize_executor.advice.benchmark import (
        BenchmarkResult,
        ExecutionError,
        quick_validate,
        validate_optimization,
    )
    from amorsize_executor.advice.comparison import (
        ComparisonConfig,
        ComparisonResult,
        compare_strategies,
        compare_with_optimizer,
    )
    from amorsize_executor.advice.config import get_default_config_dir, list_configs, load_config, save_config
    from amorsize_executor.advice.diagnosis import DiagnosticProfile
    from amorsize_executor.advice.execute import execute
    from amorsize_executor.advice.hooks import (
        HookContext,
        HookEvent,
        HookManager,
        create_error_hook,
        create_progress_hook,
        create_throughput_hook,
        create_timing_hook,
    )
    from amorsize_executor.advice.optimization import NoProfileError, OptimizationResult
    from amorsize_executor.advice.optimize import optimize
    from amorsize_executor.advice.replay import replay_failed_items
    from amorsize_executor.advice.streaming import StreamingOptimizationResult, optimize_streaming
    from amorsize_executor.errors import (
        AmorsizeError,
        CallTimeoutError,
        CheckpointMismatchError,
        CircuitBreakerError,
        ConfigFileError,
        InvalidParameterError,
        InvalidParameterTypeError,
        MissingExtraError,
        RateLimitExceeded,
        StorageError,
        UnstableKeyError,
        UnsupportedOptionError,
        WorkerDiedError,
    )
    from amorsize_executor.middleware.base import Middleware
    from amorsize_executor.middleware.checkpoint import CheckpointPolicy
    from amorsize_executor.middleware.checkpoint_snapshot import (
        CheckpointManager,
        CheckpointState,
        get_pending_items,
        merge_results,
    )
    from amorsize_executor.middleware.circuit_breaker import (
        CircuitBreaker,
        CircuitBreakerPolicy,
        CircuitState,
        circuit_breaker_call,
        with_circuit_breaker,
    )
    from amorsize_executor.middleware.rate_limit import RateLimiter, RateLimitPolicy, with_rate_limit
    from amorsize_executor.middleware.retry import Retry, RetryPolicy, retry_call, with_retry
    from amorsize_executor.middleware.timeout import TimeoutPolicy
    from amorsize_executor.records import Decision, Lane, Measurement, Plan, Profile
    from amorsize_executor.storage.dead_letter import DLQEntry, DLQFormat, DLQPolicy
    from amorsize_executor.storage.dead_letter_queue import DeadLetterQueue
    from amorsize_executor.tuning.saved_plan import ConfigData

__all__ = [
    "AdaptiveExecutor",
    "AmorsizeError",
    "BenchmarkResult",
    "CallTimeoutError",
    "CheckpointManager",
    "CheckpointMismatchError",
    "CheckpointPolicy",
    "CheckpointState",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerPolicy",
    "CircuitState",
    "ComparisonConfig",
    "ComparisonResult",
    "ConfigData",
    "ConfigFileError",
    "DLQEntry",
    "DLQFormat",
    "DLQPolicy",
    "DeadLetterQueue",
    "Decision",
    "DiagnosticProfile",
    "ExecutionError",
    "HookContext",
    "HookEvent",
    "HookManager",
    "InvalidParameterError",
    "InvalidParameterTypeError",
    "Lane",
    "Measurement",
    "Middleware",
    "MissingExtraError",
    "NoProfileError",
    "OptimizationResult",
    "Plan",
    "Profile",
    "RateLimitExceeded",
    "RateLimitPolicy",
    "RateLimiter",
    "Retry",
    "RetryPolicy",
    "StorageError",
    "StreamingOptimizationResult",
    "TimeoutPolicy",
    "UnstableKeyError",
    "UnsupportedOptionError",
    "WorkerDiedError",
    "circuit_breaker_call",
    "compare_strategies",
    "compare_with_optimizer",
    "create_error_hook",
    "create_progress_hook",
    "create_throughput_hook",
    "create_timing_hook",
    "estimate_safe_batch_size",
    "execute",
    "get_default_config_dir",
    "get_pending_items",
    "list_configs",
    "load_config",
    "merge_results",
    "optimize",
    "optimize_streaming",
    "process_in_batches",
    "quick_validate",
    "replay_failed_items",
    "retry_call",
    "save_config",
    "validate_optimization",
    "with_circuit_breaker",
    "with_rate_limit",
    "with_retry",
]

_HOMES = {
    "AdaptiveExecutor": "executor",
    "AmorsizeError": "errors",
    "BenchmarkResult": "advice.benchmark",
    "CallTimeoutError": "errors",
    "CheckpointManager": "middleware.checkpoint_snapshot",
    "CheckpointMismatchError": "errors",
    "CheckpointPolicy": "middleware.checkpoint",
    "CheckpointState": "middleware.checkpoint_snapshot",
    "CircuitBreaker": "middleware.circuit_breaker",
    "CircuitBreakerError": "errors",
    "CircuitBreakerPolicy": "middleware.circuit_breaker",
    "CircuitState": "middleware.circuit_breaker",
    "ComparisonConfig": "advice.comparison",
    "ComparisonResult": "advice.comparison",
    "ConfigData": "tuning.saved_plan",
    "ConfigFileError": "errors",
    "DLQEntry": "storage.dead_letter",
    "DLQFormat": "storage.dead_letter",
    "DLQPolicy": "storage.dead_letter",
    "DeadLetterQueue": "storage.dead_letter_queue",
    "Decision": "records",
    "DiagnosticProfile": "advice.diagnosis",
    "ExecutionError": "advice.benchmark",
    "HookContext": "advice.hooks",
    "HookEvent": "advice.hooks",
    "HookManager": "advice.hooks",
    "InvalidParameterError": "errors",
    "InvalidParameterTypeError": "errors",
    "Lane": "records",
    "Measurement": "records",
    "Middleware": "middleware.base",
    "MissingExtraError": "errors",
    "NoProfileError": "advice.optimization",
    "OptimizationResult": "advice.optimization",
    "Plan": "records",
    "Profile": "records",
    "RateLimitExceeded": "errors",
    "RateLimitPolicy": "middleware.rate_limit",
    "RateLimiter": "middleware.rate_limit",
    "Retry": "middleware.retry",
    "RetryPolicy": "middleware.retry",
    "StorageError": "errors",
    "StreamingOptimizationResult": "advice.streaming",
    "TimeoutPolicy": "middleware.timeout",
    "UnstableKeyError": "errors",
    "UnsupportedOptionError": "errors",
    "WorkerDiedError": "errors",
    "circuit_breaker_call": "middleware.circuit_breaker",
    "compare_strategies": "advice.comparison",
    "compare_with_optimizer": "advice.comparison",
    "create_error_hook": "advice.hooks",
    "create_progress_hook": "advice.hooks",
    "create_throughput_hook": "advice.hooks",
    "create_timing_hook": "advice.hooks",
    "estimate_safe_batch_size": "advice.batch",
    "execute": "advice.execute",
    "get_default_config_dir": "advice.config",
    "get_pending_items": "middleware.checkpoint_snapshot",
    "list_configs": "advice.config",
    "load_config": "advice.config",
    "merge_results": "middleware.checkpoint_snapshot",
    "optimize": "advice.optimize",
    "optimize_streaming": "advice.streaming",
    "process_in_batches": "advice.batch",
    "quick_validate": "advice.benchmark",
    "replay_failed_items": "advice.replay",
    "retry_call": "middleware.retry",
    "save_config": "advice.config",
    "validate_optimization": "advice.benchmark",
    "with_circuit_breaker": "middleware.circuit_breaker",
    "with_rate_limit": "middleware.rate_limit",
    "with_retry": "middleware.retry",
}


if not hasattr(sys, "_amorsize_zygote"):
    from amorsize_executor.backends import process  # noqa: F401
    from amorsize_executor.executor import AdaptiveExecutor

    if sys.platform == "linux":
        from amorsize_executor.backends import zygote  # noqa: F401


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("amorsize-executor")
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
