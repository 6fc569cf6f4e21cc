"""The engine of one stage: continuous batching over one preallocated key-value cache.

Requests join and leave at any step; all that are inside advance by one step at a time. A request takes as many
rows of the cache as guidance needs copies of it, and its logits are their weighted sum. How many steps a request
takes is known beforehand, so the host never waits for the device inside a step. It knows ids and features, not
codecs, files, text or windows.

Legend: K codebooks, T frames.
"""

from collections import deque
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.graphs import Graphs
from v2meow.generate.guidance import GuidanceRow, distinct, repeat
from v2meow.generate.linear import Precision
from v2meow.generate.request import Request, join
from v2meow.generate.sampling import random_numbers
from v2meow.generate.state import Extent, State
from v2meow.model.lm import Conditions, TokenLM
from v2meow.model.patterns import UNKNOWN, Layout
from v2meow.model.transformer import KeyValues

_UNGUIDED = GuidanceRow(video=True, text=True, weight=1.0)


@dataclass(eq=False)
class _Entry:
    """A request and what the host knows of it while it waits or is inside."""

    ticket: int
    request: Request
    layout: Layout
    copies: list[GuidanceRow]
    sequence: Tensor  # [S, K]
    rows: list[int] = field(default_factory=list)
    step: int = 0  # of so many steps the codes are there
    offset: int = 0  # places of the prefix
    memory: int = 0  # places of the memory


def _state_class(device: torch.device) -> type[State]:
    """The compiled one on CPUs, where Numba is installed."""
    if device.type != "cpu" or find_spec("numba") is None:
        return State
    from v2meow.generate.native.state import NativeState  # here, so that generation needs torch alone

    return NativeState


class Engine:
    """Decodes requests of one causal stage: `submit`, then `step` until the ticket is among what it returns."""

    @torch.inference_mode()
    def __init__(
        self, model: TokenLM, config: SamplingConfig, *, rows: int, seconds: float, precision: Precision = "float32"
    ) -> None:
        """Takes `model` over and rounds its weights: use it through the engine only.

        `rows` of cache are shared by all requests; windows of up to `seconds` fit into each.
        """
        assert model.causal, "a stage of layout parallel has an engine of its own"
        self.model, self.config = model.eval(), config
        self._state = _state_class(self._device)(model, config, precision, rows, seconds)
        self._run = Graphs(self._state) if self._device.type == "cuda" else self._state.run
        self._queue: deque[_Entry] = deque()
        self._inside: list[_Entry] = []
        self._done: dict[int, Tensor] = {}
        self._tickets = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._inside or self._queue or self._done)

    @property
    def load(self) -> tuple[int, int, int]:
        """Rows in use, rows there are, and requests that wait for one."""
        return self._used, self._state.rows, len(self._queue)

    def submit(self, request: Request) -> int:
        """Queue a request; its ticket. ValueError for one that does not fit into the engine at all."""
        codes = request.known[None].to(self._device)
        layout, copies = self.model.layout(codes.shape[2]), request.rows(self.model.spec, self.config)
        self._refuse_misfit(request, layout, copies)
        self._tickets += 1
        if (request.known == UNKNOWN).any():
            sequence = layout.build(codes, self.model.empty)[0]
            first = int((sequence == UNKNOWN).any(-1).nonzero()[0])
            self._queue.append(_Entry(self._tickets, request, layout, copies, sequence, step=first))
        else:
            self._done[self._tickets] = request.known
        return self._tickets

    def _refuse_misfit(self, request: Request, layout: Layout, copies: list[GuidanceRow]) -> None:
        state, given = self._state, request.given
        pictures = sum(features.shape[1] for features in given.visual)
        prefix = 0 if given.prefix is None else given.prefix.shape[2] + pictures
        needs = {
            "steps": (layout.steps, state.steps),
            "rows": (len(copies), state.rows),
            "pictures": (pictures, state.pictures),
            "places of prefix": (prefix, state.prefix),
        }
        short = [f"{need} {name}, it has room for {room}" for name, (need, room) in needs.items() if need > room]
        if short:
            raise ValueError(f"a request does not fit into the engine: {'; '.join(short)}")

    @torch.inference_mode()
    def step(self) -> dict[int, Tensor]:
        """Let in who waits and fits, advance all by one step, and return the codes [K, T] of those that are done."""
        done, self._done = self._done, {}
        self._admit()
        if not self._inside:
            return done
        self._run(self._extent())
        for entry in self._inside:
            entry.step += 1
        for entry in [entry for entry in self._inside if entry.step == entry.layout.steps]:
            done[entry.ticket] = self._codes(entry)
            self._release(entry)
        return done

    def frames(self, ticket: int) -> int:
        """How many frames of a request are whole so far; none while it waits."""
        entry = next((entry for entry in self._inside if entry.ticket == ticket), None)
        return entry.layout.whole_frames(entry.step) if entry else 0

    @torch.inference_mode()
    def peek(self, ticket: int) -> Tensor:
        """The codes [K, frames] of those frames."""
        entry = next(entry for entry in self._inside if entry.ticket == ticket)
        return self._codes(entry)[:, : entry.layout.whole_frames(entry.step)]

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """Forget a request, at once; one that is unknown or done is no error."""
        self._done.pop(ticket, None)
        self._queue = deque(entry for entry in self._queue if entry.ticket != ticket)
        for entry in [entry for entry in self._inside if entry.ticket == ticket]:
            self._release(entry)

    @torch.inference_mode()
    def favourites(self, requests: list[Request]) -> list[Tensor]:
        """For each of these requests, whose codes are all known, the likeliest codes [K, T] after those before them.

        Steps and cache are those of decoding, so that what is wrong with them shows; nothing is drawn. A request takes
        one row, which keeps all its conditions: guidance is left out. Requests must be alike, and the engine without
        others. ValueError for one that does not fit into the engine at all.
        """
        assert not self.busy, self.load
        assert all(request.alike(requests[0]) for request in requests), "requests of different shapes"
        entries = [self._known_entry(request) for request in requests]
        groups = [entries[first : first + self._state.rows] for first in range(0, len(entries), self._state.rows)]
        return [codes for group in groups for codes in self._favourites_of(group)]

    # ---- inside

    @property
    def _device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def _used(self) -> int:
        return sum(len(entry.rows) for entry in self._inside)

    def _extent(self) -> Extent:
        """What the next step has to cover."""
        memory = {entry.memory for entry in self._inside}
        places = {entry.offset + entry.step for entry in self._inside}
        return Extent(
            requests=len(self._inside),
            rows=self._used,
            span=max(places) + 1,
            memory=max(memory),
            level=len(places) == 1,
            even=len(memory) == 1,
            single=all(entry.rows == [slot] for slot, entry in enumerate(self._inside)),
            copies=max(len(entry.rows) for entry in self._inside),
        )

    def _codes(self, entry: _Entry) -> Tensor:
        """The codes [K, T] of a request that is inside, on the CPU; UNKNOWN where they are still to come."""
        slot = self._inside.index(entry)
        return entry.layout.revert(self._state.sequence[slot, None, 1 : entry.layout.steps + 1])[0].cpu()

    def _admit(self) -> None:
        """First come, first in, so that nobody waits for ever. Neighbours that are alike are read as one batch."""
        while self._queue:
            first, group, free = self._queue[0], [], self._state.rows - self._used
            while self._queue and (len(group) + 1) * len(first.copies) <= free:
                entry = self._queue[0]
                if not (entry.request.alike(first.request) and entry.step == first.step):
                    break
                group.append(self._queue.popleft())
            if not group:
                return
            self._read(group)

    def _read(self, group: list[_Entry]) -> None:
        """Encode the conditions of new requests and read prefix and known codes into rows behind those in use."""
        state, used, copies, device = self._state, self._used, group[0].copies, self._device
        given = repeat(join([entry.request for entry in group], device), copies)
        remembered = self._memory(given)
        for storage, part in zip(state.decoder.memory, remembered, strict=True):
            if storage and part:
                storage.rows(used, used + len(part.keys)).fill(part.keys, part.values)
        for entry in group:
            slot = len(self._inside)
            entry.rows = list(range(used, used + len(copies)))
            entry.memory = remembered[0].keys.shape[2] if remembered[0] else 0
            state.sequence[slot, 0] = self.model.empty
            state.sequence[slot, 1 : len(entry.sequence) + 1] = entry.sequence
            state.step[slot] = entry.step
            steps = torch.arange(state.steps, device=device)
            state.numbers[slot] = random_numbers(entry.request.seed, steps, self.model.spec.target.levels)
            state.owner[used : used + len(copies)] = slot
            state.heard[used : used + len(copies)] = entry.memory
            self._inside.append(entry)
            used += len(copies)
        first, last = group[0].rows[0], group[-1].rows[-1] + 1
        inputs = state.sequence[state.owner[first:last], : group[0].step]
        places = self.model.fill(inputs, given, [cache.rows(first, last) for cache in state.decoder.cache], remembered)
        for entry in group:
            entry.offset = places - entry.step
            state.offset[self._inside.index(entry)] = entry.offset
        self._weigh()

    def _known_entry(self, request: Request) -> _Entry:
        """A request all of whose codes are known, in one row, from its first step on."""
        assert (request.known != UNKNOWN).all(), request.known
        layout, copies = self.model.layout(request.known.shape[1]), [_UNGUIDED]
        self._refuse_misfit(request, layout, copies)
        sequence = layout.build(request.known[None].to(self._device), self.model.empty)[0]
        return _Entry(0, request, layout, copies, sequence)

    def _favourites_of(self, group: list[_Entry]) -> Tensor:
        """The likeliest codes [Q, K, T] of requests that fit in together, on the CPU."""
        self._read(group)
        found = []
        for _ in range(group[0].layout.steps):
            self._run(self._extent())
            found.append(self._state.favourites(len(group)))
            for entry in group:
                entry.step += 1
        for entry in reversed(group):  # the last first: nobody has to move into a gap
            self._release(entry)
        return group[0].layout.revert(torch.stack(found, 1)).cpu()

    def _memory(self, given: Conditions) -> list[KeyValues | None]:
        """The model's memory of each row's conditions, computed once where rows are alike."""
        rows, place = distinct(given)
        parts = self.model.memory(given.take(rows))
        return [part and KeyValues(part.keys[place], part.values[place]) for part in parts]

    def _release(self, entry: _Entry) -> None:
        """Free the rows of a request at once; the last rows and the last request move into the gaps."""
        slot, last = self._inside.index(entry), len(self._inside) - 1
        for gap in sorted(entry.rows, reverse=True):
            end = self._used - 1
            if gap != end:
                mover = next(other for other in self._inside if end in other.rows)
                self._state.move_row(end, gap)
                mover.rows[mover.rows.index(end)] = gap
            entry.rows.remove(gap)
        if slot != last:
            self._state.move_request(last, slot)
            self._state.owner[self._inside[last].rows] = slot
            self._inside[slot] = self._inside[last]
        self._inside.pop()
        self._weigh()

    def _weigh(self) -> None:
        """Tell the device which rows, with which weights, make up each request's logits."""
        copies, weights = (
            torch.zeros(self._state.copies.shape, dtype=torch.int64),
            torch.zeros(self._state.weights.shape),
        )
        for slot, entry in enumerate(self._inside):
            copies[slot, : len(entry.rows)] = torch.tensor(entry.rows)
            weights[slot, : len(entry.rows), 0, 0] = torch.tensor([copy.weight for copy in entry.copies])
        self._state.copies.copy_(copies)
        self._state.weights.copy_(weights)
