"""Progress reaches whoever watches: a parent process by a file, a person by a bar on standard error."""

import json
import threading

import pytest

from v2meow.progress import FILE_VARIABLE, progress


def test_a_parent_reads_where_a_step_is(tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    with progress("train", 3) as bar:
        bar.advance(note="loss 2.31")
        assert json.loads(file.read_text()) == {"label": "train", "done": 1, "total": 3, "note": "loss 2.31"}
        bar.advance()
        bar.advance(note="loss 1.07")  # the last one is shown however soon it comes
    assert json.loads(file.read_text()) == {"label": "train", "done": 3, "total": 3, "note": "loss 1.07"}
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_parent_never_reads_half_a_line(tmp_path, monkeypatch):
    """A parent that polls must not stumble over a file in the middle of being written."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    ended = threading.Event()

    def write() -> None:
        for _ in range(300):
            with progress("x" * 5000, 1) as bar:
                bar.advance()
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    read = 0
    while not ended.is_set() or not read:
        if file.exists():
            assert json.loads(file.read_text())["done"] == 1
            read += 1
    writer.join()


def test_an_inner_loop_may_advance_often(tmp_path, monkeypatch):
    """Ten thousand writes a second would cost more than the work they tell of."""
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "progress.json"))
    shown = []
    with progress("steps", 10_000) as bar:
        monkeypatch.setattr(bar, "_show", lambda state, note: shown.append(state.done))
        for _ in range(10_000):
            bar.advance()
    assert len(shown) < 1000
    assert shown[-1] == 10_000


def test_a_bar_goes_to_standard_error(monkeypatch, capsys):
    """Standard output belongs to the figures that scripts read."""
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    with progress("fit the codec", 2) as bar:
        bar.advance(2, note="loss 0.5")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "fit the codec" in shown.err and "2/2" in shown.err


def test_an_error_within_is_not_swallowed(monkeypatch):
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    with pytest.raises(ZeroDivisionError), progress("work", 1):
        _ = 1 / 0
