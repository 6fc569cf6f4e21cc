"""One token language model; the three stages are three specs of it.

    semantic   encoder over visual frames and the music-text vector; decoder with cross-attention → semantic ids
    coarse     prefix of semantic ids, and of the visual frames where a recipe says so       → codec levels 1 … Kc
    fine       prefix of coarse codes of a short window                                     → codec levels Kc+1 … K

A stage of layout `delay` or `flatten` predicts each step from the steps before it. One of layout `parallel` sees
all frames at once, some codes hidden, and predicts the hidden ones (SoundStorm, arXiv 2305.09636).

Legend: B batch, K target codebooks, T target frames, S steps, V visual frames, P prefix frames, D width.
Sources: V2Meow (arXiv 2305.06594, section 3), AudioLM (arXiv 2209.03143). It knows ids and features,
not codecs, videos, sampling or training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.config import Recipe, StageName
from v2meow.model.patterns import PARALLEL, Layout, layout
from v2meow.model.transformer import Block, CrossAttention, KeyValues, SelfAttention, rotary


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A sequence of `levels` parallel codes out of `bins` each, at `rate` Hz."""

    levels: int
    bins: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class VisualInput:
    """Features of one extractor: `width` numbers at `rate` Hz."""

    width: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Everything that determines the shape of one stage's model. Saved beside its weights."""

    name: StageName
    layers: int
    encoder_layers: int
    width: int
    heads: int
    feed_forward: int
    dropout: float
    layout: str
    target: Stream
    prefix: Stream | None = None
    visual: tuple[VisualInput, ...] = ()
    joint_width: int = 0


def stage_spec(recipe: Recipe, name: StageName, *, visual_widths: tuple[int, ...], joint_width: int) -> StageSpec:
    """The spec of stage `name`; the widths are those of the features of the recipe's extractors, in its order, and
    of the music-text vector: what follows from pretrained weights is not in a recipe."""
    config, codec, kc = recipe.stage(name), recipe.codec, recipe.stages.coarse_levels
    ids = Stream(levels=1, bins=recipe.semantic_ids.clusters, rate=recipe.semantic_ids.rate)
    coarse = Stream(levels=kc, bins=codec.bins, rate=codec.rate)
    fine = Stream(levels=codec.levels - kc, bins=codec.bins, rate=codec.rate)
    visual = tuple(
        VisualInput(width=width, rate=extractor.rate)
        for width, extractor in zip(visual_widths, recipe.visual, strict=True)
    )
    streams = {
        "semantic": {"target": ids, "visual": visual, "joint_width": joint_width},
        "coarse": {"target": coarse, "prefix": ids, "visual": visual if recipe.stages.coarse_sees_video else ()},
        "fine": {"target": fine, "prefix": coarse},
    }[name]
    return StageSpec(
        name=name,
        layers=config.layers,
        encoder_layers=config.encoder_layers,
        width=config.width,
        heads=config.heads,
        feed_forward=config.feed_forward,
        dropout=config.dropout,
        layout=config.layout,
        **streams,
    )


@dataclass
class Conditions:
    """What a batch is conditioned on. Absent conditions are None; `keep_*` [B] bool drop single rows.

    visual: per extractor [B, V, width]; joint: [B, joint_width]; prefix: [B, levels, P] codes.
    """

    visual: tuple[Tensor, ...] = ()
    joint: Tensor | None = None
    prefix: Tensor | None = None
    keep_video: Tensor | None = None
    keep_text: Tensor | None = None

    def to(self, device: torch.device) -> "Conditions":
        """The same on another device."""
        others = (self.joint, self.prefix, self.keep_video, self.keep_text)
        moved = (part if part is None else part.to(device) for part in others)
        return Conditions(tuple(features.to(device) for features in self.visual), *moved)

    def take(self, rows: Tensor) -> "Conditions":
        """Those rows [n] of the batch."""
        others = (self.joint, self.prefix, self.keep_video, self.keep_text)
        taken = (part if part is None else part[rows] for part in others)
        return Conditions(tuple(features[rows] for features in self.visual), *taken)


class TokenLM(nn.Module):
    """Transformer over K parallel codebooks with conditions by cross-attention or as a prefix."""

    visual_mean: Tensor
    visual_std: Tensor

    def __init__(self, spec: StageSpec) -> None:
        super().__init__()
        self.spec = spec
        width, target = spec.width, spec.target
        self.embed = nn.ModuleList(nn.Embedding(target.bins + 1, width) for _ in range(target.levels))
        self.head = nn.Linear(width, target.levels * target.bins, bias=False)
        cross = bool(spec.encoder_layers)
        shape = (width, spec.heads, spec.feed_forward, spec.dropout)
        self.blocks = nn.ModuleList(Block(*shape, cross=cross) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.encoder = nn.ModuleList(Block(*shape, cross=False) for _ in range(spec.encoder_layers))
        self.norm_memory = nn.LayerNorm(width, bias=False) if cross else None
        self._build_conditions()
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, SelfAttention | CrossAttention):
                module.prefer_near()

    def _build_conditions(self) -> None:
        spec, width = self.spec, self.spec.width
        if spec.prefix:
            self.embed_prefix = nn.ModuleList(nn.Embedding(spec.prefix.bins, width) for _ in range(spec.prefix.levels))
            self.mark_prefix = nn.Parameter(torch.zeros(width))
        if spec.visual:
            self.project_visual = nn.ModuleList(nn.Linear(visual.width, width) for visual in spec.visual)
            self.null_video = nn.Parameter(torch.zeros(width))
            total = sum(visual.width for visual in spec.visual)
            self.register_buffer("visual_mean", torch.zeros(total))
            self.register_buffer("visual_std", torch.ones(total))
        if spec.joint_width:
            self.project_joint = nn.Linear(spec.joint_width, width)
            self.null_text = nn.Parameter(torch.zeros(width))

    @property
    def empty(self) -> int:
        """The input code of a place that carries no code, of a hidden one, and of the step before the first."""
        return self.spec.target.bins

    @property
    def causal(self) -> bool:
        """Whether a step sees the steps before it only."""
        return self.spec.layout != PARALLEL

    @property
    def head_width(self) -> int:
        return self.spec.width // self.spec.heads

    def layout(self, frames: int) -> Layout:
        """The layout of `frames` target frames, on the model's device."""
        made = layout(self.spec.layout, self.spec.target.levels, frames)
        return Layout(made.frame.to(self.norm.weight.device))

    @property
    def step_seconds(self) -> float:
        """Time from one step to the next."""
        steps_a_frame = self.spec.target.levels if self.spec.layout == "flatten" else 1
        return 1 / (self.spec.target.rate * steps_a_frame)

    # ---- conditions

    def memory(self, given: Conditions) -> list[KeyValues | None]:
        """Keys and values of the encoder's output for each decoder block; Nones without an encoder."""
        if not self.spec.encoder_layers:
            return [None] * len(self.blocks)
        sequence, times = self._encoder_input(given)
        angles = rotary(times, self.head_width)
        for block in self.encoder:
            sequence = block(sequence, angles, causal=False)
        assert self.norm_memory is not None
        sequence = self.norm_memory(sequence)
        return [block.cross.project(sequence, angles) for block in self.blocks]  # type: ignore[union-attr]

    def _encoder_input(self, given: Conditions) -> tuple[Tensor, Tensor]:
        """All visual frames of all extractors and one place for the music-text vector: [B, M, D], times [M]."""
        video, times = self._video(given)
        text = self._text(given, video.shape[0])[:, None]
        return torch.cat((video, text), dim=1), torch.cat((times, times.new_zeros(1)))

    def _video(self, given: Conditions) -> tuple[Tensor, Tensor]:
        """All visual frames of all extractors: [B, V, D], times [V].

        Attention sees times, not order, so extractors stand one behind the other here and are
        interleaved by their times.
        """
        parts, times, first = [], [], 0
        for features, visual, project in zip(given.visual, self.spec.visual, self.project_visual, strict=True):
            assert features.shape[2] == visual.width, (features.shape, visual)
            span = slice(first, first + visual.width)
            normalised = (features - self.visual_mean[span]) / self.visual_std[span]
            parts.append(project(normalised.to(self.norm.weight.dtype)))
            times.append(torch.arange(features.shape[1], device=features.device) / visual.rate)
            first += visual.width
        video = torch.cat(parts, dim=1)
        if given.keep_video is not None:
            video = torch.where(given.keep_video[:, None, None], video, self.null_video)
        return video, torch.cat(times)

    def _text(self, given: Conditions, batch: int) -> Tensor:
        if given.joint is None:
            return self.null_text.expand(batch, -1)
        text = self.project_joint(given.joint.to(self.norm.weight.dtype))
        return text if given.keep_text is None else torch.where(given.keep_text[:, None], text, self.null_text)

    def _prefix(self, given: Conditions) -> tuple[Tensor, Tensor] | None:
        """The embedded prefix [B, P, D] and its times [P]: visual frames first, where the stage sees any."""
        if self.spec.prefix is None:
            return None
        codes = given.prefix
        assert codes is not None, "this stage needs a prefix"
        assert codes.shape[1] == self.spec.prefix.levels, codes.shape
        embedded = sum(embed(codes[:, k]) for k, embed in enumerate(self.embed_prefix)) + self.mark_prefix
        times = torch.arange(codes.shape[2], device=codes.device) / self.spec.prefix.rate
        if not self.spec.visual:
            return embedded, times
        video, video_times = self._video(given)
        return torch.cat((video, embedded), 1), torch.cat((video_times, times))

    # ---- decoder

    def _embed(self, sequence: Tensor) -> Tensor:
        """Sum of the codebooks' embeddings: [B, S, K] → [B, S, D]."""
        return torch.stack([embed(sequence[..., k]) for k, embed in enumerate(self.embed)]).sum(0)

    def _logits(self, hidden: Tensor) -> Tensor:
        """[B, S, D] → [B, S, K, bins]."""
        return self.head(self.norm(hidden)).unflatten(-1, (self.spec.target.levels, self.spec.target.bins))

    def forward(self, codes: Tensor, given: Conditions, hidden: Tensor | None = None) -> Tensor:
        """Logits [B, S, K, bins] of every step of `codes` [B, K, T].

        Causal layouts predict each step from the steps before it; `parallel` predicts the codes where `hidden`
        [B, K, T] is true from all the others.
        """
        made = self.layout(codes.shape[2])
        if self.causal:
            inputs = F.pad(made.build(codes, self.empty)[:, :-1], (0, 0, 1, 0), value=self.empty)
        else:
            assert hidden is not None, "layout parallel needs to know which codes are hidden"
            inputs = made.build(codes.masked_fill(hidden, self.empty), self.empty)
        sequence, times, skip = self._sequence(inputs, given)
        angles = rotary(times, self.head_width)
        for block, memory in zip(self.blocks, self.memory(given), strict=True):
            sequence = block(sequence, angles, causal=self.causal, memory=memory)
        return self._logits(sequence[:, skip:])

    def _sequence(self, inputs: Tensor, given: Conditions) -> tuple[Tensor, Tensor, int]:
        """The embedded prefix and inputs [B, S, K] behind it: [B, P + S, D], times [P + S], and P."""
        embedded = self._embed(inputs)
        times = torch.arange(inputs.shape[1], device=inputs.device) * self.step_seconds
        prefix = self._prefix(given)
        if prefix is None:
            return embedded, times, 0
        return torch.cat((prefix[0], embedded), 1), torch.cat((prefix[1], times)), prefix[0].shape[1]

    def fill(self, inputs: Tensor, given: Conditions, caches: list[KeyValues], memory: list[KeyValues | None]) -> int:
        """Read the prefix and the inputs [B, F, K] of the first F steps into the caches; the number of places read."""
        sequence, times, _ = self._sequence(inputs, given)
        angles = rotary(times, self.head_width)
        if len(times):
            *before, last = self.blocks
            for block, cache, remembered in zip(before, caches[:-1], memory[:-1], strict=True):
                sequence = block(sequence, angles, causal=True, memory=remembered, cache=cache)
            last.fill(sequence, angles, caches[-1])  # type: ignore[operator]
        return len(times)


def token_losses(logits: Tensor, codes: Tensor, made: Layout) -> Tensor:
    """Cross-entropy in nats of every code: logits [B, S, K, bins], codes [B, K, T] → [B, K, T].

    Codebook by codebook: all logits at once, in float32, would be several times as large as what a cache holds.
    """
    sequence = made.build(codes, 0)
    losses = [
        F.cross_entropy(logits[:, :, k].flatten(0, 1).float(), sequence[:, :, k].flatten(), reduction="none")
        for k in range(sequence.shape[2])
    ]
    return made.revert(torch.stack(losses, -1).view(sequence.shape))


def _initialise(module: nn.Module) -> None:
    """Normal(0, 0.02), as GPT-2; norms keep their ones."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
