"""`python -m serving.kserve_server`: the cascade, or single steps of it, on a KServe model server without Ray."""

import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from serving.settings import Limits
    from serving.steps import Steps

log = logging.getLogger("v2meow.serving")
_GRACE_S = 30  # for what is under way when the server is to end; KServe's own


Part = Literal["all", "cascade", "visual", "semantic", "coarse", "fine", "codec"]


class ServerError(RuntimeError):
    """The server cannot be started as asked."""


def serve(
    model: Annotated[
        str, typer.Option(metavar="nano|DIR|NAME@STAGE", help="The bundle; NAME@STAGE is resolved once, at the start.")
    ] = "nano",
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Whose registry holds NAME@STAGE; default: the nearest one.")
    ] = None,
    part: Annotated[
        Part, typer.Option(help="`cascade` is the model v2meow; a step is v2meow-STEP and loads what it needs alone.")
    ] = "all",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8081,
    pieces: Annotated[int, typer.Option(min=1, help="Pieces at work at once, decoded together.")] = 16,
    waiting: Annotated[int, typer.Option(min=0, help="So many more wait; what comes then is sent away (429).")] = 32,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="The longest music of one request.")] = 120.0,
    max_takes: Annotated[int, typer.Option(min=1, help="Most takes of one request.")] = 8,
    upload_mib: Annotated[int, typer.Option(min=1, max=2047, help="The largest request.")] = 256,
    upload_seconds: Annotated[float, typer.Option(min=0.1, help="What a request's body may take (408).")] = 60.0,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds until a request fails (504).")] = 120.0,
    watermark: Annotated[
        Path | None, typer.Option(metavar="SECRET", help="Mark the music by the secret in this file.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores for each engine's arithmetic.")] = 1,
) -> None:
    """Serve V2Meow by the Open Inference Protocol v2, over REST and gRPC, until SIGTERM.

    The model v2meow takes a video and gives music; v2meow-visual, -semantic, -coarse, -fine and -codec are its steps,
    each of which takes what the one before gave: a Sequence of an InferenceGraph chains them with `data: $response`.

    What a model takes: curl localhost:8080/v2/models/v2meow. Ready: /v2/health/ready. Figures: /metrics.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch, as the command line has it
    from serving.settings import Limits

    limits = Limits(
        running=pieces,
        waiting=waiting,
        max_seconds=max_seconds,
        max_takes=max_takes,
        upload_mib=upload_mib,
        upload_s=upload_seconds,
        deadline_s=deadline,
    )
    try:
        _refuse_taken(http_port, grpc_port)
        _serve(_steps(model, workspace, limits, watermark, threads), part, http_port, grpc_port)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in (
            "__main__",
            "serving",
            "v2meow",
        ):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _refuse_taken(*ports: int) -> None:
    """ServerError for a port that is in use: KServe's servers tell of one by a traceback, or share it."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been left is free
            try:
                probe.bind(("", port))
            except OSError as error:
                raise ServerError(f"port {port}: {error.strerror}: give another --http-port or --grpc-port") from None


def _steps(model: str, workspace: Path | None, limits: "Limits", watermark: Path | None, threads: int) -> "Steps":
    import torch

    from serving.choice import resolve
    from serving.local import LocalParts
    from serving.steps import Steps
    from v2meow.generate.watermark import read_secret

    torch.set_num_threads(threads)
    secret = read_secret(watermark) if watermark else None
    return Steps(LocalParts(limits.running), resolve(model, workspace), limits, secret)


def _serve(steps: "Steps", part: Part, http_port: int, grpc_port: int) -> None:
    from kserve import ModelServer, model_server
    from kserve.logging import configure_logging
    from prometheus_client import REGISTRY

    from serving.admission import Gate
    from serving.kserve_meters import EngineCollector
    from serving.kserve_models import StepModel
    from serving.kserve_plane import FixedModels, Plane
    from serving.kserve_rest import prepare
    from serving.tensors import STEP_NAMES, StepName
    from serving.trial import try_steps

    configure_logging()
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)  # two lines a request that its histograms tell
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    chosen: tuple[StepName, ...] = STEP_NAMES if part == "all" else (part,)
    gate = Gate(steps.limits.running, steps.limits.waiting)
    models = [StepModel(step, steps, gate) for step in chosen]
    # KServe's server of gRPC takes these from the command line that KServe read when it was imported, and from nowhere
    # else: what comes in is bounded like bodies of REST, what goes out is as large as the music.
    model_server.args.grpc_max_receive_message_length = steps.limits.upload_mib << 20
    model_server.args.grpc_max_send_message_length = -1
    server = ModelServer(http_port, grpc_port, workers=1, grace_period=_GRACE_S)
    for model in models:
        server.register_model(model)
    server.dataplane = Plane(server.registered_models, steps.parts)
    server.model_repository_extension = FixedModels(server.registered_models)
    prepare(model_server.app, server.dataplane, steps.limits)
    REGISTRY.register(EngineCollector(steps.parts, gate))

    async def rehearsed() -> None:
        await try_steps(steps, chosen)
        for model in models:
            model.ready = True
        log.info("%s, %s, is served", steps.edition.label, steps.edition.digest[:12])

    server.servers.append(rehearsed())
    server.start([])


def main() -> None:
    """The command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(serve)
    app()


if __name__ == "__main__":
    main()
