"""`v2meow serve`: Ray, Serve and the application on this machine, until somebody ends it."""

import logging
import os
import signal
import threading
from pathlib import Path

import ray
from ray import serve as ray_serve
from ray.serve.schema import LoggingConfig

from serving.deployments import app
from serving.settings import Settings

_NAME = "v2meow"
PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serving.patience:in_proxy"
_RAY = dict((PROXY_CALLBACK,)) | {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # three fail before a dead one is replaced; else 10 s each
    # What an idle service costs: a third less than when ten times a second all is looked at and counted.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
}
_MIN_CPUS = 4  # what Ray is told there is: the parts of an idle cascade need less than they ask for


class ServeError(RuntimeError):
    """The service could not be started."""


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. ServeError when the port is taken or the models cannot be served."""
    print("starting Ray and the parts of the cascade …", flush=True)
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    cpus = max(_MIN_CPUS, os.cpu_count() or 1)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    ended = threading.Event()
    try:
        _start(settings, host, port)
        for number in (signal.SIGINT, signal.SIGTERM):  # now: Ray has put its own in place
            signal.signal(number, lambda *_: ended.set())
        print(_addresses(host, port), flush=True)
        ended.wait()
        print("ending: what is under way is given up", flush=True)
        ray_serve.shutdown()
    finally:
        ray.shutdown()


def _start(settings: Settings, host: str, port: int) -> None:
    logs = LoggingConfig(log_level="WARNING", enable_access_log=False)
    ray_serve.start(http_options={"host": host, "port": port}, logging_config=logs)
    try:
        ray_serve.run(app(settings), name=_NAME, route_prefix="/", logging_config=logs)
    except RuntimeError as error:
        raise ServeError(f"the service did not start ({error}): see {_logs()}") from None


def _addresses(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    place = f"http://{shown}:{port}"
    lines = {"page": f"{place}/", "API": f"{place}/docs", "metrics": f"{place}/metrics", "logs": _logs()}
    return "\n".join(f"{name:8} {where}" for name, where in lines.items()) + "\nCtrl-C ends it."


def _logs() -> str:
    here = ray.get_runtime_context()
    return str(Path(here.get_temp_dir(), here.get_session_name(), "logs", "serve"))
