"""What is worked on together depends on the clips and the recipe alone."""

import tiny

from v2meow.data.extract.plan import make_shards


def _clips(make_clip, video=1, count=5, hop=1.0):
    return [make_clip(video, index, start=hop * index, seconds=2.0) for index in range(count)]


def test_every_clip_is_in_one_batch_of_one_shard_in_the_order_of_the_table(make_clip):
    clips = [clip for video in range(5) for clip in _clips(make_clip, video)]
    shards = make_shards(tiny.recipe(), clips)
    assert [shard.number for shard in shards] == [0, 1, 2, 3, 4]
    assert [len(shard) for shard in shards] == [5, 5, 5, 5, 5]
    assert [[len(batch) for batch in shard.batches] for shard in shards[:2]] == [[4, 1], [4, 1]]
    planned = [
        clip for shard in shards for batch in shard.batches for stretch in batch.stretches for clip in stretch.clips
    ]
    assert planned == clips


def test_neighbours_of_a_video_are_read_in_one_go(make_clip):
    """Clips overlap by half: one by one, every picture would be decoded twice."""
    clips = [*_clips(make_clip, 1, count=2), *_clips(make_clip, 2, count=2)]
    (shard,) = make_shards(tiny.recipe(), clips)
    wholes = [stretch.whole for batch in shard.batches for stretch in batch.stretches]
    spans = [(whole.path, whole.start, whole.seconds) for whole in wholes]
    assert spans == [("data/raw/001.mp4", 0.0, 3.0), ("data/raw/002.mp4", 0.0, 3.0)]


def test_what_is_worked_on_together_does_not_depend_on_other_videos(make_clip):
    """The last bits of a video's features would change with the catalogue, and none could be kept."""
    three = [clip for video in (1, 2, 3) for clip in _clips(make_clip, video)]

    def batches(clips) -> list[list[str]]:
        shards = make_shards(tiny.recipe(), clips)
        return [[clip.clip_id for clip in batch.clips] for shard in shards for batch in shard.batches]

    without = batches(three[:5] + three[10:])
    assert without == [batch for batch in batches(three) if batch in without]


def test_a_gap_is_not_read(make_clip):
    clips = _clips(make_clip)
    (shard,) = make_shards(tiny.recipe(), [clips[0], clips[3], clips[4]])
    assert [len(stretch.clips) for stretch in shard.batches[0].stretches] == [1, 2]


def test_a_long_video_is_read_in_parts(make_clip):
    """What one reading takes of memory and patience must not grow with the video."""
    recipe = tiny.recipe({"extract.batch": 100, "extract.shard_clips": 100})
    (shard,) = make_shards(recipe, _clips(make_clip, count=90))
    stretches = shard.batches[0].stretches
    assert len(stretches) > 1 and all(stretch.whole.seconds <= 30.0 for stretch in stretches)
    assert sum(len(stretch.clips) for stretch in stretches) == 90


def test_clips_that_start_between_pictures_are_read_one_by_one(make_clip):
    """Cut out of a longer reading they would get pictures of another moment."""
    recipe = tiny.recipe({"data.hop_seconds": 0.75})
    (shard,) = make_shards(recipe, _clips(make_clip, count=3, hop=0.75))
    assert [len(stretch.clips) for stretch in shard.batches[0].stretches] == [1, 1, 1]
