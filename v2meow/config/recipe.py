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
    """How videos become clips. A group of near-copies whose hash falls under `holdout` is never trained on.

    `source` is where `v2meow data pull` looks for videos: a folder or s3://bucket/prefix, "" for nowhere. With
    `licences`, videos whose sidecar names none of them are rejected. With `scene_threshold` above 0 clips do not
    cross cuts: it is what ContentDetector of PySceneDetect calls so, 27 there.
    """

    clip_seconds: float
    hop_seconds: float
    holdout: float
    min_loudness_db: float
    source: str = ""
    licences: tuple[str, ...] = ()
    scene_threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChecksConfig:
    """What `validate` and `check-features` demand of the catalogue.

    Clips that are silent or clipped for more than a share of their time, quieter than `min_clip_lufs` or less musical
    than `min_music_score` (see `data.measure`; 0 asks for nothing) are quarantined, up to `max_quarantined_share` of
    them. Codebooks of which less than a share of the entries, or of the entropy, is used are warned of.
    """

    min_clips: int
    min_holdout_videos: int
    max_rejected_share: float
    max_silent_share: float
    max_clip_silence: float = 0.9
    max_clip_clipping: float = 0.1
    min_clip_lufs: float = -60.0
    min_music_score: float = 0.0
    max_quarantined_share: float = 0.2
    min_codebook_usage: float = 0.1
    min_codebook_entropy: float = 0.3


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
    """Held-out generation: how many videos, in batches of what size, and how many permutations.

    `audit_clips` of them are scored anew with their pictures changed; with fewer than 9 nothing could stand out.
    """

    videos: int
    batch: int
    permutations: int
    audit_clips: int = 12


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """One line of the gate: `metric` of metrics.json must be at least / at most a limit, or no worse than production's.

    With `not_worse_than_production` the metric is one of those that both models were measured by on the same clips
    (`production` in metrics.json); it fails when the model is worse by more than `tolerance`, beyond the interval, and
    is passed over while nothing is in production. Fewer than `min_samples` clips prove nothing: that fails, too.
    `optional` criteria are passed over where the catalogue cannot give the metric (planted truth exists for the
    synthetic catalogue only).
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    not_worse_than_production: bool = False
    tolerance: float = 0.0
    min_samples: int = 0
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """When the flows make a model anew, and what that may cost; none of it changes the model.

    `cron` is a schedule, "" for none. `data.source` is looked at every `poll_minutes`, 0 for never; videos that were
    never trained on start a retraining once they last `min_new_hours` together, 0 for any. Up to `side_by_side` steps
    that do not need one another run at once. A run ends before it has used more than `max_cpu_hours` or
    `max_gpu_hours`, 0 for no limit. With `store` what it made goes to DVC's remote.
    """

    cron: str = ""
    poll_minutes: float = 0.0
    min_new_hours: float = 0.0
    side_by_side: int = 1
    max_cpu_hours: float = 0.0
    max_gpu_hours: float = 0.0
    store: bool = True


@dataclass(frozen=True, kw_only=True)
class PromotionConfig:
    """What a version in staging must stand before it takes production, at the service `endpoint`, "" for none.

    It is tried with `probes` videos of `seconds` each, then for `watches` times `watch_minutes` beside production
    while it has staging's share of the requests. It fails when more than `max_error_share` of its requests fail, when
    they take longer than `max_slowdown` times production's median, or when a piece of music is of the wrong length,
    quieter than `min_loudness_db` (dBFS) or has more than `max_clipped_share` of its samples at full scale. A person
    who is asked has `approval_hours`.
    """

    endpoint: str = ""
    seconds: float = 2.0
    probes: int = 3
    watches: int = 3
    watch_minutes: float = 10.0
    max_error_share: float = 0.0
    max_slowdown: float = 2.0
    min_loudness_db: float = -60.0
    max_clipped_share: float = 0.01
    approval_hours: float = 72.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a model, given the videos.

    With `commercial_only`, pretrained weights whose licence does not allow commercial use are refused. The stages in
    `approvals` take a version only once a person has approved of it. With `keep_encoders`, encoders are those of the
    model in production, as long as their sections are the same: new videos alone are then extracted.
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
    retrain: RetrainConfig = RetrainConfig()
    promotion: PromotionConfig = PromotionConfig()
    commercial_only: bool = False
    keep_encoders: bool = False
    approvals: tuple[Literal["staging", "production"], ...] = ()

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
