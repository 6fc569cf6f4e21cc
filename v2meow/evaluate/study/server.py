"""The server of a study: its page, the media, what a rater is to see, and ratings in.

What leaves it names no system and no kind of pair. It knows nothing of results.
"""

import asyncio
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v2meow.evaluate.study.ballots import Ballots, Cast, Rating
from v2meow.evaluate.study.design import MEDIA, QUESTIONS, WORDS, Study
from v2meow.evaluate.study.order import Shown, plan, rater_of

_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",  # the token stands in the address
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")
_BODY_BYTES = 2048
_BODY_S = 10.0
_ANSWERS = {
    Cast.NEW: (201, "stored"),
    Cast.KNOWN: (200, "stored before"),
    Cast.RATED: (409, "this question on this pair is answered already"),
    Cast.REUSED: (422, "this key was used for another rating"),
    Cast.FULL: (403, "the study has as many raters as it wants"),
}


class Ballot(BaseModel):
    """A rating as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pair: Annotated[str, Field(max_length=16)]
    question: Literal["fit", "music"]
    choice: Annotated[int, Field(ge=-2, le=2)]
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
    heard_left_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    heard_right_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def make_app(study: Study, folder: Path, ballots: Ballots, invited: Collection[str] | None = None) -> ASGIApp:
    """The application over the study in `folder`. With `invited`, only these tokens can rate."""
    app = FastAPI(title=study.title, openapi_url=None)
    _handle_errors(app)
    media = {item.file: folder / MEDIA / item.file for item in study.items.values()}

    def rater(request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token) or (invited is not None and token not in invited):
            raise HTTPException(401, "this address is not an invitation to the study", {"WWW-Authenticate": "Bearer"})
        return rater_of(study, token)

    @app.get("/v1/plan")
    def show_plan(request: Request) -> JSONResponse:
        name = rater(request)
        done = [[one.pair, one.question] for one in ballots.of(name)]
        return JSONResponse(_shown(study, plan(study, name)) | {"done": done}, headers={"Cache-Control": "no-store"})

    @app.post("/v1/ratings")
    async def rate(request: Request) -> JSONResponse:
        name = rater(request)
        rating = _rating(study, name, await _body(request))
        status, words = _ANSWERS[await asyncio.to_thread(ballots.cast, rating)]
        return JSONResponse({"detail": words}, status)

    @app.get("/media/{name}")
    def show_media(name: str) -> Response:
        if name not in media:
            raise HTTPException(404)
        return FileResponse(media[name], media_type="video/mp4", headers={"Cache-Control": "max-age=86400, immutable"})

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return _Guarded(app)


def _shown(study: Study, pairs: list[Shown]) -> dict[str, Any]:
    def address(item: str) -> str:
        return f"media/{study.items[item].file}"

    return {
        "study": study.id,
        "title": study.title,
        "intro": study.intro,
        "thanks": study.thanks,
        "listen_s": study.listen_s,
        "questions": [{"name": name, "words": WORDS[name]} for name in QUESTIONS],
        "pairs": [{"id": one.pair.id, "left": address(one.left), "right": address(one.right)} for one in pairs],
    }


def _rating(study: Study, rater: str, body: bytes) -> Rating:
    try:
        ballot = Ballot.model_validate_json(body)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors())
        raise HTTPException(422, "; ".join(reasons)) from error
    shown = {one.pair.id: one for one in plan(study, rater)}
    if ballot.pair not in shown:
        raise HTTPException(422, "pair: not one that this rater sees")
    return Rating(rater=rater, swapped=shown[ballot.pair].swapped, **ballot.model_dump())


async def _body(request: Request) -> bytes:
    """The body, if it is small and comes soon."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > _BODY_BYTES:
                    raise HTTPException(413, f"a rating has {_BODY_BYTES} bytes at most", {"Connection": "close"})
    except TimeoutError:
        raise HTTPException(408, "the rating took too long to arrive", {"Connection": "close"}) from None
    return b"".join(parts)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


class _Guarded:
    """An application whose every answer has the headers that keep a browser from doing more than it must."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-cache")  # the page's files belong together
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)
