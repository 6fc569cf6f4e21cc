"""The encoders that a recipe may name, each by its `kind`: those that are trained here, and pretrained ones.

An `asset` names pretrained weights, see `v2meow assets`. What follows from those weights (widths, sizes of pictures)
is not repeated in a recipe. Rates are in Hz.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Colour, edges, motion and cuts of small frames, without weights: `size` pixels, squeezed to a square."""

    kind: Literal["motion"]
    rate: float
    size: int


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Image embeddings of CLIP through open_clip; `model` is its architecture, such as ViT-L-14."""

    kind: Literal["clip"]
    asset: str
    model: str
    rate: float
    batch: int
    bfloat16: bool


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """I3D over optical flow: a row every 1 / rate seconds of the `window_frames` around it, read at `frame_rate`."""

    kind: Literal["i3d-flow"]
    asset: str
    rate: float
    frame_rate: float
    window_frames: int
    batch: int
    bfloat16: bool


@dataclass(frozen=True, kw_only=True)
class VisualTokensConfig:
    """Discrete tokens of a VQ image model, looked up in its codebook and averaged over a `grid` x `grid` raster."""

    kind: Literal["vq-tokens"]
    asset: str
    rate: float
    grid: int
    batch: int
    bfloat16: bool


VisualConfig = MotionConfig | ClipConfig | FlowConfig | VisualTokensConfig


@dataclass(frozen=True, kw_only=True)
class MelIdsConfig:
    """Semantic ids: k-means `clusters` over a log-mel spectrogram of `mels` bands, fitted on `sample_frames`."""

    kind: Literal["mel"]
    rate: int
    mels: int
    clusters: int
    sample_frames: int


@dataclass(frozen=True, kw_only=True)
class PretrainedIdsConfig:
    """Semantic ids: k-means over hidden states of `layer` of a self-supervised music or speech model."""

    kind: Literal["w2v-bert", "mert", "musicfm"]
    asset: str
    layer: int
    rate: int
    clusters: int
    sample_frames: int
    bfloat16: bool


SemanticIdsConfig = MelIdsConfig | PretrainedIdsConfig


@dataclass(frozen=True, kw_only=True)
class LappedCodecConfig:
    """A small codec that is trained here: residual vector quantization of `levels` codebooks of `bins` entries.

    `companding` is the power that coefficients are raised to before they are quantized, so that
    quiet partials weigh more than their energy; `blocks` residual blocks stand on each side.
    """

    kind: Literal["lapped-encodec"]
    sample_rate: int
    hop: int
    levels: int
    bins: int
    companding: float
    blocks: int
    sample_frames: int
    steps: int
    batch: int
    segment_seconds: float
    learning_rate: float

    @property
    def rate(self) -> int:
        """Frames a second."""
        return self.sample_rate // self.hop


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    """EnCodec as published, at `sample_rate` 24000 or 48000 and `bandwidth` in kbit/s."""

    kind: Literal["encodec"]
    asset: str
    sample_rate: Literal[24000, 48000]
    bandwidth: float

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return 320

    @property
    def rate(self) -> int:
        """Frames a second."""
        return self.sample_rate // self.hop

    @property
    def bins(self) -> int:
        """Entries of a codebook."""
        return 1024

    @property
    def levels(self) -> int:
        """Codebooks that the bandwidth pays for, of 10 bits a frame each."""
        return int(1000 * self.bandwidth // (10 * self.rate))


CodecConfig = LappedCodecConfig | EncodecConfig


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """The music-text model: two towers into one space of `width`, trained contrastively."""

    kind: Literal["two-tower"]
    width: int
    text_buckets: int
    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class ClapConfig:
    """CLAP through transformers: audio and text in one space."""

    kind: Literal["clap"]
    asset: str
    batch: int
    bfloat16: bool


JointConfig = TwoTowerConfig | ClapConfig
