"""The connection to Ray: a cluster that RAY_ADDRESS names, else one that starts here and ends with the work.

And to the job server of a cluster that this machine is no part of.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient

_ANSWER_S = 60.0
_ELSEWHERE = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray obeys them more than the address that it is given


class ClusterError(Exception):
    """A cluster that cannot be worked with; the message says in one line why, and what to do."""


class JobServer(JobSubmissionClient):
    """Ray's own client, which would wait for ever where a network swallows packets."""

    def _do_request(self, *request: Any, **options: Any) -> Any:
        return super()._do_request(*request, **{"timeout": _ANSWER_S} | options)

    def ray_version(self) -> str:
        """That of the cluster."""
        return self._do_request("GET", "/api/version").json()["ray_version"]


def job_server(address: str) -> JobServer:
    """The job server of a cluster at `http://HEAD:8265`, or at whatever else Ray takes for one.

    Where the cluster asks for a token, Ray takes it from where RAY_AUTH_MODE=token and its kin say. ClusterError for an
    address where none answers, a token that it does not accept, and another version of Ray than that of this machine.
    """
    try:
        with _without(*_ELSEWHERE):
            server = JobServer(address)
        there = server.ray_version()
    except AuthenticationError:
        raise ClusterError(
            f"{address} does not accept this machine's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a "
            "file with the cluster's token"
        ) from None
    except ConnectionError:
        raise ClusterError(
            f"no job server answers at {address}: it is to be the dashboard of a cluster that runs, such as "
            "http://HEAD:8265; the head needs ray[default], and --dashboard-host=0.0.0.0 to be reached from elsewhere"
        ) from None
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ClusterError(f"what answers at {address} is no job server of Ray: {reason}") from None
    if there != ray.__version__:
        raise ClusterError(f"Ray is {there} at {address} and {ray.__version__} here: install the same on both")
    return server


@contextmanager
def _without(*variables: str) -> Iterator[None]:
    """Inside the block, those environment variables are not set."""
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def connected() -> Iterator[None]:
    """Inside the block there is a Ray cluster. Its errors become those of ours, or of the system's, behind them."""
    started = not ray.is_initialized()
    if started:
        where = os.environ.get("RAY_ADDRESS", "local")  # else Ray joins whatever cluster runs on this machine
        ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
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
