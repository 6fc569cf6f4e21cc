"""KServe's REST server with what it lacks: bounds for heads and bodies, responses as requests, one form of errors."""

import asyncio
from contextlib import suppress

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import ModelNotReady
from kserve.protocol.dataplane import DataPlane
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import patience
from serving.kserve_wire import Refused, read_rest
from serving.problems import Problem
from serving.settings import Limits
from serving.uploads import Bounded

_JSON_LENGTH = "Inference-Header-Content-Length"
_GONE = 499  # nobody reads it
_SOON_S = 2.0


def prepare(app: FastAPI, plane: DataPlane, limits: Limits) -> None:
    """Put our way of taking requests before KServe's, which it adds to `app` when the server starts."""
    patience.in_proxy()
    app.add_middleware(BoundedBodies, limits=limits)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _unreadable)
    reading = asyncio.Semaphore(limits.running + limits.waiting)  # bodies are held in memory before they are counted

    @app.post("/v2/models/{model_name}/infer")
    async def infer(model_name: str, request: Request) -> Response:
        if not await plane.model_ready(model_name):  # before anything is read
            raise ModelNotReady(model_name)
        if reading.locked():
            raise Problem(429, "busy", "too many requests come in already: come back later", retry_after=_SOON_S)
        async with reading:
            body = await request.body()
        work = asyncio.ensure_future(_infer(plane, model_name, body, request))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            return await work if work.done() else Response(status_code=_GONE)
        finally:
            for task in (work, gone):
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work


class BoundedBodies:
    """A middleware: bodies that are too long or too slow end with a Problem."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bounded, whole = Bounded(receive, self._limits.upload_mib << 20, self._limits.upload_s), False

        async def limited() -> Message:
            nonlocal whole
            if whole:  # what comes then is the client's leaving, however late
                return await receive()
            message = await bounded()
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)


async def _infer(plane: DataPlane, model: str, body: bytes, request: Request) -> Response:
    asked = await asyncio.to_thread(read_rest, body, request.headers.get(_JSON_LENGTH), model)
    made, _ = await plane.infer(model, asked, dict(request.headers))
    content, headers = await asyncio.to_thread(plane.encode, model, made, {}, {})
    if isinstance(content, bytes):
        return Response(content, media_type="application/octet-stream", headers=headers)
    return Response(orjson.dumps(content), media_type="application/json", headers=headers)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _told(error.problem)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _told(error)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


async def _unreadable(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the request cannot be read: {' '.join(str(error).split())}"}, 400)


def _told(problem: Problem) -> Response:
    return JSONResponse({"error": problem.detail}, problem.status, headers=problem.headers)
