"""The HTTP API: requests in, music out. One shape for every error, and a page for people at `/`.

It carries a `Service` and knows nothing of what carries it: Ray Serve does, and any ASGI server can.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serving import answers, schema
from serving.keys import OPEN, Doorkeeper, Key
from serving.problems import MEDIA_TYPE, Problem, problem_of
from serving.results import MEDIA_TYPES, ResultFile, result_file
from serving.service import Service
from serving.spool import Order, Record
from serving.uploads import GenerationForm, read_form
from v2meow.media import Spare

log = logging.getLogger("v2meow.serving")
_PAGE = Path(__file__).parent / "page"
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",  # its files belong together: none may be older than the others
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(service: Service, doorkeeper: Doorkeeper, metrics: Callable[[], Awaitable[str]]) -> FastAPI:
    """The application; `metrics` gives Prometheus' text. Its end is that of the service."""

    spare = Spare()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.stop()
        await asyncio.to_thread(spare.close)

    app = FastAPI(title="V2Meow", version="1", description=schema.DESCRIPTION, lifespan=lifespan)
    _handle_errors(app)
    door = _Door(doorkeeper)

    @app.post("/v1/generations", **schema.GENERATE)
    async def generate(request: Request) -> Response:
        key = door.admit(request)
        release = doorkeeper.begin(key)  # until the music is made: a stream goes on after this function
        try:
            return await _generate(service, spare, request, door.owner(key), release)
        except BaseException:
            release()
            raise

    @app.get("/v1/generations/{name}", **schema.RECORD)
    async def look(name: str, request: Request) -> JSONResponse:
        return _record(service.spool.load(name, door.owner(door.recognise(request))))

    @app.delete("/v1/generations/{name}", **schema.CANCEL)
    async def cancel(name: str, request: Request) -> Response:
        record = service.spool.load(name, door.owner(door.recognise(request)))
        await service.cancel(record)
        await asyncio.to_thread(service.spool.forget, name)
        return Response(status_code=204)

    @app.get("/v1/generations/{name}/takes/{take}", **schema.TAKE)
    async def take(name: str, take: int, request: Request, format: ResultFile = "wav") -> Response:  # noqa: A002
        record = service.spool.load(name, door.owner(door.recognise(request)))
        file = await asyncio.to_thread(result_file, service, record, take, format)
        return FileResponse(file, media_type=MEDIA_TYPES[format], filename=f"v2meow-{name[:8]}-{take}.{format}")

    @app.get("/v1/models", **schema.MODELS)
    async def models(request: Request) -> JSONResponse:
        door.recognise(request)
        served = [
            {"name": one.name, "version": one.edition.label, "digest": one.edition.digest, "share": one.share}
            for one in service.choice.served
        ]
        return JSONResponse({"models": served, "trouble": service.trouble})

    @app.get("/healthz", **schema.PROBE)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/readyz", **schema.PROBE)
    async def readyz() -> PlainTextResponse:
        if not service.ready:
            raise Problem(503, "not-ready", "no model is served yet", retry_after=5.0)
        return PlainTextResponse("ready")

    @app.get("/metrics", **schema.METRICS)
    async def show_metrics() -> PlainTextResponse:
        return PlainTextResponse(await metrics(), media_type="text/plain; version=0.0.4")

    app.mount("/", _Page(directory=_PAGE, html=True))
    return app


async def _generate(
    service: Service, spare: Spare, request: Request, owner: str, release: Callable[[], None]
) -> Response:
    idempotency = _idempotency_key(request)
    form, upload = await read_form(request, service.settings)
    order = Order(prompt=form.prompt, seconds=form.seconds, seed=form.seed, takes=form.takes, model=form.model)
    try:
        service.choice.pick(form.model)  # before anything is kept: one that is not served
        record = await asyncio.to_thread(service.spool.new, order, form.mode, owner, upload)
    finally:
        upload.unlink(missing_ok=True)
    repeated = _repeated(service, record, idempotency)
    if repeated is not None:
        release()
        return await _answer_again(service, repeated, form)
    if form.mode == "async":
        _refuse_when_full(service, record)
        service.begin(record, release)
        return _record(record, status=202)
    performing = await service.prepared(record, service.settings.limits.deadline_s)
    headers = {"X-Generation-Id": record.id, "X-Model-Digest": record.model["digest"]}
    make, media_type = answers.streamed(form, request.scope["http_version"], spare)
    if make is not None:
        if make is answers.wav:
            headers["Content-Length"] = str(answers.wav_bytes(performing))
        return answers.Stream(make, performing, media_type, headers, release)
    await performing.finish()
    release()
    return await _best(service, record, form, headers)


def _repeated(service: Service, record: Record, key: str | None) -> Record | None:
    """The earlier generation that an idempotency key stands for; the new record is then forgotten."""
    if not key:
        return None
    first = service.spool.claim(key, record.owner, record.id)
    if first == record.id:
        return None
    service.spool.forget(record.id)
    earlier = service.spool.load(first, record.owner)
    if (earlier.order, earlier.input["sha256"]) != (record.order, record.input["sha256"]):
        raise Problem(422, "key-reused", "this Idempotency-Key was used for another request")
    return earlier


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key and len(key) > 200:
        raise Problem(400, "broken-header", "Idempotency-Key: 200 characters at most")
    return key


async def _answer_again(service: Service, record: Record, form: GenerationForm) -> Response:
    if form.mode == "async":
        return _record(record, status=200 if record.ended else 202)
    if record.status == "failed" and record.error:
        raise Problem(record.error["status"], record.error["type"].rsplit(":", 1)[1], record.error["detail"])
    if record.status != "succeeded":
        raise Problem(409, "still-running", "the first request with this key is under way", retry_after=1.0)
    if form.format == "events":
        raise Problem(409, "already-done", f"this was made before: see /v1/generations/{record.id}")
    return await _best(service, record, form, {"X-Generation-Id": record.id})


async def _best(service: Service, record: Record, form: GenerationForm, headers: dict[str, str]) -> FileResponse:
    """The file of the take that fits best."""
    assert form.format != "events"
    kind: ResultFile = "mp4" if form.format == "fmp4" else form.format  # there is time for one that seeks
    file = await asyncio.to_thread(result_file, service, record, record.takes[0]["number"], kind)
    return FileResponse(file, media_type=MEDIA_TYPES[kind], headers=headers)


def _refuse_when_full(service: Service, record: Record) -> None:
    """What waits in the background must not wait for ever either."""
    try:
        service.gate.check(record.order.takes, service.settings.limits.deadline_s)
    except Problem:
        service.spool.forget(record.id)
        raise


def _record(record: Record, status: int = 200) -> JSONResponse:
    place = f"/v1/generations/{record.id}"
    return JSONResponse(schema.record_body(record), status, headers={"Location": place} if status == 202 else {})


class _Page(StaticFiles):
    """The page for people, which loads nothing from elsewhere and runs nothing that is not a file of its own."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        return response


class _Door:
    """The doorkeeper as HTTP has it."""

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper

    def admit(self, request: Request) -> Key | None:
        """For requests that cost something."""
        return self._doorkeeper.admit(_secret(request))

    def recognise(self, request: Request) -> Key | None:
        """For requests that only look."""
        return self._doorkeeper.recognise(_secret(request))

    @staticmethod
    def owner(key: Key | None) -> str:
        return key.name if key else OPEN


def _secret(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else request.headers.get("x-api-key")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=error.headers, media_type=MEDIA_TYPE)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        kind = str(error.detail).lower().replace(" ", "-") if error.status_code != 405 else "method-not-allowed"
        answer = await problem(request, Problem(error.status_code, kind, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return await problem(request, Problem(422, "invalid-fields", "; ".join(reasons)))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return await problem(request, problem_of(error))
