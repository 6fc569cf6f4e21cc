"""Whom we measure ourselves against: MusicGen's decoder as transformers has it, and a bare PyTorch decoder.

Random weights, 4 codebooks of 2048, the delay pattern; conditions come by cross-attention. The only home of
transformers, which is imported when a peer of it is made.

Legend: B sequences, R = 2 B rows (with and without conditions, for guidance), K codebooks, M condition positions,
S steps, D width, H heads.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.model.patterns import DELAY, layout

CODEBOOKS, BINS = 4, 2048
PAD = BINS
TOP_K, GUIDANCE = 250, 3.0  # MusicGen's own defaults

Advance = Callable[[Tensor], Tensor]  # the codes of the last step [R, K] → logits of the next [R, K, bins]


def musicgen_decoder(layers: int, width: int, heads: int, feed_forward: int, condition_width: int) -> nn.Module:
    """transformers' MusicgenForCausalLM, and on it as `condition` the projection that its outer model would hold."""
    musicgen = _transformers().models.musicgen
    config = musicgen.MusicgenDecoderConfig(
        vocab_size=BINS,
        num_codebooks=CODEBOOKS,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        ffn_dim=feed_forward,
        dropout=0.0,
    )
    module = musicgen.MusicgenForCausalLM(config)
    module.condition = nn.Linear(condition_width, width)
    return module


def musicgen(layers: int, width: int, heads: int, feed_forward: int, condition_width: int) -> nn.Module:
    """transformers' MusicgenForConditionalGeneration with that decoder; its text encoder and codec are token ones."""
    transformers = _transformers()
    decoder: Any = musicgen_decoder(layers, width, heads, feed_forward, condition_width).config
    text = transformers.T5Config(vocab_size=8, d_model=condition_width, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    codec = transformers.EncodecConfig(num_filters=2, codebook_size=BINS, hidden_size=8)
    config = transformers.MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    module = transformers.MusicgenForConditionalGeneration(config)
    module.audio_encoder.decode = lambda *_, **__: SimpleNamespace(audio_values=torch.zeros(1, 1, 1))
    return module


@torch.inference_mode()
def generate(module: Any, batch: int, conditions: int, steps: int) -> None:
    """`steps` steps of `musicgen`'s own generation for texts of `conditions` tokens, without its codec."""
    device = next(module.parameters()).device
    module.generate(
        inputs=torch.ones(batch, conditions, dtype=torch.int64, device=device),
        attention_mask=torch.ones(batch, conditions, dtype=torch.int64, device=device),
        do_sample=True,
        top_k=TOP_K,
        guidance_scale=GUIDANCE,
        max_new_tokens=steps,
        min_new_tokens=steps,
    )


def train_step(
    module: nn.Module, codes: Tensor, conditions: Tensor, optimizer: torch.optim.Optimizer, *, bfloat16: bool
) -> Tensor:
    """One update of `musicgen_decoder` on codes [B, K, T] and conditions [B, M, condition width]; its loss."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(codes.device.type, torch.bfloat16, enabled=bfloat16):
        loss = _loss(module, codes, conditions)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def _loss(module: Any, codes: Tensor, conditions: Tensor) -> Tensor:
    made = layout(DELAY, CODEBOOKS, codes.shape[2])
    labels = type(made)(made.frame.to(codes.device)).build(codes, PAD)  # [B, S, K]; its own loss leaves PAD out
    inputs = F.pad(labels[:, :-1], (0, 0, 1, 0), value=PAD)  # it shifts only where it is given no inputs
    output = module(
        input_ids=inputs.transpose(1, 2).flatten(0, 1),
        encoder_hidden_states=module.condition(conditions),
        labels=labels,
        use_cache=False,
    )
    return output.loss


def decode_steps(
    module: nn.Module, conditions: Tensor, steps: int, cache: Literal["dynamic", "static"] = "dynamic"
) -> Iterator[Tensor]:
    """`musicgen_decoder` decoding `steps` steps for conditions [B, M, condition width], a step each time it is asked.

    With caches of self- and cross-attention kept apart, as only its outer model does: `generate` of the decoder
    alone lets the conditions' keys into the self-attention's cache at every step. The first step reads the conditions.
    """
    return _decode(_musicgen_advance(module, conditions, steps, cache), len(conditions), steps, conditions.device)


def _musicgen_advance(module: Any, conditions: Tensor, steps: int, cache: str) -> Advance:
    transformers = _transformers()
    with torch.inference_mode():
        memory = module.condition(conditions)
    memory = torch.cat((memory, torch.zeros_like(memory)))  # MusicGen's own null condition
    if cache == "static":
        lengths = (steps, memory.shape[1])
        halves = [transformers.StaticCache(config=module.config, max_cache_len=length) for length in lengths]
    else:
        halves = [transformers.DynamicCache(config=module.config) for _ in range(2)]
    past = transformers.EncoderDecoderCache(*halves)

    def advance(codes: Tensor) -> Tensor:
        output = module(
            input_ids=codes.reshape(-1, 1), encoder_hidden_states=memory, past_key_values=past, use_cache=True
        )
        return output.logits.view(-1, CODEBOOKS, BINS)

    return advance


class BareDecoder(nn.Module):
    """The plain decoder that a good engineer writes in an afternoon: what is faster than this is an optimisation."""

    def __init__(self, layers: int, width: int, heads: int, feed_forward: int, condition_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.condition = nn.Linear(condition_width, width)
        self.embed = nn.ModuleList(nn.Embedding(BINS + 1, width) for _ in range(CODEBOOKS))
        self.layers = nn.ModuleList(BareLayer(width, heads, feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CODEBOOKS * BINS, bias=False)

    def decode_steps(self, conditions: Tensor, steps: int) -> Iterator[Tensor]:
        """As the function of that name."""
        return _decode(self._advance(conditions, steps), len(conditions), steps, conditions.device)

    def _advance(self, conditions: Tensor, steps: int) -> Advance:
        with torch.inference_mode():
            memory = self.condition(conditions)
            memory = torch.cat((memory, torch.zeros_like(memory)))
            remembered = [layer.remember(memory) for layer in self.layers]  # type: ignore[operator]
            shape = (len(memory), self.heads, steps, memory.shape[2] // self.heads)
            caches = [(memory.new_zeros(shape), memory.new_zeros(shape)) for _ in self.layers]
        place = iter(range(steps))

        def advance(codes: Tensor) -> Tensor:
            x, here = (
                torch.stack([embed(codes[:, k]) for k, embed in enumerate(self.embed)]).sum(0)[:, None],
                next(place),
            )
            for layer, cache, memory in zip(self.layers, caches, remembered, strict=True):
                x = layer(x, here, cache, memory)
            return self.head(self.norm(x)).view(-1, CODEBOOKS, BINS)

        return advance


class BareLayer(nn.Module):
    """Fused projections, a preallocated cache, keys and values of the conditions computed once."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.query, self.cross_out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.up, self.down = nn.Linear(width, feed_forward, bias=False), nn.Linear(feed_forward, width, bias=False)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [R, H, M, D / H] of the conditions."""
        keys, values = self.key_value(memory).chunk(2, -1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, here: int, cache: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (self._split(part) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        cache[0][:, :, here : here + 1], cache[1][:, :, here : here + 1] = key, value
        keys, values = (part[:, :, : here + 1] for part in cache)
        x = x + self.out(F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2))
        query = self._split(self.query(self.norms[1](x)))
        x = x + self.cross_out(F.scaled_dot_product_attention(query, *memory).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[2](x))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@torch.inference_mode()
def _decode(advance: Advance, batch: int, steps: int, device: torch.device) -> Iterator[Tensor]:
    """Codes [B, K] of each step: both halves of the rows in one pass, guided, drawn from the likeliest, delayed."""
    codes = torch.full((batch, CODEBOOKS), PAD, device=device)
    frames = steps - (CODEBOOKS - 1)
    for step in range(steps):
        given, without = advance(codes.repeat(2, 1)).float().chunk(2)
        likeliest, candidates = (without + GUIDANCE * (given - without)).topk(TOP_K, dim=-1)
        drawn = torch.multinomial(likeliest.softmax(-1).flatten(0, 1), 1).view(batch, CODEBOOKS, 1)
        frame = step - torch.arange(CODEBOOKS, device=device)
        codes = candidates.gather(-1, drawn)[..., 0].masked_fill((frame < 0) | (frame >= frames), PAD)
        yield codes


def _transformers() -> Any:
    # An extra that type checks run without.
    import transformers  # pyright: ignore[reportMissingImports]

    return transformers
