"""The connection to Ray: a cluster that RAY_ADDRESS names, else one that starts here and ends with the work."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Else, under `uv run`, Ray starts every worker by `uv run` in a copy of the working folder, packed with models, data
# and all. Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
import ray
from ray.exceptions import RayError


@contextmanager
def connected() -> Iterator[None]:
    """Inside the block there is a Ray cluster. Its errors become those of ours, or of the system's, behind them."""
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    except RayError as error:
        raise own_cause(error) from None
    finally:
        if started:
            ray.shutdown()


def own_cause(error: BaseException) -> BaseException:
    """The error that a worker met, where it is one of ours or of the system's; else what Ray says."""
    cause: BaseException | None = error
    while cause is not None:
        failures = getattr(cause, "worker_failures", None)  # of Ray Train, by worker
        inner = getattr(cause, "cause", None) or getattr(cause, "controller_failure", None) or cause.__cause__
        cause = next(iter(failures.values())) if failures else inner
        if isinstance(cause, OSError) or (cause and type(cause).__module__.startswith("v2meow")):
            return cause
    return error
