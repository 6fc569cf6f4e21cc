"""The service behind the API, whatever carries it: which models it serves, and the generations it works on.

Knows nothing of HTTP, nor of where the parts of the cascade are.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from serving.admission import Gate
from serving.choice import Choice, Served, resolve, shares, standing
from serving.editions import Edition, write_served
from serving.generation import Generation
from serving.meters import Meters
from serving.performance import Parts
from serving.performing import Performing
from serving.problems import Problem
from serving.rehearsal import rehearse
from serving.settings import ModelShare, Settings
from serving.spool import Record, Spool
from v2meow.config import MediaConfig, Recipe
from v2meow.generate.parts import bundle_recipe
from v2meow.generate.watermark import read_secret

log = logging.getLogger("v2meow.serving")
_SHOW_S = 2.0
_SILENCE_S = 15.0  # after which another process takes it over
_ATTEMPTS = 3
_PATIENCE_TICKS = 6  # so many looks at the registry after which a model that failed is tried again


class Service:
    """One ingress process. `start` before anything else, `stop` at the end."""

    def __init__(self, settings: Settings, parts: Parts, meters: Meters) -> None:
        self.settings, self.parts, self.meters = settings, parts, meters
        self._secret = read_secret(Path(settings.watermark)) if settings.watermark else None
        self.gate = Gate(settings.limits.running, settings.limits.waiting)
        self.spool = Spool(Path(settings.spool), settings.keep_s)
        self.choice = Choice([])
        self.trouble: dict[str, str] = {}  # names of models that cannot be served as asked, and why
        self._models: tuple[ModelShare, ...] = ()
        self._asked: dict[str, str | None] = {}  # what each name stood for when it was tried last
        self._recipes: dict[str, Recipe] = {}
        self._adopting = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.performing: dict[str, Performing] = {}
        self._chores: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """Whether a request would be answered by a model that has been tried."""
        return bool(self.choice.served)

    async def start(self, models: tuple[ModelShare, ...]) -> None:
        """Try the models, then take requests. What the first of them raises, when none can be served."""
        await self.adopt(models)
        if not self._chores:
            self._chores = [asyncio.ensure_future(chore) for chore in (self._follow(), self._sweep(), self._show())]

    async def stop(self) -> None:
        """Give up what is under way."""
        tasks = [*self._chores, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- models

    async def adopt(self, models: tuple[ModelShare, ...]) -> None:
        """Serve these from now on: each new one is loaded aside and tried first, and those that fail change nothing.

        A stage that is empty again has no share any more, unless nothing else is left to serve.
        """
        async with self._adopting:
            before = {one.name: one for one in self.choice.served}
            served, errors = [], []
            for name, share in shares(models).items():
                try:
                    self._asked[name] = await asyncio.to_thread(standing, name, self._workspace)
                    served.append(Served(name, await self._tried(name), share))
                    self.trouble.pop(name, None)
                except Exception as error:
                    log.exception("model %s is not served as asked", name)
                    self.trouble[name] = str(error) or type(error).__name__
                    errors.append(error)
                    if name in before and self._asked.get(name):  # else its stage was emptied
                        served.append(Served(name, before[name].edition, share))
            if not any(one.share for one in served):
                served = list(self.choice.served)
                if errors and not served:
                    raise errors[0]
            self._models, self.choice = models, Choice(served)
            await asyncio.to_thread(write_served, self.spool.folder, [one.edition for one in served])
            self.trouble = {name: reason for name, reason in self.trouble.items() if name in shares(models)}

    @property
    def _workspace(self) -> Path | None:
        return Path(self.settings.workspace) if self.settings.workspace else None

    async def _tried(self, name: str) -> Edition:
        """The edition of a name, after a rehearsal if it is a new one."""
        edition = await asyncio.to_thread(resolve, name, self._workspace)
        if edition.digest not in {one.edition.digest for one in self.choice.served}:
            recipe = await asyncio.to_thread(bundle_recipe, Path(edition.folder))
            await rehearse(self.parts, edition, recipe)
            self._recipes[edition.digest] = recipe
            log.info("model %s, %s, is served", edition.label, edition.digest[:12])
        return edition

    async def _follow(self) -> None:
        """Look again and again which versions hold the stages that are served; try again what failed, less often."""
        for tick in count(1):
            await asyncio.sleep(self.settings.refresh_s)
            with suppress(OSError, ValueError):  # a registry that is away for a moment changes nothing
                again = bool(self.trouble) and tick % _PATIENCE_TICKS == 0
                if again or await asyncio.to_thread(self._has_moved, self._models):
                    await self.adopt(self._models)

    def _has_moved(self, models: tuple[ModelShare, ...]) -> bool:
        """Whether a name stands for another version than the one that was tried last."""
        return any(standing(name, self._workspace) != self._asked.get(name) for name in shares(models))

    @property
    def media(self) -> MediaConfig:
        """What one file may cost, by the model that is served."""
        return self._recipes[self.choice.served[0].edition.digest].media

    async def _show(self) -> None:
        while True:
            self.meters.pieces(self.gate.inside, self.gate.queued)
            await asyncio.sleep(_SHOW_S)

    # ---- generations

    async def prepared(self, record: Record, patience: float) -> Performing:
        """A generation that has its place, has seen its video and is about to play. Problem, and the record says so.

        Whoever asks for it calls `leave` at the end, whatever happened.
        """
        performing = Performing(self, record, patience)
        await performing.begin()
        return performing

    def begin(self, record: Record, ended: Callable[[], None] = lambda: None) -> None:
        """Work on a generation in the background; `ended` is called at its end."""
        task = asyncio.ensure_future(self._work(record))
        self._running[record.id] = task
        task.add_done_callback(lambda _: (self._running.pop(record.id, None), ended()))

    async def cancel(self, record: Record) -> None:
        """Give a generation up. Another process where it runs does so as soon as it is forgotten."""
        if performing := self.performing.get(record.id):
            performing.give_up()
            await performing.gone()
        task = self._running.get(record.id)
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not record.ended:
            record.status = "cancelled"
            with suppress(FileNotFoundError):
                self.spool.save(record)

    async def _work(self, record: Record) -> None:
        try:
            await (await self.prepared(record, self.settings.limits.deadline_s)).finish()
        except Problem as problem:
            log.info("generation %s ended: %s", record.id, problem.kind)

    async def _sweep(self) -> None:
        """Take over what a process that died has left, and remove what has expired."""
        while True:
            await asyncio.sleep(_SILENCE_S / 3)
            try:
                await asyncio.to_thread(self.spool.tidy)
                for record in await asyncio.to_thread(self.spool.pending):
                    self._adopt_orphan(record)
            except OSError:
                log.exception("the spool cannot be swept")

    def _adopt_orphan(self, record: Record) -> None:
        at_work = record.id in self._running or record.id in self.performing
        if record.ended or at_work or self.spool.silent_for(record.id) < _SILENCE_S:
            return
        if not self.spool.take_over(record):
            return
        record.attempts += 1
        if record.mode == "async" and record.attempts < _ATTEMPTS:
            log.warning("generation %s was left by a process that died: attempt %d", record.id, record.attempts + 1)
            record.takes = []
            self.spool.save(record)
            self.begin(record)
        else:
            reason = Problem(503, "process-lost", "the process that made this music died: ask again", retry_after=1.0)
            record.status, record.error = "failed", reason.body
            self.spool.save(record)

    def generation(self, record: Record) -> Generation:
        """The record's generation with the edition that its order asks for, or that its share draws."""
        edition = self.choice.pick(record.model.get("digest") or record.order.model)
        return Generation(record, self.spool, self.parts, edition, self._recipes[edition.digest], self._secret)
