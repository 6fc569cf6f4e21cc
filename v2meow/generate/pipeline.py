"""The cascade of a bundle: from features of a picture to sound, all stages at work at once.

    features of the picture ─► semantic ids ─► coarse codes ─► fine codes ─► codec ─► waveform

Each stage has an engine that decodes windows of any number of pieces together. The stage nearest to the sound
goes first, so that the first second is heard while later ones are still decoded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from v2meow import bundle
from v2meow.config import STAGES, Recipe, StageName
from v2meow.encoders.codec import load_codec
from v2meow.encoders.semantic import load_semantic
from v2meow.generate.parts import StageEngine, TextTower, bundle_recipe, device, stage_engine
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.windows import Window


class Cascade:
    """The three stages, the codec and the text tower of one bundle. Load it once, use it often."""

    def __init__(self, folder: Path, *, pieces: int = 1, verified: str | None = None) -> None:
        """Load a bundle folder for `pieces` at once; more wait. BundleError when a file is missing or changed.

        `verified` is its hash where that was just found. AssetError when its recipe names pretrained weights that are
        not here, or that it may not use; ModelError when they are others than it was trained with.
        """
        self.bundle = verified or bundle.verify(folder)
        self.recipe: Recipe = bundle_recipe(folder)
        self.device = device()
        self.engines: dict[StageName, StageEngine] = {
            name: stage_engine(folder, self.recipe, name, pieces) for name in STAGES
        }
        self.codec = load_codec(folder / "encoders" / "codec")
        self.ids = load_semantic(folder / "encoders" / "semantic")
        self.text = TextTower(folder)
        self._asked: dict[StageName, dict[int, tuple[Piece, Window]]] = {name: {} for name in STAGES}

    def embed_prompt(self, prompt: str) -> Tensor:
        """[width]. PromptError when the model was trained without captions, or the prompt is empty."""
        return self.text.embed(prompt)

    def begin_with(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [t] and codes [K, T] of music [samples] that a piece shall begin with; less than an id is cut off."""
        whole = waveform[None, : len(waveform) // self.ids.hop * self.ids.hop]
        return self.ids.encode(whole)[0], self.codec.encode(whole)[0]

    def generate(
        self, visual: tuple[Tensor, ...], joint: Tensor | None, seconds: float, seeds: Sequence[int]
    ) -> Tensor:
        """Waveforms float32 [B, samples] of `seconds` for features [B, V, width] and one seed a piece.

        `joint` [B, width] is the music-text vector, None without a prompt.
        """
        pieces = []
        for row, seed in enumerate(seeds):
            features, text = tuple(part[row] for part in visual), None if joint is None else joint[row]
            pieces.append(Piece(Brief(visual=features, joint=text, seconds=seconds, seed=seed), self.recipe))
        chunks: list[list[Tensor]] = [[] for _ in pieces]
        for number, chunk in self.stream(pieces):
            chunks[number].append(chunk)
        return torch.stack([torch.cat(parts) for parts in chunks])

    def stream(self, pieces: list[Piece]) -> Iterator[tuple[int, Tensor]]:
        """Sound as it is made: (number of the piece, samples [n]), each piece's in order, chunk by chunk.

        Closing the iterator gives up what is not done and frees its places in the engines at once.
        """
        try:
            yield from self._sound(pieces)
            while any(piece.heard < piece.frames for piece in pieces):
                self._submit(pieces)
                self._step()
                yield from self._sound(pieces)
        finally:
            self._forget(pieces)

    def _submit(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            for stage, window, request in piece.due():
                self._asked[stage][self.engines[stage].submit(request)] = piece, window

    def _step(self) -> None:
        """One step of the stage nearest to the sound that has anything to do; its codes go to whose they are."""
        stage: StageName = next(name for name in reversed(STAGES) if self.engines[name].busy)
        engine, asked = self.engines[stage], self._asked[stage]
        for ticket, codes in engine.step().items():
            piece, window = asked.pop(ticket)
            piece.deliver(stage, window, codes)
        for ticket, (piece, window) in asked.items():
            if self._is_awaited(stage, piece, window.start + engine.frames(ticket)):
                piece.deliver(stage, window, engine.peek(ticket))

    def _forget(self, pieces: list[Piece]) -> None:
        """Free what these pieces still hold in the engines."""
        for stage, asked in self._asked.items():
            for ticket in [ticket for ticket, (piece, _) in asked.items() if piece in pieces]:
                self.engines[stage].cancel(ticket)
                del asked[ticket]

    def _is_awaited(self, stage: StageName, piece: Piece, frames: int) -> bool:
        """Whether a next stage, or the ear, waits for the first `frames` frames of a window that is not done yet."""
        need = self._next_chunk(piece)[1] if stage == "fine" else piece.needs(stage)
        return need is not None and piece.ready[stage] < need <= frames

    def _next_chunk(self, piece: Piece) -> tuple[int, int]:
        """Where the next chunk of a piece ends, and how many frames must be there to decode it."""
        return piece.chunk_end, min(piece.frames, piece.chunk_end + self.codec.context[1])

    def _sound(self, pieces: list[Piece]) -> Iterator[tuple[int, Tensor]]:
        """Decode what can be decoded. Chunks stand on a fixed grid, so that they are the same however codes arrive."""
        rate, hop = self.codec.config.sample_rate, self.codec.config.hop
        for number, piece in enumerate(pieces):
            while piece.heard < piece.frames and piece.ready["fine"] >= self._next_chunk(piece)[1]:
                first, end = piece.heard, self._next_chunk(piece)[0]
                chunk = self.codec.decode_part(piece.codes[None], first, end)[0]
                piece.heard = end
                yield number, chunk[: round(piece.brief.seconds * rate) - first * hop]
