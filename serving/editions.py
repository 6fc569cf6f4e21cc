"""Editions: which bundle a request is made with, and a part of several bundles held side by side.

Which editions are served stands in a file that all processes see: a new one loads them before it is given work.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from v2meow import bundle
from v2meow.config import Recipe
from v2meow.files import read_json, write_json
from v2meow.generate.parts import bundle_recipe

Part = TypeVar("Part")
log = logging.getLogger("v2meow.serving")
_SERVED = "editions.json"


@dataclass(frozen=True)
class Edition:
    """One bundle: its hash, where all processes find it, what it is called, as NAME@v3, and what it was made from."""

    digest: str
    folder: str
    label: str
    data: str | None = None

    def verify(self) -> Path:
        """The folder. BundleError unless it holds the very bundle."""
        found = bundle.verify(Path(self.folder))
        if found != self.digest:
            raise bundle.BundleError(f"{self.folder} is another bundle now: {found[:12]}, not {self.digest[:12]}")
        return Path(self.folder)


@dataclass
class _Held(Generic[Part]):
    part: asyncio.Task[Part]
    users: int = 0

    @property
    def failed(self) -> bool:
        """Whether loading ended without a part: the next one tries again."""
        return self.part.done() and (self.part.cancelled() or self.part.exception() is not None)


class Shelf(Generic[Part]):
    """Loads the part of an edition when it is first used; `room` stay loaded, those used last, and all in use."""

    def __init__(
        self, load: Callable[[Path, Recipe], Part], close: Callable[[Part], object] = lambda _: None, *, room: int
    ) -> None:
        self._load, self._close, self._room = load, close, room
        self._held: OrderedDict[str, _Held[Part]] = OrderedDict()

    @property
    def parts(self) -> list[Part]:
        """Those that are loaded."""
        return [held.part.result() for held in self._held.values() if held.part.done() and not held.failed]

    @asynccontextmanager
    async def use(self, edition: Edition) -> AsyncIterator[Part]:
        """The part of `edition`, loaded aside while others are at work; what loading raises."""
        held = self._held.get(edition.digest)
        if held is None or held.failed:
            held = _Held(asyncio.ensure_future(asyncio.to_thread(self._loaded, edition)))
            self._held[edition.digest] = held
        self._held.move_to_end(edition.digest)
        held.users += 1
        try:
            yield await asyncio.shield(held.part)  # one that goes away must not cancel it for the others
        finally:
            held.users -= 1
            self._tidy()

    async def warm(self, editions: Iterable[Edition]) -> None:
        """Load what there is room for. One that cannot be loaded is left to the request that asks for it."""
        for edition in list(editions)[: self._room]:
            try:
                async with self.use(edition):
                    pass
            except Exception:
                log.warning("model %s could not be loaded beforehand", edition.label, exc_info=True)

    def _loaded(self, edition: Edition) -> Part:
        folder = edition.verify()
        return self._load(folder, bundle_recipe(folder))

    def _tidy(self) -> None:
        for digest in [digest for digest, held in self._held.items() if held.failed]:
            del self._held[digest]
        for digest, held in list(self._held.items())[: max(0, len(self._held) - self._room)]:
            if not held.users and held.part.done():
                del self._held[digest]
                self._close(held.part.result())


def write_served(folder: Path, editions: Iterable[Edition]) -> None:
    """Tell all processes that see `folder` which editions are served now."""
    write_json(folder / _SERVED, [asdict(edition) for edition in editions])


def read_served(folder: Path) -> list[Edition]:
    """Those that were told last; none where nothing was, or nothing that can be read."""
    try:
        return [Edition(**fields) for fields in read_json(folder / _SERVED)]
    except (OSError, TypeError, ValueError):
        return []
