"""The watch on the source: new files come in once, and what came is told to whoever waits for it."""

import tiny_bundle

from flows import ingest as flow
from flows.ingest import ingest


def test_new_videos_come_in_once_and_start_a_retraining(server, small, tmp_path, monkeypatch):
    """A poll that tells of the same videos again would train for ever."""
    told: list[str] = []
    monkeypatch.setattr(flow, "emit_event", lambda name, about, payload: told.append(name))
    source = tmp_path / "source"
    source.mkdir()
    tiny_bundle.silent_video(source / "new.mp4")
    first = ingest(str(small), str(source), return_state=True)
    assert first.is_completed() and "1 files came, enough" in str(first.message), first.message
    assert (small / "data/raw/source/new.mp4").is_file()
    assert ingest(str(small), str(source), return_state=True).name == "Nothing new"
    assert told == [flow.ARRIVED]
