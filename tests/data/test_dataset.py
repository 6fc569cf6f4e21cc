"""Examples come back in their shapes and order, and training sees each as often as any other."""

from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from v2meow.data.dataset import order, read_examples, schema
from v2meow.data.manifest import EXAMPLES, DataError
from v2meow.data.shards import MARKER, write_marker


def _row(recipe, clip_id, split, value):
    """A row whose arrays count upwards from `value`, flattened as they are stored."""
    pictures = round(recipe.data.clip_seconds * recipe.visual[0].rate) * 3
    sizes = {
        "semantic": recipe.semantic_frames,
        "codes": recipe.codec.levels * recipe.codec_frames,
        "visual_motion": pictures,
        "joint": recipe.joint.width,
    }
    arrays = {name: [value + place for place in range(size)] for name, size in sizes.items()}
    return {
        "clip_id": clip_id,
        "video_id": clip_id[:1],
        "split": split,
        "caption": clip_id,
        "attributes": "{}",
    } | arrays


def _write(recipe, workspace, name, rows):
    (workspace / EXAMPLES).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema(recipe)), workspace / EXAMPLES / name)
    write_marker(workspace / EXAMPLES)


@pytest.fixture
def recipe():
    return tiny.recipe()


@pytest.fixture
def workspace(recipe, tmp_path):
    """Two files, with the clips of neither split in order."""
    _write(recipe, tmp_path, "part-00000.parquet", [_row(recipe, "c", "train", 3), _row(recipe, "b", "holdout", 2)])
    _write(recipe, tmp_path, "part-00001.parquet", [_row(recipe, "a", "train", 1)])
    return tmp_path


def test_a_split_is_read_in_the_order_of_its_clips_from_all_files(recipe, workspace):
    """The order of examples decides the batches, so it must not depend on how they were written."""
    examples = read_examples(recipe, workspace, "train")
    assert (examples.clip_id, examples.video_id, examples.caption) == (["a", "c"], ["a", "c"], ["a", "c"])
    assert read_examples(recipe, workspace, "holdout").clip_id == ["b"]


def test_arrays_come_back_in_their_shapes(recipe, workspace):
    """Levels and frames read the wrong way round still have the right number of codes."""
    examples = read_examples(recipe, workspace, "train")
    assert examples.semantic.shape == (2, 1, 50) and examples.semantic.dtype == torch.int64
    assert examples.codes.shape == (2, 4, 100) and examples.codes.dtype == torch.int64
    assert examples.codes[0, :, 0].tolist() == [1, 101, 201, 301]
    assert examples.visual[0].shape == (2, 20, 3)
    assert examples.visual[0][0, 1].tolist() == [4.0, 5.0, 6.0]
    assert examples.joint.shape == (2, 8) and examples.joint.dtype == torch.float32


def test_rows_that_are_selected_keep_all_that_belongs_to_them(recipe, workspace):
    examples = read_examples(recipe, workspace, "train")
    picked = examples.select([1, 1, 0])
    assert picked.clip_id == ["c", "c", "a"] and len(picked) == 3
    assert picked.codes[:, 0, 0].tolist() == [3, 3, 1]
    assert picked.visual[0][:, 0, 0].tolist() == [3.0, 3.0, 1.0]


def test_a_split_without_examples_names_the_step_to_run(recipe, tmp_path):
    with pytest.raises(DataError, match=r"no holdout examples in .*: run `v2meow extract` first"):
        read_examples(recipe, tmp_path, "holdout")
    _write(recipe, tmp_path, "part-00000.parquet", [_row(recipe, "a", "train", 1)])
    with pytest.raises(DataError, match="no holdout examples"):
        read_examples(recipe, tmp_path, "holdout")


def test_an_example_file_that_is_missing_or_another_is_told(recipe, workspace):
    """Training on what is left of a catalogue would go on for days before anyone saw it in the music."""
    first, second = sorted((workspace / EXAMPLES).glob("*.parquet"))
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00001.parquet is not the file .* run `v2meow extract` again"):
        read_examples(recipe, workspace, "train")
    second.unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet is missing: run `v2meow extract` again"):
        read_examples(recipe, workspace, "train")
    assert first.exists()


def test_examples_without_their_list_are_told(recipe, workspace):
    """It is written last: what lies there without it may be half of a catalogue."""
    (workspace / EXAMPLES / MARKER).unlink()
    with pytest.raises(DataError, match=r"not complete \(examples.json is missing\): run `v2meow extract` again"):
        read_examples(recipe, workspace, "train")


@pytest.mark.parametrize("content", ["{", "[]", '{"shards": [{"file": "part-00000.parquet"}]}'])
def test_a_list_of_examples_that_is_none_is_told(recipe, workspace, content):
    (workspace / EXAMPLES / MARKER).write_text(content)
    with pytest.raises(DataError, match=r"examples.json is no list of examples .* run `v2meow extract` again"):
        read_examples(recipe, workspace, "train")


def test_a_file_that_is_not_listed_is_not_read(recipe, workspace):
    """It would be of another extraction."""
    (workspace / EXAMPLES / "part-00002.parquet").write_bytes(
        (workspace / EXAMPLES / "part-00000.parquet").read_bytes()
    )
    assert read_examples(recipe, workspace, "train").clip_id == ["a", "c"]


def _rows(count, batch, seed, steps):
    return [(step, rows.tolist()) for step, rows in islice(order(count, batch, seed), steps)]


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 3), (7, 7), (3, 8), (1, 4)])
def test_every_row_is_seen_once_an_epoch(count, batch):
    """Also where an epoch is no whole number of batches, or a catalogue smaller than one."""
    epochs = 6
    batches = _rows(count, batch, 0, count * epochs // batch)
    assert [step for step, _ in batches] == list(range(len(batches)))
    assert all(len(rows) == batch for _, rows in batches)
    seen = [row for _, rows in batches for row in rows]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_depends_on_the_seed_alone_and_changes_from_epoch_to_epoch():
    """The global random state is anybody's; an order that repeats teaches the order."""
    first = _rows(20, 10, 0, 4)
    torch.manual_seed(99)
    assert _rows(20, 10, 0, 4) == first
    assert _rows(20, 10, 1, 4) != first
    assert first[0][1] + first[1][1] != first[2][1] + first[3][1]


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 3), (3, 8), (1, 4)])
def test_the_order_from_any_step_on_is_the_rest_of_the_order(count, batch):
    """Training that goes on after a checkpoint must neither repeat nor miss an example."""
    whole = _rows(count, batch, 0, 12)
    for first in range(12):
        rest = islice(order(count, batch, 0, first), 12 - first)
        assert [(step, rows.tolist()) for step, rows in rest] == whole[first:]
