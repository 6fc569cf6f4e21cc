"""The cascade of a tiny, untrained bundle: lengths, seeds, batches, windows, and what is refused."""

import math
from copy import copy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from v2meow import bundle, weights
from v2meow.bundle import BundleError
from v2meow.config import STAGES, StageName
from v2meow.encoders.codec import Codec
from v2meow.encoders.joint import TwoTower
from v2meow.encoders.visual import WIDTH
from v2meow.files import write_json
from v2meow.generate.decode import decode
from v2meow.generate.pipeline import Cascade, PromptError, generate_file, read_features
from v2meow.media import MediaError, read_wav, write_video
from v2meow.model.io import save_stage
from v2meow.model.lm import Conditions
from v2meow.model.patterns import UNKNOWN

RATE = 16_000


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """What a bundle is made of, with random weights."""
    folder, recipe = tmp_path_factory.mktemp("models"), tiny.recipe()
    torch.manual_seed(0)
    joint = TwoTower(recipe.joint, RATE)
    for stage in STAGES:
        save_stage(folder / stage, tiny.model(stage), {})
    weights.save(folder / "encoders/codec", Codec(recipe.codec), asdict(recipe.codec), {})
    weights.save(folder / "encoders/joint", joint, {"config": asdict(recipe.joint), "sample_rate": RATE}, {"pairs": 9})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny.values()))
    return {name: folder / name for name in (*STAGES, "encoders/codec", "encoders/joint", "recipe.yaml")}


@pytest.fixture(scope="module")
def model(parts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    bundle.assemble(parts, folder)
    return folder


@pytest.fixture(scope="module")
def cascade(model) -> Cascade:
    return Cascade(model)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A silent video of 2.6 s whose picture changes."""
    path = tmp_path_factory.mktemp("videos") / "silent.mp4"
    pictures = (np.full((64, 64, 3), 4 * number, np.uint8) for number in range(26))
    write_video(path, pictures, 10, np.zeros(round(2.6 * RATE), np.float32), RATE)
    return path


def _visual(seconds: float, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, math.ceil(seconds * 10), WIDTH, generator=random),)


@pytest.mark.parametrize("seconds", [0.02, 0.3, 1.0, 4.0, 7.37, 10.02])
def test_music_is_as_long_as_was_asked_for_to_the_sample(cascade, seconds):
    """Whatever the windows and frames: music that ends early or late is out of step with its video."""
    waveform = cascade.generate(_visual(seconds), None, seconds, [0])
    assert waveform.shape == (1, round(seconds * RATE))
    assert waveform.isfinite().all()


def test_the_same_seed_gives_the_same_bytes(cascade):
    first, second, other = (cascade.generate(_visual(1.0), None, 1.0, [seed]) for seed in (1, 1, 2))
    assert first.numpy().tobytes() == second.numpy().tobytes()
    assert not torch.equal(first, other)


def test_a_batch_gives_the_codes_that_each_request_gives_alone(cascade):
    """Across all stages and windows, with pictures and prompts of their own."""
    visual, joint, seeds = _visual(3.0, batch=3), torch.randn(3, 8), [4, 5, 6]
    together = cascade.semantic(visual, joint, 3.0, seeds)
    coarse = cascade.coarse(together, seeds)
    fine = cascade.fine(coarse, seeds)
    for row, seed in enumerate(seeds):
        own = slice(row, row + 1)
        ids = cascade.semantic((visual[0][own],), joint[own], 3.0, [seed])
        assert torch.equal(ids, together[own])
        assert torch.equal(cascade.coarse(ids, [seed]), coarse[own])
        assert torch.equal(cascade.fine(coarse[own], [seed]), fine[own])


def test_each_window_is_decoded_from_its_own_stretch_and_the_end_of_the_one_before(cascade):
    """Pictures, ids or codes of another second would all sound as good, and fit nothing."""
    greedy = copy(cascade)
    greedy.recipe = tiny.recipe({f"generate.{stage}.top_k": 1 for stage in STAGES})
    (visual,), seeds = _visual(3.0), [0]

    def decoded(stage: StageName, given: Conditions, context: torch.Tensor, frames: int) -> torch.Tensor:
        """`frames` fresh codes behind the codes `context`."""
        unknown = torch.full((1, context.shape[1], frames), UNKNOWN)
        sampling = getattr(greedy.recipe.generate, stage)
        codes = decode(greedy.stages[stage], given, torch.cat((context, unknown), 2), sampling, [torch.Generator()])
        return codes[..., context.shape[2] :]

    ids = decoded("semantic", Conditions(visual=(visual[:, :20],)), torch.empty(1, 1, 0).long(), 50)
    ids = torch.cat((ids, decoded("semantic", Conditions(visual=(visual[:, 10:],)), ids[..., 25:], 25)), 2)
    assert torch.equal(greedy.semantic((visual,), None, 3.0, seeds), ids)

    coarse = decoded("coarse", Conditions(prefix=ids[..., :50]), torch.empty(1, 2, 0).long(), 100)
    coarse = torch.cat((coarse, decoded("coarse", Conditions(prefix=ids[..., 25:]), coarse[..., 50:], 50)), 2)
    assert torch.equal(greedy.coarse(ids, seeds), coarse)

    pieces = [Conditions(prefix=piece) for piece in coarse.split(50, 2)]
    fine = torch.cat([decoded("fine", piece, torch.empty(1, 2, 0).long(), 50) for piece in pieces], 2)
    assert torch.equal(greedy.fine(coarse, seeds), fine)


def test_a_prompt_changes_the_music_and_its_words_matter(cascade):
    vectors = [cascade.embed_prompt(prompt) for prompt in ("loud bells", "quiet flute")]
    ids = [cascade.semantic(_visual(1.0), joint, 1.0, [0]) for joint in (None, *vectors)]
    assert not torch.equal(ids[0], ids[1]) and not torch.equal(ids[1], ids[2])


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(cascade, prompt):
    with pytest.raises(PromptError, match="prompt is empty"):
        cascade.embed_prompt(prompt)


def test_a_model_trained_without_captions_refuses_a_prompt(parts, model, video, tmp_path):
    """Followed silently, an untrained vector would only add noise."""
    bundle.assemble(parts, tmp_path / "mute")
    write_json(tmp_path / "mute/encoders/joint/metrics.json", {"pairs": 0})
    parts = {name: tmp_path / "mute" / name for name in parts}
    bundle.assemble(parts, tmp_path / "wordless")
    with pytest.raises(PromptError, match="trained on videos without captions"):
        generate_file(video, tmp_path / "out.mp4", tmp_path / "wordless", "loud bells", None, 0)
    assert not (tmp_path / "out.mp4").exists()


def test_a_damaged_bundle_is_refused(parts, tmp_path):
    """Scores would otherwise come from another model than the one that passed the gate."""
    bundle.assemble(parts, tmp_path / "bundle")
    file = tmp_path / "bundle/fine/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"changed: fine/model\.safetensors"):
        Cascade(tmp_path / "bundle")


def test_a_video_becomes_a_scored_video(model, video, reader, tmp_path):
    """The product itself: as long as the video, with a soundtrack, and the same again for the same seed."""
    out = tmp_path / "new/out.mp4"
    figures = generate_file(video, out, model, "loud bells", None, 3, wav=True)
    probe = reader.probe(out)
    assert probe.seconds == pytest.approx(reader.probe(video).seconds, abs=0.02)
    assert probe.audio is not None
    music, rate = read_wav(tmp_path / "new/out.wav")
    assert (len(music), rate) == (round(2.6 * RATE), RATE)
    assert figures["seconds"] == pytest.approx(2.6) and figures["seed"] == 3
    generate_file(video, tmp_path / "again.mp4", model, "loud bells", None, 3, wav=True)
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "new/out.wav").read_bytes()


def test_seconds_limit_what_is_generated(model, video, tmp_path):
    generate_file(video, tmp_path / "out.mp4", model, None, 0.5, 0, wav=True)
    assert len(read_wav(tmp_path / "out.wav")[0]) == RATE // 2
    figures = generate_file(video, tmp_path / "whole.mp4", model, None, 99.0, 0)
    assert figures["seconds"] == pytest.approx(2.6)


@pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.txt"])
def test_a_result_that_is_no_mp4_is_refused_before_anything_is_loaded(name, video, tmp_path):
    with pytest.raises(MediaError, match=r"give a name that ends in \.mp4") as caught:
        generate_file(video, tmp_path / name, tmp_path / "no model", None, None, 0)
    assert "\n" not in str(caught.value)


def test_a_missing_video_is_one_line(model, tmp_path):
    with pytest.raises(MediaError, match="no such file") as caught:
        generate_file(tmp_path / "missing.mp4", tmp_path / "out.mp4", model, None, None, 0)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_features_read_clip_by_clip_are_those_of_the_whole(cascade, video, reader):
    """Joined at a wrong place, every later window would follow other pictures than are on screen."""
    joined = read_features(cascade.recipe, reader, video, 2.6)[0]
    assert joined.shape == (1, 40, WIDTH)  # two clips of 2 s
    whole = reader.frames(video, 10.0, 64, 0.0, 2.6)
    grey = joined[0, :, :3].mean(1)
    assert torch.allclose(grey[:26], torch.from_numpy(whole).float().mean((1, 2, 3)) / 255, atol=1e-4)
