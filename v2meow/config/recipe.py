"""A recipe: all its sections, and what follows from them."""

from dataclasses import dataclass
from typing import Literal

from v2meow.config.encoders import CodecConfig, JointConfig, SemanticIdsConfig, VisualConfig
from v2meow.config.stages import GenerateConfig, SamplingConfig, StageConfig, StageName, StagesConfig

Strategy = Literal["ddp", "fsdp"]
OnSpike = Literal["stop", "skip", "roll back"]


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """What an untrusted file may cost before it is refused. Seconds, mebibytes, pixels."""

    timeout_s: float
    memory_mib: int
    max_pixels: int
    max_seconds: float


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How videos become clips. A video whose hash falls under `holdout` is never trained on."""

    clip_seconds: float
    hop_seconds: float
    holdout: float
    min_loudness_db: float


@dataclass(frozen=True, kw_only=True)
class ChecksConfig:
    """What `validate` and `check-features` demand of the catalogue."""

    min_clips: int
    min_holdout_videos: int
    max_rejected_share: float
    max_silent_share: float


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How extraction is cut and spread: `batch` clips go through an extractor at once, `shard_clips` into one file.

    With `workers` above 1, or where RAY_ADDRESS is set, Ray Data does the work, if it is installed: that many processes
    for decoding and for each extractor, of which each extractor's takes `gpus` of a GPU. Else one process on this
    machine does it; neither `workers` nor `gpus` changes what is extracted.
    """

    batch: int
    shard_clips: int
    workers: int
    gpus: float


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Who trains a stage, and what happens at a spike; the former changes nothing but how sums are rounded.

    With `workers` above 1, or where RAY_ADDRESS is set, Ray Train does the work, if it is installed: that many
    processes, each with `cpus` cores and `gpus` GPUs, of which each takes its part of every batch; while machines are
    missing it goes on with fewer, but `min_workers` at least. See `train.workers` for `strategy`. A worker that
    dies is replaced up to `max_failures` times. Checkpoints go to `storage`, a folder or an s3:// address that all
    machines reach, "" for the workspace; the newest `keep` of them stay.

    A step spikes when its loss or gradient is no number or, with `spike_factor` above 0, when the norm of its gradient
    is more than that many times the median of the last 100 updates' norms, once 20 are known. `on_spike` says what
    then: `stop` ends training; `skip` leaves out the update of that step, `roll back` goes back to the newest
    checkpoint, or to the beginning, and leaves it out on the way forward: the same weights where arithmetic repeats
    to the bit, and a way out where a machine had computed wrongly. More than 10 left out in a row end training.
    """

    workers: int = 1
    min_workers: int = 1
    cpus: float = 1.0
    gpus: int = 0
    strategy: Strategy = "ddp"
    max_failures: int = 3
    storage: str = ""
    keep: int = 2
    on_spike: OnSpike = "stop"
    spike_factor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out generation: how many videos, in batches of what size, and how many permutations."""

    videos: int
    batch: int
    permutations: int


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """One line of the gate: `metric` of metrics.json must be at least / at most a limit.

    `optional` criteria are passed over where the catalogue cannot give the metric
    (planted truth exists for the synthetic catalogue only).
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a model, given the videos.

    With `commercial_only`, pretrained weights whose licence does not allow commercial use are refused.
    """

    name: str
    seed: int
    media: MediaConfig
    data: DataConfig
    checks: ChecksConfig
    visual: tuple[VisualConfig, ...]
    semantic_ids: SemanticIdsConfig
    codec: CodecConfig
    joint: JointConfig
    extract: ExtractConfig
    stages: StagesConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig
    gate: tuple[CriterionConfig, ...]
    train: TrainConfig = TrainConfig()
    commercial_only: bool = False

    def stage(self, name: StageName) -> StageConfig:
        return getattr(self.stages, name)

    def sampling(self, name: StageName) -> SamplingConfig:
        return getattr(self.generate, name)

    @property
    def semantic_frames(self) -> int:
        """Semantic ids in one training clip."""
        return round(self.data.clip_seconds * self.semantic_ids.rate)

    @property
    def codec_frames(self) -> int:
        """Codec frames in one training clip."""
        return round(self.data.clip_seconds * self.codec.rate)
