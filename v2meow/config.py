"""The recipe: every choice of a run as frozen, typed, inert values.

One YAML file, read strictly: unknown, missing and ill-typed keys are all reported at once by
their full path (`stages.fine.width`). Derived rates, lengths and vocabulary sizes are properties
here, so that no two files compute them differently. No torch, no I/O beyond reading the file.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

StageName = Literal["semantic", "coarse", "fine"]
STAGES: tuple[StageName, ...] = ("semantic", "coarse", "fine")


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem by its full key."""


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
class VisualConfig:
    """One visual extractor: its kind, frames a second, and the size in pixels frames are read at."""

    kind: Literal["motion"]
    rate: float
    size: int


@dataclass(frozen=True, kw_only=True)
class SemanticIdsConfig:
    """Semantic ids: k-means `clusters` over an audio representation at `rate` Hz."""

    kind: Literal["mel"]
    rate: int
    mels: int
    clusters: int
    sample_frames: int


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The neural codec: residual vector quantization of `levels` codebooks of `bins` entries.

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
class JointConfig:
    """The music-text model: two towers into one space of `width`, trained contrastively."""

    kind: Literal["two-tower"]
    width: int
    text_buckets: int
    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Size and training of one stage. `drop_*` are the shares of examples trained without that condition.

    Layouts `delay` and `flatten` decode step by step, `parallel` (coarse and fine only) in a few passes.

    Training ends after `steps`, or earlier when every example was seen `max_epochs` times. A step's `batch` goes
    through the model in `accumulate` parts, which costs memory for one part only; `checkpoint_activations` computes
    the blocks' activations again in the backward pass instead of keeping them, and `compile` compiles the blocks:
    neither changes what is learnt. `ema` is the decay of the running average of weights that is kept as the model,
    0 for the last weights themselves. Every `checkpoint_steps` steps all that training depends on is saved, and a
    killed run goes on from there.
    """

    layers: int
    encoder_layers: int
    width: int
    heads: int
    feed_forward: int
    dropout: float
    layout: Literal["delay", "flatten", "parallel"]
    window_seconds: float
    drop_video: float
    drop_text: float
    steps: int
    max_epochs: int
    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    accumulate: int
    ema: float
    bfloat16: bool
    checkpoint_activations: bool
    compile: bool
    checkpoint_steps: int


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The three stages; the coarse one makes `coarse_levels` codec levels and may see the picture, too."""

    semantic: StageConfig
    coarse: StageConfig
    fine: StageConfig
    coarse_levels: int
    coarse_sees_video: bool


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How ids are drawn. `top_k` 0 and `top_p` 1 switch those filters off; a guidance of 1 costs nothing.

    `passes` over a window are for layout `parallel`: one for each level, all that are left for the first.
    """

    temperature: float
    top_k: int
    top_p: float
    guide_video: float
    guide_text: float
    passes: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Decoding. `precision` is that of the weights: bfloat16 and int8 decode faster and are judged by the gate."""

    precision: Literal["float32", "bfloat16", "int8"]
    semantic: SamplingConfig
    coarse: SamplingConfig
    fine: SamplingConfig
    context_seconds: float


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
    """Everything that determines a model, given the videos."""

    name: str
    seed: int
    media: MediaConfig
    data: DataConfig
    checks: ChecksConfig
    visual: tuple[VisualConfig, ...]
    semantic_ids: SemanticIdsConfig
    codec: CodecConfig
    joint: JointConfig
    stages: StagesConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig
    gate: tuple[CriterionConfig, ...]

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


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a built-in recipe by name, or of a YAML file; RecipeError when there is neither."""
    for path in (Path(__file__).parent / "recipes" / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise RecipeError(f"no recipe {name!r}: give one of {', '.join(builtin_recipes())}, or the path of a YAML file")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe strictly. RecipeError lists every problem with its full key."""
    import yaml  # here, so that the core imports without it

    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    return parse_recipe(raw, source=str(path))


def parse_recipe(raw: Any, source: str = "recipe") -> Recipe:
    """Build a Recipe from plain values. RecipeError lists every problem with its full key."""
    problems: list[str] = []
    recipe = _build(Recipe, raw, "", problems)
    if not problems:
        problems = [f"{key}: {message}" for key, message in _inconsistencies(recipe)]
    if problems:
        raise RecipeError(f"{source} cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return recipe


def _build(kind: Any, value: Any, key: str, problems: list[str]) -> Any:
    """`value` as `kind`; problems are collected, and the result is meaningless when there are any."""
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, key, problems)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{key}: expected a list, got {value!r}")
            return ()
        return tuple(_build(get_args(kind)[0], item, f"{key}[{i}]", problems) for i, item in enumerate(value))
    if origin is Literal:
        if value not in get_args(kind):
            problems.append(f"{key}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin in (Union, types.UnionType):
        return (
            None
            if value is None
            else _build(next(a for a in get_args(kind) if a is not type(None)), value, key, problems)
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        problems.append(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def _build_dataclass(kind: Any, value: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{key or 'recipe'}: expected a mapping, got {value!r}")
        return None
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            problems.append(f"{prefix}{name}: unknown key" + (f", did you mean {near[0]}?" if near else ""))
    hints, built = get_type_hints(kind), {}
    for name, field in fields.items():
        if name in value:
            built[name] = _build(hints[name], value[name], prefix + name, problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{prefix}{name}: missing")
    return kind(**built) if not problems else None


Rule = tuple[bool, str, str]  # whether it holds, the key it is about, what is asked of the key


def _inconsistencies(recipe: Recipe) -> list[tuple[str, str]]:
    """Keys whose values cannot work together, with what is asked of them."""
    broken = [(key, message) for holds, key, message in _divisor_rules(recipe) if not holds]
    if broken:  # the other rules divide by these
        return broken
    rules = (*_data_rules(recipe), *_encoder_rules(recipe), *_stage_rules(recipe), *_gate_rules(recipe))
    return [(key, message) for holds, key, message in rules if not holds]


def _divisor_rules(recipe: Recipe) -> Iterator[Rule]:
    codec, ids = recipe.codec, recipe.semantic_ids
    divisors = {"codec.sample_rate": codec.sample_rate, "codec.hop": codec.hop, "semantic_ids.rate": ids.rate}
    divisors |= {f"stages.{name}.heads": recipe.stage(name).heads for name in STAGES}
    for key, value in divisors.items():
        yield value > 0, key, "must be positive"


def _data_rules(recipe: Recipe) -> Iterator[Rule]:
    data, rate = recipe.data, recipe.semantic_ids.rate
    yield data.clip_seconds > 0, "data.clip_seconds", "must be positive"
    whole = round(data.clip_seconds * rate, 6).is_integer()
    yield whole, "data.clip_seconds", f"must be a whole number of semantic ids, of 1/{rate} s each"
    yield 0 < data.hop_seconds <= data.clip_seconds, "data.hop_seconds", "must be above 0 and at most clip_seconds"
    yield 0 < data.holdout < 1, "data.holdout", "must lie between 0 and 1"


def _encoder_rules(recipe: Recipe) -> Iterator[Rule]:
    codec, ids = recipe.codec, recipe.semantic_ids
    yield codec.sample_rate % codec.hop == 0, "codec.hop", f"must divide the sample rate {codec.sample_rate}"
    yield 0 < codec.companding <= 1, "codec.companding", "must be above 0 and at most 1"
    yield codec.bins > 1 and codec.bins & (codec.bins - 1) == 0, "codec.bins", "must be a power of two"
    yield codec.sample_rate % ids.rate == 0, "semantic_ids.rate", f"must divide codec.sample_rate {codec.sample_rate}"
    yield codec.rate % ids.rate == 0, "semantic_ids.rate", f"must divide the codec's {codec.rate} Hz"
    yield ids.clusters > 1, "semantic_ids.clusters", "must be at least 2"
    yield recipe.joint.text_buckets > 1, "joint.text_buckets", "must be at least 2"
    yield len(recipe.visual) > 0, "visual", "at least one extractor is needed"
    for i, extractor in enumerate(recipe.visual):
        yield min(extractor.rate, extractor.size) > 0, f"visual[{i}]", "rate and size must be positive"


def _stage_rules(recipe: Recipe) -> Iterator[Rule]:
    levels, clip = recipe.codec.levels, recipe.data.clip_seconds
    kept = 0 < recipe.stages.coarse_levels < levels
    yield kept, "stages.coarse_levels", f"must lie between 0 and codec.levels ({levels})"
    for name in STAGES:
        stage, sampling, key = recipe.stage(name), recipe.sampling(name), f"stages.{name}"
        yield stage.width % stage.heads == 0, f"{key}.width", f"{stage.width} is not divisible by {stage.heads} heads"
        even = (stage.width // stage.heads) % 2 == 0
        yield even, f"{key}.heads", "the width of a head must be even for rotary positions"
        fits = 0 < stage.window_seconds <= clip
        yield fits, f"{key}.window_seconds", "must be above 0 and at most data.clip_seconds"
        positive = min(stage.layers, stage.steps, stage.batch, stage.max_epochs) > 0
        yield positive, key, "layers, steps, max_epochs and batch must be positive"
        drops = (stage.dropout, stage.drop_video, stage.drop_text)
        yield min(drops) >= 0 and max(drops) <= 1, key, "dropout, drop_video and drop_text are shares of 1"
        yield from _training_rules(stage, key)
        yield sampling.temperature > 0, f"generate.{name}.temperature", "must be positive"
        yield 0 < sampling.top_p <= 1, f"generate.{name}.top_p", "must be above 0 and at most 1"
        yield from _layout_rules(recipe, name)
    window = min(recipe.stages.semantic.window_seconds, recipe.stages.coarse.window_seconds)
    carried = 0 <= recipe.generate.context_seconds < window
    yield carried, "generate.context_seconds", f"must be less than a window of these stages, {window:g} s"


def _training_rules(stage: StageConfig, key: str) -> Iterator[Rule]:
    parts = stage.accumulate > 0 and stage.batch % stage.accumulate == 0
    yield parts, f"{key}.accumulate", f"must divide the batch of {stage.batch}"
    yield 0 <= stage.ema < 1, f"{key}.ema", "must be at least 0 and below 1"
    yield stage.checkpoint_steps > 0, f"{key}.checkpoint_steps", "must be positive"


def _layout_rules(recipe: Recipe, name: StageName) -> Iterator[Rule]:
    kc = recipe.stages.coarse_levels
    levels = {"semantic": 1, "coarse": kc, "fine": recipe.codec.levels - kc}[name]
    passes, parallel = recipe.sampling(name).passes, recipe.stage(name).layout == "parallel"
    yield not (parallel and name == "semantic"), f"stages.{name}.layout", "semantic ids are decoded step by step"
    enough = passes >= levels if parallel else passes == 0
    message = f"must be at least {levels}, one a level" if parallel else "is for stages of layout parallel only"
    yield enough, f"generate.{name}.passes", message


def _gate_rules(recipe: Recipe) -> Iterator[Rule]:
    for i, criterion in enumerate(recipe.gate):
        one = (criterion.at_least is None) != (criterion.at_most is None)
        yield one, f"gate[{i}]", "give exactly one of at_least and at_most"
