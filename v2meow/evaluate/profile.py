"""One set of pieces for the held-out clips, measured clip by clip, so that two sets can be compared in pairs.

A yardstick learns what it needs (timbres, labels, which picture goes with which music) from training clips and the
real held-out music, and then measures any music by the same measure: the model's, baselines', production's.

Legend: N held-out clips, M reference clips, C classes, D width.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from torch import Tensor

from v2meow.encoders.joint import load_joint
from v2meow.evaluate import listen, planted, sound
from v2meow.evaluate.agreement import correlation_scores
from v2meow.evaluate.judge import Judge, music_side
from v2meow.evaluate.material import Material, Music, through_codec
from v2meow.evaluate.quality import divergence, kernel_values
from v2meow.evaluate.statistics import Better

REFERENCE_CLIPS = 512  # training clips that everything is learnt from and compared with, at most
LEAST = 3  # clips, below which nothing is compared with anything
_LEAST_TAUGHT = 16  # training clips that a judge learns from
_LABELS = ("genre", "timbre")  # attributes that are tags, the first that a catalogue has
_LEAST_OF_A_LABEL = 4

# What is better; of every name the last part may differ.
BETTER: dict[str, Better] = {
    "surprise": "lower",
    "planted": "higher",
    "correspondence": "higher",
    "level": "higher",
    "kernel": "lower",
    "tags": "lower",
    "loudness": "lower",
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What single pieces score, `scores` [N] and `pairs` [N, N] (music i with video j), and where they lie: [N, D]."""

    scores: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]
    embeddings: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "Profile":
        """Those clips alone."""
        return Profile(
            scores={name: values[rows] for name, values in self.scores.items()},
            pairs={name: values[np.ix_(rows, rows)] for name, values in self.pairs.items()},
            embeddings={name: values[rows] for name, values in self.embeddings.items()},
        )

    def own(self, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All scores [N] by dotted name: those of pairs with the own video, and distances from the reference [M, D]."""
        found = self.scores | {name: np.diag(values).copy() for name, values in self.pairs.items()}
        return found | {
            f"kernel.{name}": kernel_values(values, reference[name]) for name, values in self.embeddings.items()
        }


class Tagger:
    """Tells a label of music by ear, learnt from training clips; `name` is the attribute, C its values.

    No pretrained tagger of general music is at hand that needs no download, so it knows the catalogue's labels only.
    """

    def __init__(self, name: str, waveforms: Tensor, labels: list[str], sample_rate: int) -> None:
        self.name, self.sample_rate = name, sample_rate
        self._classifier: Pipeline = listen.fit_timbre(waveforms, labels, sample_rate)

    def probabilities(self, waveforms: Tensor) -> np.ndarray:
        """[N, C]."""
        return self._classifier.predict_proba(listen.timbre_features(waveforms, self.sample_rate))

    def right(self, waveforms: Tensor, labels: list[str]) -> float:
        """Share of [N, T] whose label is told rightly."""
        found = self._classifier.predict(listen.timbre_features(waveforms, self.sample_rate))
        return float(np.mean(found == np.array(labels)))


class Yardstick:
    """Measures music for the held-out clips of a material. `reference` are embeddings of training music [M, D].

    `skipped` says by name which measures this catalogue does not allow, and why.
    """

    def __init__(self, material: Material) -> None:
        self.material, self.skipped = material, dict[str, str]()
        self._rate = material.recipe.codec.sample_rate
        self._joint = load_joint(material.bundle / "encoders" / "joint")
        train = material.train.select(_spread(len(material.train), REFERENCE_CLIPS))
        music = through_codec(material.cascade, train).waveforms
        self.reference = self.embed(music)
        self.factors = planted.factors_of(material.examples.attributes)
        self.listener = self._listener(music, train.attributes)
        self.tagger = self._tagger(music, train.attributes)
        self.judge = self._taught_judge(music, train.visual)
        self._real_level = listen.level_dbfs(material.real.waveforms)
        self._real_loudness = sound.loudness(material.real.waveforms, self._rate)
        self._real_tags = self.tagger and self.tagger.probabilities(material.real.waveforms)

    def embed(self, waveforms: Tensor) -> dict[str, np.ndarray]:
        """[N, D] by name: `joint` is the recipe's music-text tower, `semantic` the frames that its ids cluster, their
        mean. Where these are pretrained (CLAP, MERT, w2v-BERT) so are the embeddings."""
        parts = waveforms.split(32)
        with torch.inference_mode():
            joint = torch.cat([self._joint.embed_audio(part) for part in parts])
            frames = torch.cat([self.material.cascade.ids.features(part).mean(1) for part in parts])
        return {"joint": joint.float().cpu().numpy(), "semantic": frames.float().cpu().numpy()}

    def profile(self, music: Music, excess: dict[str, np.ndarray] | None = None) -> Profile:
        """Measure N pieces, the i-th for the i-th held-out clip; `excess` are nats a code by stage, where there are."""
        waveforms = music.waveforms
        pairs = {"level": correlation_scores(listen.level_dbfs(waveforms), self._real_level)}
        if self.listener and self.factors:
            found = self.listener.scores(waveforms, self.factors)
            pairs |= {f"planted.{name}": scores for name, scores in found.items()}
        if self.judge:
            heard = music_side(waveforms, self._rate)
            pairs["correspondence.retrieval"] = self.judge.similarity(heard, self.material.examples.visual)
        loudness = np.abs(sound.loudness(waveforms, self._rate) - self._real_loudness)
        scores = {"loudness.error": loudness} | {f"surprise.{name}": values for name, values in (excess or {}).items()}
        if self.tagger and self._real_tags is not None:
            scores["tags.divergence"] = divergence(self._real_tags, self.tagger.probabilities(waveforms))
        return Profile(scores=scores, pairs=pairs, embeddings=self.embed(waveforms))

    def _listener(self, music: Tensor, attributes: list[str]) -> planted.Listener | None:
        taught = planted.factors_of(attributes)
        if taught is None or self.factors is None:
            self.skipped["planted"] = (
                "the catalogue's attributes do not tell tempo, mode, timbre and energy of each clip"
            )
            return None
        if len(self.factors) < LEAST:
            self.skipped["planted"] = f"{len(self.factors)} held-out clips: at least {LEAST} are needed"
            return None
        return planted.Listener(music, taught, self._rate)

    def _tagger(self, music: Tensor, attributes: list[str]) -> Tagger | None:
        told = [json.loads(text) for text in attributes]
        for name in _LABELS:
            labels = [str(each.get(name)) for each in told]
            counts = Counter(labels)
            if all(name in each for each in told) and len(counts) > 1 and min(counts.values()) >= _LEAST_OF_A_LABEL:
                return Tagger(name, music, labels, self._rate)
        few = f"every clip and at least {_LEAST_OF_A_LABEL} clips a value"
        self.skipped["tags"] = f"no attribute of {', '.join(_LABELS)} with {few}"
        return None

    def _taught_judge(self, music: Tensor, visual: tuple[Tensor, ...]) -> Judge | None:
        if len(music) < _LEAST_TAUGHT:
            reason = f"{len(music)} training clips to learn a judge from: at least {_LEAST_TAUGHT} are needed"
            self.skipped["correspondence"] = reason
            return None
        return Judge(music_side(music, self._rate), visual, self.material.recipe.seed)


def better(name: str) -> Better:
    """Whether a score of that dotted name is the better the higher or the lower it is."""
    return BETTER[name.split(".")[0]]


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name as mappings within each other, as metrics.json has them."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return found


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()
