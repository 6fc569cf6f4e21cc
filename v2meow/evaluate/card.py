"""The model card that travels in a bundle: what the model is, what it learnt from, what to expect of it."""

from collections import Counter
from pathlib import Path
from typing import Any

from v2meow.config import STAGES, load_recipe
from v2meow.data.manifest import read_clips
from v2meow.files import read_json
from v2meow.weights import METRICS

_CARD = """# V2Meow model, recipe `{recipe}`

Music for silent video: a cascade of three token language models (arXiv 2305.06594), trained from scratch.

| stage | parameters | held-out loss (nats a code) |
|---|---|---|
{stages}

- **Learnt from** {train} videos; {holdout} were held out by the hash of their content ({clips} clips of
  {seconds:g} s in all).
- **Sound**: {sample_rate} Hz mono, {kilobits:.1f} kbit/s codec.
- **Text prompts**: {text}.
- **Use**: `v2meow generate VIDEO -o OUT.mp4 --model THIS_FOLDER`.
- **Limits**: it knows the kind of video and music it was trained on and nothing else. The rights to its
  output depend on the rights to the catalogue it was trained on.
"""


def write(workspace: Path) -> str:
    """The card of the models in a workspace, as Markdown."""
    recipe = load_recipe(workspace / "recipe.yaml")
    models, clips = workspace / "models", read_clips(workspace)
    figures = {name: read_json(models / name / METRICS) for name in STAGES}
    splits = Counter({clip.video_id: clip.split for clip in clips}.values())
    joint = read_json(models / "encoders" / "joint" / METRICS)
    return _CARD.format(
        recipe=recipe.name,
        stages="\n".join(
            f"| {name} | {figure['parameters']:,} | {figure['holdout_loss']:.3f} |" for name, figure in figures.items()
        ),
        train=splits["train"],
        holdout=splits["holdout"],
        clips=len(clips),
        seconds=recipe.data.clip_seconds,
        sample_rate=recipe.codec.sample_rate,
        kilobits=read_json(models / "encoders" / "codec" / METRICS)["kilobits_per_second"],
        text=_follows_text(joint),
    )


def _follows_text(joint: dict[str, Any]) -> str:
    if joint["pairs"]:
        return f"yes, learnt from {joint['pairs']} captions"
    return "yes, by a pretrained model" if joint["follows_text"] else "no, the catalogue had no captions"
