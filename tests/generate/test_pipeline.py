"""The cascade of a tiny, untrained bundle: lengths, seeds, batches, windows, and what is refused."""

import math
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_bundle
import torch
from tiny_bundle import RATE, silent_video

from v2meow import bundle
from v2meow.bundle import BundleError
from v2meow.config import STAGES, StageName
from v2meow.encoders.visual import WIDTH
from v2meow.files import write_json
from v2meow.generate.files import Order, generate_file, read_features
from v2meow.generate.parts import PromptError, stage_engine
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.generate.request import Request
from v2meow.generate.takes import agreement
from v2meow.media import MediaError, Reader, read_wav, write_wav
from v2meow.model.lm import Conditions
from v2meow.model.patterns import UNKNOWN


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    return tiny_bundle.parts(tmp_path_factory.mktemp("models"))


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
    return silent_video(tmp_path_factory.mktemp("videos") / "silent.mp4")


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


def _piece(cascade: Cascade, seconds: float, seed: int = 0, row: int = 0, joint=None, **given) -> Piece:
    visual = tuple(features[row] for features in _visual(seconds, batch=row + 1))
    return Piece(Brief(visual=visual, joint=joint, seconds=seconds, seed=seed, **given), cascade.recipe)


def _finish(cascade: Cascade, *pieces: Piece) -> list[torch.Tensor]:
    """The sound of each piece."""
    chunks = [[] for _ in pieces]
    for number, chunk in cascade.stream(list(pieces)):
        chunks[number].append(chunk)
    return [torch.cat(parts) for parts in chunks]


def test_a_batch_gives_the_codes_and_the_sound_that_each_request_gives_alone(cascade, model):
    """Across all stages and windows, with pictures and prompts of their own, and fewer places than pieces."""
    joint, seeds = torch.randn(3, 8), [4, 5, 6]
    wide = Cascade(model, pieces=2)
    together = [_piece(wide, 3.0, seed, row, joint[row]) for row, seed in enumerate(seeds)]
    sound = _finish(wide, *together)
    for row, seed in enumerate(seeds):
        alone = _piece(cascade, 3.0, seed, row, joint[row])
        assert torch.equal(_finish(cascade, alone)[0], sound[row])
        assert all(torch.equal(alone.tracks[stage], together[row].tracks[stage]) for stage in STAGES)


@pytest.mark.parametrize("changes", [["coarse", "fine"], ["fine"], ["video"]], ids=" ".join)
def test_every_kind_of_cascade_streams_what_it_makes_as_a_whole(changes, tmp_path):
    """Stages that decode in passes, and a coarse stage that sees the picture, in the same pipeline."""
    choices = {"stages.coarse_sees_video": "video" in changes}
    for stage in ("coarse", "fine"):
        choices |= tiny.laid_out(stage, "parallel") if stage in changes else {}
    bundle.assemble(tiny_bundle.parts(tmp_path / "parts", choices), tmp_path / "bundle")
    cascade = Cascade(tmp_path / "bundle", pieces=2)
    pieces = [_piece(cascade, 3.3, seed, row) for row, seed in enumerate((4, 5))]
    sound = _finish(cascade, *pieces)
    for row, seed in enumerate((4, 5)):
        alone = _piece(cascade, 3.3, seed, row)
        assert torch.equal(_finish(cascade, alone)[0], sound[row])
        whole = cascade.codec.decode(alone.codes[None])[0, : round(3.3 * RATE)]
        torch.testing.assert_close(sound[row], whole, atol=1e-5, rtol=1e-4)
        assert (alone.codes >= 0).all()


def test_streamed_sound_is_that_of_the_whole_decoded_at_once(cascade):
    """A chunk decoded with too little context around it clicks at its edges."""
    piece = _piece(cascade, 5.37)
    sizes = []
    streamed = torch.cat([chunk for _, chunk in cascade.stream([piece]) if sizes.append(len(chunk)) is None])
    whole = cascade.codec.decode(piece.codes[None])[0, : len(streamed)]
    assert len(streamed) == round(5.37 * RATE)
    assert sizes == [RATE, RATE, 2 * RATE, len(streamed) - 4 * RATE]
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-4)


def test_the_first_sound_comes_while_most_is_still_to_be_decoded(cascade):
    """That is what streaming is for; a pipeline that waits for a whole stage is none."""
    piece = _piece(cascade, 8.0)
    stream = cascade.stream([piece])
    next(stream)
    assert piece.ready["semantic"] <= 50 and piece.ready["coarse"] < 200 and piece.ready["fine"] <= 100
    stream.close()


def test_a_listener_who_leaves_frees_all_places(cascade):
    """And whoever comes next hears what he would have heard."""
    before = cascade.generate(_visual(3.0), None, 3.0, [1])
    stream = cascade.stream([_piece(cascade, 6.0)])
    next(stream)
    assert any(engine.busy for engine in cascade.engines.values())
    stream.close()
    assert not any(engine.busy for engine in cascade.engines.values())
    assert torch.equal(cascade.generate(_visual(3.0), None, 3.0, [1]), before)


def test_two_streams_at_once_get_each_their_own(cascade):
    """Codes go to the piece that asked for them, whoever drives the engines."""
    expected = [_finish(cascade, _piece(cascade, 3.0, seed))[0] for seed in (1, 2)]
    streams = [cascade.stream([_piece(cascade, 3.0, seed)]) for seed in (1, 2)]
    chunks = [[chunk for _, chunk in pair] for pair in zip(*streams, strict=True)]
    for number in (0, 1):
        assert torch.equal(torch.cat([pair[number] for pair in chunks]), expected[number])


def test_each_window_is_decoded_from_its_own_stretch_and_the_end_of_the_one_before(cascade, parts):
    """Pictures, ids or codes of another second would all sound as good, and fit nothing."""
    greedy = copy(cascade)
    greedy.recipe = tiny.recipe({f"generate.{stage}.top_k": 1 for stage in STAGES})
    greedy.engines = {stage: stage_engine(parts[stage].parent, greedy.recipe, stage, 1) for stage in STAGES}
    piece = _piece(greedy, 3.0)
    visual = piece.brief.visual[0][None]
    _finish(greedy, piece)

    def decoded(stage: StageName, given: Conditions, context: torch.Tensor, frames: int) -> torch.Tensor:
        """`frames` fresh codes behind the codes `context` [K, t]."""
        known = torch.cat((context, torch.full((len(context), frames), UNKNOWN)), 1)
        engine = greedy.engines[stage]
        engine.submit(Request(given, known, 0))
        while not (done := engine.step()):
            pass
        return next(iter(done.values()))[:, context.shape[1] :]

    ids = decoded("semantic", Conditions(visual=(visual[:, :20],)), torch.empty(1, 0).long(), 50)
    ids = torch.cat((ids, decoded("semantic", Conditions(visual=(visual[:, 10:30],)), ids[:, 25:], 25)), 1)
    assert torch.equal(piece.tracks["semantic"], ids)

    coarse = decoded("coarse", Conditions(prefix=ids[None, :, :50]), torch.empty(2, 0).long(), 100)
    coarse = torch.cat((coarse, decoded("coarse", Conditions(prefix=ids[None, :, 25:]), coarse[:, 50:], 50)), 1)
    assert torch.equal(piece.tracks["coarse"], coarse)

    pieces = [Conditions(prefix=part[None]) for part in coarse.split(50, 1)]
    fine = torch.cat([decoded("fine", part, torch.empty(2, 0).long(), 50) for part in pieces], 1)
    assert torch.equal(piece.tracks["fine"], fine)


@pytest.mark.parametrize("given_seconds", [0.4, 1.0, 2.6, 3.0])
def test_music_that_is_given_is_kept_and_gone_on_from(cascade, given_seconds):
    """Continuation: what was given must stand to the code, and change what follows."""
    sound = torch.sin(torch.arange(round(given_seconds * RATE)) * 0.1)
    ids, codes = cascade.begin_with(sound)
    assert (ids.shape, codes.shape) == ((25 * given_seconds,), (4, 50 * given_seconds))
    piece, free = _piece(cascade, 3.0, ids=ids, codes=codes), _piece(cascade, 3.0)
    continued, unlike = _finish(cascade, piece), _finish(cascade, free)
    assert torch.equal(piece.tracks["semantic"][0, : len(ids)], ids)
    assert torch.equal(piece.codes[:, : codes.shape[1]], codes)
    assert continued[0].shape == unlike[0].shape
    if given_seconds < 3:
        assert not torch.equal(piece.codes[:, codes.shape[1] :], free.codes[:, codes.shape[1] :])


@torch.inference_mode()
def test_agreement_is_what_the_picture_is_worth(cascade):
    """Written out with plain forwards, window by window; a picture that is not looked at is worth nothing."""
    piece = _piece(cascade, 3.0)
    _finish(cascade, piece)
    model, worth = cascade.engines["semantic"].model, []
    visual, ids = piece.brief.visual[0][None], piece.tracks["semantic"][None]
    for picture, codes, fresh in ((visual[:, :20], ids[..., :50], 0), (visual[:, 10:30], ids[..., 25:], 25)):
        likelihoods = []
        for keep in (True, False):
            given = Conditions(visual=(picture,), keep_video=torch.tensor([keep]))
            chances = model(codes, given).log_softmax(-1)[0, :, 0].gather(1, codes[0, 0, :, None])[:, 0]
            likelihoods.append(chances[fresh:])
        worth.append(likelihoods[0] - likelihoods[1])
    assert agreement(model, piece) == pytest.approx(torch.cat(worth).mean().item(), abs=1e-5)


def test_a_prompt_changes_the_music_and_its_words_matter(cascade):
    vectors = [cascade.embed_prompt(prompt) for prompt in ("loud bells", "quiet flute")]
    pieces = [_piece(cascade, 1.0, joint=joint) for joint in (None, *vectors)]
    _finish(cascade, *pieces)
    ids = [piece.tracks["semantic"] for piece in pieces]
    assert not torch.equal(ids[0], ids[1]) and not torch.equal(ids[1], ids[2])


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(cascade, prompt):
    with pytest.raises(PromptError, match="prompt: it is empty"):
        cascade.embed_prompt(prompt)


def test_a_model_trained_without_captions_refuses_a_prompt(parts, model, video, tmp_path):
    """Followed silently, an untrained vector would only add noise."""
    bundle.assemble(parts, tmp_path / "mute")
    write_json(tmp_path / "mute/encoders/joint/metrics.json", {"follows_text": False})
    parts = {name: tmp_path / "mute" / name for name in parts}
    bundle.assemble(parts, tmp_path / "wordless")
    with pytest.raises(PromptError, match="trained on videos without captions"):
        generate_file(video, tmp_path / "out.mp4", tmp_path / "wordless", Order(prompt="loud bells"))
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
    figures = generate_file(video, out, model, Order(prompt="loud bells", seed=3, wav=True))
    probe = reader.probe(out)
    assert probe.seconds == pytest.approx(reader.probe(video).seconds, abs=0.02)
    assert probe.audio is not None
    music, rate = read_wav(tmp_path / "new/out.wav")
    assert (len(music), rate) == (round(2.6 * RATE), RATE)
    assert figures["seconds"] == pytest.approx(2.6) and figures["seed"] == 3
    generate_file(video, tmp_path / "again.mp4", model, Order(prompt="loud bells", seed=3, wav=True))
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "new/out.wav").read_bytes()


def test_seconds_limit_what_is_generated(model, video, tmp_path):
    generate_file(video, tmp_path / "out.mp4", model, Order(seconds=0.5, wav=True))
    assert len(read_wav(tmp_path / "out.wav")[0]) == RATE // 2
    figures = generate_file(video, tmp_path / "whole.mp4", model, Order(seconds=99.0))
    assert figures["seconds"] == pytest.approx(2.6)


@pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.txt"])
def test_a_result_that_is_no_mp4_is_refused_before_anything_is_loaded(name, video, tmp_path):
    with pytest.raises(MediaError, match=r"give a name that ends in \.mp4") as caught:
        generate_file(video, tmp_path / name, tmp_path / "no model", Order())
    assert "\n" not in str(caught.value)


def test_a_missing_video_is_one_line(model, tmp_path):
    with pytest.raises(MediaError, match="no such file") as caught:
        generate_file(tmp_path / "missing.mp4", tmp_path / "out.mp4", model, Order())
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_features_read_clip_by_clip_are_those_of_the_whole(cascade, video, reader):
    """Joined at a wrong place, every later window would follow other pictures than are on screen."""
    joined = read_features(cascade.recipe, reader, video, 2.6)[0]
    assert joined.shape == (40, WIDTH)  # two clips of 2 s
    whole = reader.frames(video, 10.0, 64, 0.0, 2.6)
    grey = joined[:, :3].mean(1)
    assert torch.allclose(grey[:26], torch.from_numpy(whole).float().mean((1, 2, 3)) / 255, atol=1e-4)


def test_several_takes_are_ranked_by_their_agreement_with_the_picture(model, video, tmp_path):
    """The first file is the one that people keep."""
    figures = generate_file(video, tmp_path / "out.mp4", model, Order(takes=3, seed=5, wav=True))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"out{number}.{kind}" for number in ("", "-2", "-3") for kind in ("mp4", "wav")
    }
    ranked = [float(words.split()[2]) for words in figures["agreement"].split(", ")]
    assert ranked == sorted(ranked, reverse=True) and len(set(ranked)) == 3
    for number, words in zip(("", "-2", "-3"), figures["agreement"].split(", "), strict=True):
        seed = int(words.split()[1].rstrip(":"))
        generate_file(video, tmp_path / "alone.mp4", model, Order(seed=seed, wav=True))
        assert (tmp_path / "alone.wav").read_bytes() == (tmp_path / f"out{number}.wav").read_bytes()


def test_a_score_can_begin_with_given_sound(model, cascade, video, tmp_path):
    """What is heard first is what was given, as the codec renders it."""
    sound = (0.3 * np.sin(np.arange(RATE) * 0.1)).astype(np.float32)
    write_wav(tmp_path / "begin.wav", sound, RATE)
    order = Order(begin=tmp_path / "begin.wav", begin_seconds=0.8, wav=True)
    generate_file(video, tmp_path / "out.mp4", model, order)
    with Reader(cascade.recipe.media) as reader:  # the search for codes is not steady: it needs the very same samples
        given = reader.waveform(tmp_path / "begin.wav", RATE, 0.0, 0.8)
    codes = cascade.begin_with(torch.from_numpy(given))[1]
    rendered = cascade.codec.decode(codes[None])[0, : round(0.6 * RATE)].clamp(-1, 1).numpy()
    music = read_wav(tmp_path / "out.wav")[0][: len(rendered)]
    assert np.abs(music - rendered).max() < 1e-3
