"""`v2meow study serve`: a study folder checked, its database opened, and the page on a port until somebody ends it."""

import signal
import socket
from pathlib import Path

import uvicorn

from v2meow.evaluate.study.ballots import Ballots, sqlite_url
from v2meow.evaluate.study.design import INVITATIONS, MEDIA, RATINGS, Study, StudyError, read_study
from v2meow.evaluate.study.server import make_app
from v2meow.files import sha256

_CONNECTIONS = 1000
_FAREWELL_S = 5


def serve(folder: Path, host: str, port: int, database: str | None) -> None:
    """Serve until SIGINT or SIGTERM. StudyError for a folder that is damaged or a database that cannot be opened."""
    study = read_study(folder)
    check_media(study, folder)
    listening = _listen(host, port)
    ballots = open_ballots(study, folder, database)
    app = make_app(study, folder, ballots, invitations(folder))
    print(_addresses(folder, host, listening.getsockname()[1]), flush=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_FAREWELL_S,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends by them, and then raises them again: to these
        signal.signal(number, lambda *_: None)
    try:
        server.run([listening])
    finally:
        ballots.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise StudyError(f"cannot listen at {host} port {port}: {error.strerror or error}") from error


def open_ballots(study: Study, folder: Path, database: str | None) -> Ballots:
    """The ratings of a study: in its folder, or in the database at a URL."""
    return Ballots(database or sqlite_url(folder / RATINGS), study.id, study.max_raters)


def check_media(study: Study, folder: Path) -> None:
    """StudyError unless every item's file has the bytes that it is named by."""
    for name in sorted({item.file for item in study.items.values()}):
        path = folder / MEDIA / name
        if not path.is_file():
            raise StudyError(f"{path} is missing: copy the study folder whole")
        if f"{sha256(path)}.mp4" != name:
            raise StudyError(f"{path} is damaged: copy the study folder again")


def invitations(folder: Path) -> list[str] | None:
    """The tokens that can rate; None where the study is open to everybody."""
    path = folder / INVITATIONS
    return path.read_text().split()[1:] if path.is_file() else None


def _addresses(folder: Path, host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    place = f"http://{shown}:{port}/"
    closed = f"for each token of {folder / INVITATIONS}: {place}?rater=TOKEN"
    return f"{closed if (folder / INVITATIONS).is_file() else place}\nCtrl-C ends it. What is rated is kept."
