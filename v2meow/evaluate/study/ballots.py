"""The ratings of studies in a database: SQLite in the study's folder, or any other by its URL.

Each rating is stored once and never changed, however often it is sent. The only home of SQLAlchemy.
"""

import re
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from v2meow.evaluate.study.design import StudyError

_RATINGS = Table(
    "v2meow_ratings",
    MetaData(),
    Column("study", String(32), primary_key=True),
    Column("rater", String(32), primary_key=True),
    Column("pair", String(16), primary_key=True),
    Column("question", String(16), primary_key=True),
    Column("key", String(64), nullable=False),
    Column("choice", SmallInteger, nullable=False),
    Column("swapped", Boolean, nullable=False),
    Column("heard_left_s", Float, nullable=False),
    Column("heard_right_s", Float, nullable=False),
    Column("received", Float, nullable=False),
    UniqueConstraint("study", "rater", "key"),
)
_PATIENCE_S = 30.0  # that a writer waits for another


@dataclass(frozen=True, kw_only=True)
class Rating:
    """An answer to one question on one pair.

    `choice` is -2 … 2 from the left to the right side as they were shown; `key` is its sender's name for it;
    `received` is in seconds since 1970, and None before it is stored.
    """

    rater: str
    pair: str
    question: str
    key: str
    choice: int
    swapped: bool
    heard_left_s: float
    heard_right_s: float
    received: float | None = None


class Cast(Enum):
    """What became of a rating that was sent."""

    NEW = "new"
    KNOWN = "known"  # it was stored before
    RATED = "rated"  # another one is stored for this question
    REUSED = "reused"  # its key stands for another rating
    FULL = "full"  # no more raters are let in


class Ballots:
    """The ratings of the study `study` in the database at `url`. For any number of threads and processes."""

    def __init__(self, url: str, study: str, max_raters: int = 1_000_000) -> None:
        self._study, self._max_raters = study, max_raters
        self._engine = _engine(url)
        try:
            _RATINGS.metadata.create_all(self._engine)
        except DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            raise StudyError(f"the database of ratings cannot be opened: {reason}") from error

    def close(self) -> None:
        self._engine.dispose()

    def cast(self, rating: Rating) -> Cast:
        """Store a rating, unless it or another answer to its question is stored."""
        row = {**vars(rating), "study": self._study, "received": time.time()}
        try:
            with self._engine.begin() as connection:
                if self._full_for(connection, rating.rater):
                    return Cast.FULL
                connection.execute(_RATINGS.insert().values(row))
            return Cast.NEW
        except IntegrityError:
            return self._earlier(rating)

    def of(self, rater: str) -> list[Rating]:
        """The ratings of one rater."""
        return self._read(_RATINGS.c.rater == rater)

    def all(self) -> list[Rating]:
        """All ratings of the study, by when they were received."""
        return self._read()

    def _read(self, *conditions: Any) -> list[Rating]:
        columns = [column for column in _RATINGS.c if column.name != "study"]
        query = select(*columns).where(_RATINGS.c.study == self._study, *conditions)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(_RATINGS.c.received, _RATINGS.c.question)).mappings()
            return [Rating(**row) for row in found]  # pyright: ignore[reportArgumentType]

    def _earlier(self, rating: Rating) -> Cast:
        found = self._read(
            _RATINGS.c.rater == rating.rater, _RATINGS.c.pair == rating.pair, _RATINGS.c.question == rating.question
        )
        if not found:
            return Cast.REUSED
        same = (found[0].key, found[0].choice) == (rating.key, rating.choice)
        return Cast.KNOWN if same else Cast.RATED

    def _full_for(self, connection: Any, rater: str) -> bool:
        mine = _RATINGS.c.study == self._study
        known = connection.execute(select(_RATINGS.c.rater).where(mine, _RATINGS.c.rater == rater).limit(1)).first()
        if known is not None:
            return False
        count = connection.execute(select(func.count(_RATINGS.c.rater.distinct())).where(mine)).scalar_one()
        return count >= self._max_raters


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path.absolute()}"


def _engine(url: str) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": _PATIENCE_S}} if url.startswith("sqlite") else {}
    try:
        # A server that was restarted has closed the connections that are kept: they are tried before they are used.
        engine = create_engine(re.sub("^postgres(ql)?:", "postgresql+psycopg:", url), pool_pre_ping=True, **options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise StudyError(f"not the URL of a database: {error}") from error
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer side by side
            connection.execute("PRAGMA synchronous = FULL")  # in WAL a lesser one loses the last ratings with the power

    return engine
