"""The figures of audio quality as metrics.json tells them, and the few of all figures that are printed."""

from typing import Any

import numpy as np

from v2meow.evaluate import sound
from v2meow.evaluate.baselines import mean_row
from v2meow.evaluate.material import Music
from v2meow.evaluate.profile import LEAST, Profile, Yardstick
from v2meow.evaluate.quality import around, covered, density, frechet_distance, frechet_limit, jackknife, kernel_values


def quality(yardstick: Yardstick, profile: Profile) -> dict[str, Any]:
    """Distances in each embedding, tags, loudness and repetition; `real` is what held-out real music has.

    `reference` tells how many training clips the distances are from; `skipped` what could not be measured, and why.
    """
    material = yardstick.material
    rate, ids_a_second = material.recipe.codec.sample_rate, material.recipe.semantic_ids.rate
    real = yardstick.embed(material.real.waveforms)
    figures: dict[str, Any] = {"reference": len(yardstick.reference["joint"]), "skipped": dict(yardstick.skipped)}
    if len(material.generated) >= LEAST + 1:
        for name, reference in yardstick.reference.items():
            figures[name] = distances(profile.embeddings[name], real[name], reference, material.recipe.seed)
    if yardstick.tagger and "tags.divergence" in profile.scores:
        figures["tags"] = {
            "divergence": mean_row(profile.scores["tags.divergence"], material.recipe.seed),
            "attribute": yardstick.tagger.name,
        }
    figures["loudness"] = {"error": mean_row(profile.scores["loudness.error"], material.recipe.seed)}
    length = max(2, round(sound.REPEATED_S * ids_a_second))

    def repetition(music: Music) -> dict[str, np.ndarray]:
        return {
            "repeated_share": sound.repeated_share(music.ids, length),
            "self_similarity": sound.self_similarity(music.waveforms, rate),
        }

    made, true = repetition(material.generated), repetition(material.real)
    figures["repetition"] = {
        name: mean_row(values, material.recipe.seed) | {"real": float(true[name].mean())}
        for name, values in made.items()
    }
    return figures


def distances(generated: np.ndarray, real: np.ndarray, reference: np.ndarray, seed: int) -> dict[str, Any]:
    """Rows of one embedding: generated [N, D] and real held-out music [N, D], both against the reference [M, D]."""
    count = len(generated)

    def frechet(samples: np.ndarray) -> float:
        return frechet_distance(samples, reference)

    limit = frechet_limit(generated, reference, seed)
    low, high = around(limit, jackknife(frechet, generated))
    kernel = mean_row(kernel_values(generated, reference), seed)
    return {
        "frechet": {"value": frechet(generated), "count": count, "real": frechet(real)},
        "frechet_limit": {
            "value": limit,
            "low": low,
            "high": high,
            "count": count,
            "real": frechet_limit(real, reference, seed),
        },
        "kernel": {"value": kernel.pop("mean")} | kernel | {"real": float(kernel_values(real, reference).mean())},
        "density": {"value": density(generated, reference), "count": count, "real": density(real, reference)},
        "coverage": {
            "value": float(covered(generated, reference).mean()),
            "count": count,
            "real": float(covered(real, reference).mean()),
        },
    }


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few figures that are printed."""
    figures = {
        "videos": metrics["videos"],
        **{name: value for name, value in metrics["audio"].items() if name != "count"},
        "semantic_margin": metrics["loss"]["semantic"]["margin"],
    }
    for name, found in (metrics["planted"] or {}).items():
        text = "{right:.2f} with the right video, {wrong:.2f} with wrong ones, p = {p_value:.2g}"
        figures[name] = text.format(**found)
    if metrics["contradicted"]:
        text = "{prompt:.2f} have the timbre of a contradicting prompt, {picture:.2f} that of the picture"
        figures["prompt"] = text.format(**metrics["contradicted"])
    if metrics["production"].get("reason"):
        figures["production"] = metrics["production"]["reason"]
    return figures
