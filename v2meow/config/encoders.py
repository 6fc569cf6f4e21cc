"""The encoders that a recipe may name, each by its `kind`: those that are trained here, and pretrained ones.

An `asset` names pretrained weights, see `v2meow assets`. What follows from those weights (widths, sizes of pictures)
is not repeated in a recipe. Rates are in Hz.
"""

from dataclasses import dataclass
from typing import Literal


class _PictureByPicture:
    """A row of features for each picture that is read."""

    rate: float

    @property
    def frame_rate(self) -> float:
        """Pictures read a second."""
        return self.rate

    @property
    def context_seconds(self) -> float:
        """How far from its own time the pictures lie that a row depends on."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class MotionConfig(_PictureByPicture):
    """Colour, edges, motion and cuts of small frames, without weights: `size` pixels, squeezed to a square."""

    kind: Literal["motion"]
    rate: float
    size: int

    @property
    def whole(self) -> bool:
        """Whether pictures keep their aspect: then their shorter side has at most `size` pixels."""
        return False

    @property
    def context_seconds(self) -> float:
        """Motion is measured against the picture before."""
        return 1 / self.rate


@dataclass(frozen=True, kw_only=True)
class ClipConfig(_PictureByPicture):
    """Image embeddings of CLIP through open_clip; `model` is its architecture, such as ViT-L-14."""

    kind: Literal["clip"]
    asset: str
    model: str
    rate: float
    batch: int
    bfloat16: bool

    @property
    def size(self) -> int:
        """So large that a model's own scaling, to 224…512 pixels, comes out as from the full picture.

        Measured on the way from 1920 x 1080 to 224: within 1 grey level by 640 pixels, 4 by 512.
        """
        return 640

    @property
    def whole(self) -> bool:
        """Pictures keep their aspect: what is cut off, or squeezed, is the model's own affair."""
        return True


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

    @property
    def size(self) -> int:
        """Pixels of the shorter side, as in Kinetics (Carreira & Zisserman, arXiv 1705.07750, section 3)."""
        return 256

    @property
    def whole(self) -> bool:
        """A squeezed picture would move slower one way than the other."""
        return True

    @property
    def context_seconds(self) -> float:
        """Half a window, and one picture more for its last flow."""
        return (self.window_frames / 2 + 1) / self.frame_rate


@dataclass(frozen=True, kw_only=True)
class VisualTokensConfig(_PictureByPicture):
    """Discrete tokens of a VQ image model, looked up in its codebook and averaged over a `grid` x `grid` raster.

    Pictures are squeezed to a square of `size` pixels, so that the raster covers the whole of them.
    """

    kind: Literal["vq-tokens"]
    asset: str
    rate: float
    size: int
    grid: int
    batch: int
    bfloat16: bool

    @property
    def whole(self) -> bool:
        """The raster is a square."""
        return False


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
    """Semantic ids: k-means over hidden states after `layer` layers of a self-supervised music or speech model."""

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
    quiet partials weigh more than their energy; `blocks` residual blocks stand on each side. Codebooks are fitted to
    `sample_frames`; `beam` sums are kept while codes are sought. An `adversarial_weight` above 0 trains against
    EnCodec's discriminator of `discriminator_filters` channels: the weight of each of its two losses beside log-mel's.
    """

    kind: Literal["lapped-encodec"]
    sample_rate: int
    hop: int
    levels: int
    bins: int
    companding: float
    blocks: int
    beam: int
    sample_frames: int
    steps: int
    batch: int
    segment_seconds: float
    learning_rate: float
    adversarial_weight: float
    discriminator_filters: int

    @property
    def rate(self) -> int:
        """Frames a second."""
        return self.sample_rate // self.hop


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    """EnCodec as published, at `sample_rate` 24000 or 48000 and `bandwidth` in kbit/s.

    With `bfloat16` it decodes 1.6 times as fast; on CPUs without AVX512-BF16 it is 100 times slower.
    """

    kind: Literal["encodec"]
    asset: str
    sample_rate: Literal[24000, 48000]
    bandwidth: float
    bfloat16: bool = False

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
    """CLAP through transformers: audio and text in one space; `batch` windows or texts go through it at once."""

    kind: Literal["clap"]
    asset: str
    batch: int
    bfloat16: bool


JointConfig = TwoTowerConfig | ClapConfig
