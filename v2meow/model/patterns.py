"""Code layouts as values: how codes [B, K, T] of K codebooks become a sequence of S steps.

A layout says for each step and codebook which frame is placed there, or none. One step carries at
most one frame of each codebook:

    flatten   S = T * K    one code a step, codebook by codebook within a frame (AudioLM, the paper's)
    delay     S = T + K-1  codebook k shifted by k steps (MusicGen, arXiv 2306.05284, section 2.2)
    parallel  S = T        all codebooks of a frame at its step, for decoding that is not step by step
                           (SoundStorm, arXiv 2305.09636)

Nothing here knows what the codes mean.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

UNKNOWN = -1  # a code that is still to be sampled
NOTHING = -1  # a place of the sequence that carries no code
DELAY, FLATTEN, PARALLEL = "delay", "flatten", "parallel"


@dataclass(frozen=True, eq=False)
class Layout:
    """`frame` [S, K]: index of the frame placed at step s for codebook k, or NOTHING."""

    frame: Tensor

    @property
    def steps(self) -> int:
        return self.frame.shape[0]

    @property
    def places(self) -> Tensor:
        """[S, K] bool: where the sequence carries a code."""
        return self.frame != NOTHING

    @cached_property
    def _whole(self) -> list[int]:
        """For 0 … S steps the number of frames whose codes are all within them: the first frame still to come."""
        frames = int(self.frame.max()) + 1
        later = self.frame.masked_fill(~self.places, frames).amin(1)
        return [*later.flip(0).cummin(0).values.flip(0).tolist(), frames]

    def whole_frames(self, steps: int) -> int:
        """How many frames have all of their codes within the first `steps` steps."""
        return self._whole[steps]

    def build(self, codes: Tensor, empty: int) -> Tensor:
        """Codes [B, K, T] → sequence [B, S, K]; places without a code hold `empty`."""
        assert codes.shape[1] == self.frame.shape[1], (codes.shape, self.frame.shape)
        index = self.frame.clamp(min=0).T.expand(codes.shape[0], -1, -1)  # [B, K, S]
        sequence = codes.gather(2, index).transpose(1, 2)
        return sequence.masked_fill(~self.places, empty)

    def revert(self, sequence: Tensor) -> Tensor:
        """Sequence [B, S, K] → codes [B, K, T]: the inverse of `build`."""
        assert sequence.shape[1:] == self.frame.shape, (sequence.shape, self.frame.shape)
        step, codebook = self.places.nonzero(as_tuple=True)
        frames = int(self.frame.max()) + 1
        codes = sequence.new_empty(sequence.shape[0], self.frame.shape[1], frames)
        codes[:, codebook, self.frame[step, codebook]] = sequence[:, step, codebook]
        return codes


@lru_cache(maxsize=256)
def layout(name: str, codebooks: int, frames: int) -> Layout:
    """The layout `name` for K = `codebooks` and T = `frames`. ValueError for an unknown name."""
    if name == DELAY:
        step = torch.arange(frames + codebooks - 1)[:, None]
        frame = step - torch.arange(codebooks)
        return Layout(frame.masked_fill((frame < 0) | (frame >= frames), NOTHING))
    if name == FLATTEN:
        step = torch.arange(frames * codebooks)[:, None]
        here = step % codebooks == torch.arange(codebooks)
        return Layout((step // codebooks).expand(-1, codebooks).masked_fill(~here, NOTHING))
    if name == PARALLEL:
        return Layout(torch.arange(frames)[:, None].expand(-1, codebooks))
    raise ValueError(f"layout {name!r} is not one of {DELAY}, {FLATTEN}, {PARALLEL}")
