"""The cascade under Ray Serve: one deployment a part, each scaled alone, and the HTTP API before them.

    Ingress ─► VisualEncoder, TextEncoder ─► SemanticStage ─► CoarseStage ─► FineStage ─► CodecDecoder

Ids go from stage to stage through the ingress as they are made: they are few, and whoever knows what a piece still
waits for decides what is asked for next. Its builder, `app`, is what a Serve config file names as its import path.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.util import register_serializer

from serving.api import make_app
from serving.editions import read_served
from serving.handles import HandleParts
from serving.keys import Doorkeeper
from serving.ray_meters import RayMeters, cluster_metrics, show_loads
from serving.service import Service
from serving.settings import PART_NAMES, ModelShare, PartName, PartScaling, Settings
from serving.workers import CodecWorker, StageWorker, TextWorker, VisualWorker, Worker
from v2meow.config import StageName

_NICE = 5  # stages let the parts around them go first: what comes together is decoded together, and costs less
_UNBOUNDED = 10_000  # requests a replica takes in: the ingress bounds them, an engine queues fairly


def _settle(threads: int) -> None:
    """What every process does first. Tensors travel as arrays: by torch's own way each takes four times as long."""
    torch.set_num_threads(threads)
    register_serializer(torch.Tensor, serializer=torch.Tensor.numpy, deserializer=_tensor)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())  # Ray's cannot be written to


class _Warmed(Worker):
    """A part whose new process loads what is served before it is given work. `user_config` says where that stands."""

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        """Called before a process counts as started."""
        await self.warm(read_served(Path(user_config["spool"])))


@serve.deployment(name="VisualEncoder")
class VisualEncoder(VisualWorker, _Warmed):
    """Pictures to features."""

    def __init__(self, threads: int, room: int) -> None:
        _settle(threads)
        super().__init__(room)


@serve.deployment(name="TextEncoder")
class TextEncoder(TextWorker, _Warmed):
    """Prompts to music-text vectors."""

    def __init__(self, threads: int, room: int) -> None:
        _settle(threads)
        super().__init__(room)


class _Stage(StageWorker, _Warmed):
    def __init__(self, stage: StageName, pieces: int, threads: int, room: int) -> None:
        _settle(threads)
        os.nice(_NICE)
        super().__init__(stage, pieces, room)
        self._shown = asyncio.ensure_future(show_loads(self))


@serve.deployment(name="SemanticStage")
class SemanticStage(_Stage):
    """Features and text to semantic ids."""


@serve.deployment(name="CoarseStage")
class CoarseStage(_Stage):
    """Semantic ids to the first levels of codes."""


@serve.deployment(name="FineStage")
class FineStage(_Stage):
    """Coarse codes to the other levels."""


@serve.deployment(name="CodecDecoder")
class CodecDecoder(CodecWorker, _Warmed):
    """Codes to sound."""

    def __init__(self, threads: int, room: int) -> None:
        _settle(threads)
        super().__init__(room)


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """The HTTP API. Its `user_config` is {"models": [{"name": …, "share": …}]}: what is served from then on."""

    def __init__(self, settings: Settings, threads: int, **handles: DeploymentHandle) -> None:
        logging.getLogger("v2meow").setLevel(logging.INFO)
        _settle(threads)
        self._service = Service(settings, HandleParts(handles), RayMeters())
        self._doorkeeper = Doorkeeper(Path(settings.keys) if settings.keys else None)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._service, self._doorkeeper, cluster_metrics)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Try the models and swap; called at the start, and whenever the application's config file changes."""
        models = tuple(ModelShare(**model) for model in user_config["models"])
        if self._service.ready:
            await self._service.adopt(models)
        else:
            await self._service.start(models)


_STAGES = {"semantic": SemanticStage, "coarse": CoarseStage, "fine": FineStage}
_OTHERS = {"visual": VisualEncoder, "text": TextEncoder, "codec": CodecDecoder}


def app(settings: Settings) -> serve.Application:
    """The application for a config file: `import_path: serving.deployments:app`, and the settings as `args`."""
    parts: dict[PartName, Any] = {}
    room = len(settings.models) + 1  # for one that comes while another goes
    known = {"spool": settings.spool}
    for name in PART_NAMES:
        part = settings.part(name)
        if name in _STAGES:
            deployment = _scaled(_STAGES[name], part, settings).options(user_config=known)
            parts[name] = deployment.bind(name, part.pieces, part.threads, room)
        elif name in _OTHERS:
            parts[name] = _scaled(_OTHERS[name], part, settings).options(user_config=known).bind(part.threads, room)
    own = settings.part("ingress")
    models = {"models": [model.model_dump() for model in settings.models]}
    return _scaled(Ingress, own, settings).options(user_config=models).bind(settings, own.threads, **parts)


def _scaled(deployment: Any, part: PartScaling, settings: Settings) -> Any:
    """The deployment with its replicas and what each takes. A new one stands before an old one goes."""
    common = {
        "max_ongoing_requests": _UNBOUNDED,
        "graceful_shutdown_timeout_s": settings.drain_s,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "max_surge_percent": 100,
        "ray_actor_options": {"num_cpus": part.cpus, "num_gpus": part.gpus},
    }
    if part.min_replicas == part.max_replicas:
        return deployment.options(num_replicas=part.min_replicas, **common)
    scaling = AutoscalingConfig(
        min_replicas=part.min_replicas,
        max_replicas=part.max_replicas,
        target_ongoing_requests=part.target_ongoing,
        upscale_delay_s=part.upscale_s,
        downscale_delay_s=part.downscale_s,
    )
    return deployment.options(autoscaling_config=scaling, **common)
