"""Figures of the service for Prometheus, through Ray: every process tells its node, and a node tells all of them."""

import asyncio
from typing import TYPE_CHECKING

import httpx
import ray
from ray import serve
from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from serving.workers import StageWorker

_SECONDS = [0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0]
_FACTORS = [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0]
_LOOK_S = 2.0
_OURS = ("ray_v2meow_", "v2meow_")


class RayMeters:
    """`Meters` of an ingress process."""

    def __init__(self) -> None:
        self._first = Histogram(
            "v2meow_first_audio_seconds", "From a request to its first sound", _SECONDS, tag_keys=("model",)
        )
        self._took = Histogram(
            "v2meow_generation_seconds", "From a request to its last sound", _SECONDS, tag_keys=("model",)
        )
        self._factor = Histogram(
            "v2meow_real_time_factor", "Seconds of work for a second of music", _FACTORS, tag_keys=("model",)
        )
        self._music = Counter("v2meow_music_seconds", "Music that was made", tag_keys=("model",))
        self._failed = Counter("v2meow_failed_generations", "By the kind of problem", tag_keys=("kind", "model"))
        self._pieces = Gauge("v2meow_pieces", "Pieces at work, and those that wait for a place", tag_keys=("state",))

    def first_audio(self, seconds: float, model: str) -> None:
        self._first.observe(seconds, {"model": model})

    def finished(self, seconds: float, music: float, model: str) -> None:
        tags = {"model": model}
        self._took.observe(seconds, tags)
        self._music.inc(music, tags)
        self._factor.observe(seconds / music, tags)

    def failed(self, kind: str, model: str) -> None:
        self._failed.inc(1, {"kind": kind, "model": model})

    def pieces(self, at_work: int, waiting: int) -> None:
        self._pieces.set(at_work, {"state": "at work"})
        self._pieces.set(waiting, {"state": "waiting"})


async def show_loads(worker: "StageWorker") -> None:
    """Tell again and again what the engines of a stage have to do."""
    tags = {"stage": worker.stage, "replica": serve.get_replica_context().replica_id.unique_id}
    keys = tuple(tags)
    used = Gauge("v2meow_rows_used", "Rows of the cache in use", tag_keys=keys)
    room = Gauge("v2meow_rows", "Rows of the cache", tag_keys=keys)
    waiting = Gauge("v2meow_windows_waiting", "Windows that wait for a row", tag_keys=keys)
    codes = Counter("v2meow_codes", "Codes that were made", tag_keys=keys)
    told = 0
    while True:
        loads = worker.loads
        used.set(sum(load.rows for load in loads), tags)
        room.set(sum(load.room for load in loads), tags)
        waiting.set(sum(load.waiting for load in loads), tags)
        made = sum(load.codes for load in loads)
        codes.inc(max(0, made - told), tags) if made > told else None
        told = made
        await asyncio.sleep(_LOOK_S)


async def cluster_metrics() -> str:
    """What all nodes tell of this service, as Prometheus reads it."""
    addresses = {
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"]
    }
    async with httpx.AsyncClient(timeout=5.0) as client:
        answers = await asyncio.gather(*map(client.get, addresses), return_exceptions=True)
    texts = [answer.text for answer in answers if isinstance(answer, httpx.Response)]
    return "".join(f"{line}\n" for text in texts for line in text.splitlines() if _is_ours(line))


def _is_ours(line: str) -> bool:
    name = line.split()[2] if line.startswith("#") and len(line.split()) > 2 else line
    return name.startswith(_OURS)
