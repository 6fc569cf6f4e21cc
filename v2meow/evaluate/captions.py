"""Does the music go with the clip's caption? The counterpart of MuLan cycle consistency (arXiv 2305.06594, section 4).

A model that is conditioned by one music-text tower, and judged by the same, is judged by what it was told to please.
So a second judge learns from the training captions, with a front end and weights of its own; what the conditioning
tower says is told beside it.
"""

import torch
from torch import Tensor

from v2meow.encoders.joint import load_joint
from v2meow.evaluate.agreement import Scores
from v2meow.evaluate.judge import Judge, Side, music_side, word_side
from v2meow.evaluate.material import Material, compose
from v2meow.evaluate.retrieval import Heard, SkipError
from v2meow.generate.parts import PromptError

_LABEL = "score held-out videos with their captions"


def scores(material: Material, heard: Heard) -> tuple[list[int], dict[str, Scores]]:
    """The rows of the clips with captions, and `caption`, `prompted` and `conditioning` of them."""
    rows = [row for row, caption in enumerate(material.examples.caption) if caption.strip()]
    taught = [place for place, row in enumerate(heard.rows) if material.train.caption[row].strip()]
    if len(rows) < 2 or not taught:
        raise SkipError(f"{len(rows)} held-out and {len(taught)} training clips have a caption")
    captions = [material.examples.caption[row] for row in rows]
    known = [material.train.caption[heard.rows[place]] for place in taught]
    judge = Judge(_part(heard.taught, taught), word_side(known, known), material.recipe.seed, words=True)
    words, real = word_side(captions, known), _part(heard.real, rows)

    def judged(generated: Side) -> Scores:
        return Scores(generated=judge.similarity(generated, words), real=judge.similarity(real, words))

    found = {"caption": judged(_part(heard.generated, rows))}
    try:
        prompted = compose(
            material.cascade, material.examples.select(rows), material.recipe.evaluate.batch, captions, _LABEL
        )
    except PromptError:
        return rows, found
    found["prompted"] = judged(music_side(prompted.waveforms, material.recipe.codec.sample_rate))
    found["conditioning"] = _own_tower(material, prompted.waveforms, material.real.waveforms[rows], captions)
    return rows, found


@torch.inference_mode()
def _own_tower(material: Material, generated: Tensor, real: Tensor, captions: list[str]) -> Scores:
    tower = load_joint(material.bundle / "encoders" / "joint")
    text = tower.embed_text(captions)
    made, true = ((tower.embed_audio(sound) @ text.T).numpy() for sound in (generated, real))
    return Scores(generated=made, real=true)


def _part(side: Side, rows: list[int]) -> Side:
    return tuple(part[rows] for part in side)
