"""The stages and how they decode."""

from dataclasses import dataclass
from typing import Literal

StageName = Literal["semantic", "coarse", "fine"]
STAGES: tuple[StageName, ...] = ("semantic", "coarse", "fine")


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

    Every `evaluate_steps` steps, 0 for never, and after the last one the loss on the held-out clips is measured, which
    the loss curve then shows; with `keep_best` the model is that of the lowest of these losses.
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
    evaluate_steps: int = 0
    keep_best: bool = False


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
    """Decoding. `precision` is that of the weights: those below float32 decode faster and are judged by the gate."""

    precision: Literal["float32", "float16", "bfloat16", "int8", "int5"]
    semantic: SamplingConfig
    coarse: SamplingConfig
    fine: SamplingConfig
    context_seconds: float
