"""From three videos to examples: ingest, fitted extractors, features and ids, with real media throughout."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch

from v2meow.config import RecipeError
from v2meow.data import clips, extract
from v2meow.data.dataset import read_examples, schema
from v2meow.data.manifest import EXAMPLES, FAILED, RAW, read_clips, read_failed
from v2meow.data.shards import read_shards
from v2meow.data.synthetic import FPS, SAMPLE_RATE, caption, draw_factors, draw_frames, play
from v2meow.encoders.codec import load_codec
from v2meow.encoders.visual import motion
from v2meow.media import write_video
from v2meow.train import fit

ENCODERS = ("codec", "semantic", "joint")
PARTIAL = EXAMPLES.with_name(".examples.partial")


@pytest.fixture(scope="module")
def recipe():
    return tiny.recipe()


@pytest.fixture(scope="module")
def fitted(recipe, tmp_path_factory):
    """A workspace of three videos of 5 s with fitted extractors, and what fitting told."""
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / RAW).mkdir(parents=True)
    for index in range(3):
        random = np.random.default_rng(index)
        factors = replace(draw_factors(random, index), energy=0.5)
        video = workspace / RAW / f"{index}.mp4"
        write_video(video, draw_frames(factors, random, 5.0), FPS, play(factors, random, 5.0), SAMPLE_RATE)
        video.with_suffix(".json").write_text(
            json.dumps({"caption": caption(factors, random), "attributes": {"n": index}})
        )
    clips.run(recipe, workspace)
    return workspace, {name: fit.run(name, recipe, workspace) for name in ENCODERS}


@pytest.fixture(scope="module")
def examples(recipe, fitted):
    """The tables that `extract` wrote, as one."""
    workspace, _ = fitted
    figures = extract.run(recipe, workspace)
    assert figures == {"examples": 12, "failed": 0, "taken": 0, "shards": 3, "shards_kept": 0}
    return _table(workspace)


def _table(workspace):
    return pa.concat_tables(read_shards(workspace / EXAMPLES))


def _contents(workspace):
    return {path.name: path.read_bytes() for path in (workspace / EXAMPLES).iterdir()}


def test_every_extractor_is_fitted_and_tells_how_well(fitted):
    workspace, figures = fitted
    assert np.isfinite(figures["codec"]["si_sdr_db"]) and 0 < figures["codec"]["codebook_use"] <= 1
    assert figures["semantic"]["frames"] >= 16 and figures["semantic"]["mean_squared_distance"] > 0
    assert figures["joint"]["pairs"] == sum(clip.split == "train" for clip in read_clips(workspace))
    assert 0 <= figures["joint"]["recall_at_1"] <= 1
    for name in ENCODERS:
        assert (workspace / "models/encoders" / name / "model.safetensors").exists()


@pytest.mark.parametrize("name", ENCODERS)
def test_fitting_again_gives_the_same_weights(name, recipe, fitted):
    """Otherwise every later step runs again, and old ids mean something else."""
    workspace, _ = fitted
    weights = workspace / "models/encoders" / name / "model.safetensors"
    before = weights.read_bytes()
    fit.run(name, recipe, workspace)
    assert weights.read_bytes() == before


def test_each_clip_is_one_row_of_the_promised_shapes(recipe, fitted, examples):
    workspace, _ = fitted
    assert examples.schema == schema(recipe)
    rows = examples.to_pylist()
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in read_clips(workspace)]
    for row, clip in zip(rows, read_clips(workspace), strict=True):
        assert (row["split"], row["caption"], json.loads(row["attributes"])) == (
            clip.split,
            clip.caption,
            clip.attributes,
        )
        assert len(row["semantic"]) == recipe.semantic_frames and set(row["semantic"]) <= set(range(16))
        assert len(row["codes"]) == 4 * recipe.codec_frames and set(row["codes"]) <= set(range(16))
        assert len(row["visual_motion"]) == 20 * tiny.WIDTH and np.isfinite(row["visual_motion"]).all()
        assert np.linalg.norm(row["joint"]) == pytest.approx(1, abs=1e-4)


def test_a_row_holds_what_its_own_clip_shows_and_sounds(recipe, fitted, examples, reader):
    """Batched extraction could hand a clip its neighbour's features, and all shapes would still be right."""
    workspace, _ = fitted
    codec = load_codec(workspace / "models/encoders/codec")
    examples = {row["clip_id"]: row for row in examples.to_pylist()}
    for clip in read_clips(workspace)[3:9:2]:
        waveform = reader.waveform(workspace / clip.path, 16_000, clip.start, 2.0)
        codes = codec.encode(torch.from_numpy(waveform)[None])[0].flatten().tolist()
        assert np.mean(np.array(codes) == examples[clip.clip_id]["codes"]) > 0.99  # near ties may fall either way
        pictures = motion(reader.frames(workspace / clip.path, 10.0, 64, clip.start, 2.0))
        found = np.reshape(examples[clip.clip_id]["visual_motion"], pictures.shape)
        np.testing.assert_allclose(found[1:], pictures[1:], rtol=1e-5)  # the first one's motion is from before the clip


def test_extracting_again_writes_the_same_bytes(recipe, fitted, examples):
    workspace, _ = fitted
    before = _contents(workspace)
    assert sorted(before) == [
        "examples.json",
        "failed.csv",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    extract.run(recipe, workspace)
    assert _contents(workspace) == before
    assert not (workspace / PARTIAL).exists()


def test_a_clip_whose_file_vanished_is_listed_and_the_rest_is_there(recipe, fitted, examples):
    """And examples that were there before it vanished are gone: the table tells of this run alone."""
    workspace, _ = fitted
    lost = [clip.clip_id for clip in read_clips(workspace) if clip.path.endswith("2.mp4")]
    video = workspace / RAW / "2.mp4"
    video.rename(workspace / "elsewhere")
    try:
        assert extract.run(recipe, workspace) == {"examples": 8, "failed": 4, "taken": 0, "shards": 3, "shards_kept": 0}
    finally:
        (workspace / "elsewhere").rename(video)
    failed = read_failed(workspace / FAILED)
    assert sorted(failed) == sorted(lost)
    assert all("no such file" in reason for reason in failed.values())
    ids = _table(workspace)["clip_id"].to_pylist()
    assert ids == [clip_id for clip_id in examples["clip_id"].to_pylist() if clip_id not in lost]
    extract.run(recipe, workspace)
    assert len(read_examples(recipe, workspace, "train")) + len(read_examples(recipe, workspace, "holdout")) == 12


def test_a_catalogue_too_small_for_the_recipe_is_told_by_the_key(fitted):
    workspace, _ = fitted
    for name, key, more in (
        ("codec", "codec.bins", {}),
        ("semantic", "semantic_ids.clusters", {"semantic_ids.sample_frames": 4096}),
    ):
        with pytest.raises(RecipeError, match=key):
            fit.run(name, tiny.recipe({key: 4096} | more), workspace)
