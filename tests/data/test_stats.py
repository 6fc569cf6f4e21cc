"""A catalogue is described by its videos, not by its clips, and what is written in it stays text."""

import json
from dataclasses import replace

import numpy as np
import pytest

from v2meow.data.chart import bar, charts, write_page
from v2meow.data.manifest import CLIPS, read_clips_table, write_clips
from v2meow.data.stats import UNKNOWN, per_video, stats


@pytest.fixture
def table(tmp_path, make_clip):
    """Two videos of an hour of jazz, with one clip and three; one without a genre, of half an hour."""
    jazz = {"genre": "jazz & <b>", "video_seconds": 3600.0, "tempo": 90.0}
    clips = [make_clip(0, **jazz), *(make_clip(1, index, **jazz, lufs=-10.0 * index) for index in range(3))]
    write_clips(tmp_path / CLIPS, [*clips, make_clip(2, video_seconds=1800.0)])
    return read_clips_table(tmp_path)


def test_hours_are_those_of_videos(table):
    """Counted by clips, a long video would weigh as often as it was cut."""
    found = stats(table)
    assert (found.videos, found.clips, found.hours) == (3, 5, 2.5)
    assert found.hours_by_genre == {"jazz & <b>": 2.0, UNKNOWN: 0.5}
    assert found.hours_by_split == {"train": 1.5, "holdout": 1.0}
    assert json.loads(json.dumps(found.plain()))["videos_by_licence"] == {UNKNOWN: 3}


def test_figures_are_means_of_a_video(table):
    assert per_video(table)["lufs"].tolist() == [0.0, -10.0, 0.0]


def test_a_video_without_a_beat_has_no_tempo(table):
    """A bar at 0 beats a minute would be taken for a tempo."""
    (tempo,) = (histogram for histogram in stats(table).histograms if histogram.words.startswith("tempo"))
    assert tempo.edges == (90.0, 90.0) and tempo.counts == (2,)


def test_a_table_of_an_earlier_edition_is_described_as_far_as_it_goes(table):
    """`data diff` would be of no use across the very update that made the catalogue richer."""
    found = stats(table.drop_columns(["genre", "licence", "lufs", "tempo", "music_score"]))
    assert found.hours_by_genre == {UNKNOWN: 2.5}
    assert "loudness, LUFS" not in [histogram.words for histogram in found.histograms]


def test_an_empty_table_has_no_bars(table):
    found = stats(table.slice(0, 0))
    assert found.videos == 0 and found.hours == 0.0 and found.histograms == ()


def test_many_genres_are_summed_up(table):
    found = stats(table.set_column(table.column_names.index("genre"), "genre", [[f"g{row}" for row in range(5)]]))
    assert len(charts(found)["Hours by genre"]) == 3
    many = dict.fromkeys(map(str, range(30)), 1.0)
    shown = charts(replace(found, hours_by_genre=many))["Hours by genre"]
    assert len(shown) == 21 and shown[-1] == ("10 others", 10.0)


def test_the_page_takes_words_for_words_and_is_the_same_again(tmp_path, table):
    pages = [tmp_path / "1.html", tmp_path / "2.html"]
    for page in pages:
        write_page(page, stats(table))
    text = pages[0].read_text()
    assert "jazz &amp; &lt;b&gt;" in text and "<b>" not in text and text == pages[1].read_text()


@pytest.mark.parametrize(("value", "drawn"), [(0, ""), (8, "█" * 8), (0.5, "▌"), (4.25, "████▎")])
def test_bars_are_exact_to_an_eighth(value, drawn):
    assert bar(value, 8, 8) == drawn
    assert bar(value, 0, 8) == ""


def test_histograms_hold_every_video(table):
    assert all(np.sum(histogram.counts) == 3 for histogram in stats(table).histograms if "tempo" not in histogram.words)
