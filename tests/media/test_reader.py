"""The bounded child: whatever happens to it, the parent goes on and the next file is read."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numbered import write_numbered

from v2meow.config import MediaConfig
from v2meow.media import MediaError, Reader


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("video") / "a.mp4")


def _pid(reader: Reader) -> int:
    assert reader._child is not None
    return reader._child._process.pid


def test_a_killed_child_is_replaced(video: Path, limits: MediaConfig):
    """The kernel's out-of-memory killer takes the child in the middle of a request."""
    with Reader(limits) as reader:
        reader.probe(video)
        threading.Timer(0.1, os.kill, (_pid(reader), signal.SIGKILL)).start()
        with pytest.raises(MediaError, match=r"a\.mp4: the decoding process crashed \(exit status -9\)$"):
            reader.frames(video, 24, 1024, seconds=12.0)
        assert reader.probe(video).width == 64


def test_a_child_that_was_started_beforehand_is_the_one_that_is_asked(video: Path, limits: MediaConfig):
    with Reader(limits) as reader:
        reader.begin()
        begun = _pid(reader)
        assert reader.probe(video).width == 64 and _pid(reader) == begun


def test_a_child_that_does_not_start_is_no_fault_of_the_file(video: Path, limits: MediaConfig):
    with Reader(limits) as reader:
        reader.begin()
        os.kill(_pid(reader), signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"did not start: .* crashed \(exit status -9\)$"):
            reader.probe(video)
        assert reader.probe(video).width == 64


def test_stretches_of_a_killed_child_end_with_an_error(video: Path, limits: MediaConfig):
    """Another child knows nothing of them, and what it would show could be of another file."""
    with Reader(limits) as reader:
        stretches = reader.stretches(video, 24, 64, [(0.0, 1.0), (1.0, 1.0)])
        next(stretches)
        os.kill(_pid(reader), signal.SIGKILL)
        with pytest.raises(MediaError, match=r"crashed|lost"):
            list(stretches)
        assert len(list(reader.stretches(video, 24, 64, [(0.0, 1.0), (1.0, 1.0)]))) == 2


def test_stretches_that_nobody_reads_on_are_forgotten(video: Path, limits: MediaConfig):
    """A service that reads the beginning of a thousand videos must not hold a thousand files open."""
    with Reader(limits) as reader:
        reader.probe(video)
        files = Path(f"/proc/{_pid(reader)}/fd")
        before = len(list(files.iterdir()))
        for _ in range(5):
            stretches = reader.stretches(video, 24, 64, [(0.0, 1.0), (1.0, 1.0)])
            next(stretches)
            assert len(list(files.iterdir())) == before + 1
            stretches.close()
        assert len(list(files.iterdir())) == before


def test_a_request_that_takes_too_long_ends(video: Path, limits: MediaConfig):
    """A file that keeps a decoder busy for ever must not keep the run."""
    with Reader(replace(limits, timeout_s=0.15)) as reader:
        with pytest.raises(MediaError, match=r"a\.mp4: took longer than 0\.15 s$"):
            reader.frames(video, 24, 1024, seconds=12.0)
        assert reader.frames(video, 1, 16, seconds=1.0).shape == (1, 16, 16, 3)


def test_a_request_that_needs_too_much_memory_ends(video: Path, limits: MediaConfig):
    """A result that does not fit must be an error of this file, not the end of the machine."""
    with Reader(replace(limits, memory_mib=200)) as reader:
        with pytest.raises(MediaError, match=r"a\.mp4: needed more than 200 MiB$"):
            reader.frames(video, 24, 1024)
        assert reader.frames(video, 24, 64).shape == (240, 64, 64, 3)


def test_a_bomb_is_survived_when_the_pixel_limit_lets_it_through(media_folder: Path, video: Path, limits: MediaConfig):
    """The memory limit is the last line: 384 MB a picture, several of them, from a file of 700 kB."""
    with Reader(replace(limits, max_pixels=10**9, memory_mib=600)) as reader:
        with pytest.raises(MediaError, match=r"bomb_16000x16000\.mp4: "):
            reader.frames(media_folder / "hostile" / "bomb_16000x16000.mp4", 1, 64)
        assert reader.probe(video).width == 64


def test_the_child_is_bounded_by_the_kernel(video: Path, limits: MediaConfig):
    """A limit that is set on the wrong resource, or after the file is opened, bounds nothing."""
    with Reader(limits) as reader:
        reader.probe(video)
        lines = Path(f"/proc/{_pid(reader)}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in lines}
    assert (soft["Max file size"], soft["Max core file size"]) == ("0", "0")
    assert 1536 << 20 < int(soft["Max address space"]) < 2560 << 20


def test_the_child_ends_with_its_parent(video: Path):
    """A decoder that outlives a killed run holds memory and a processor for ever."""
    code = (
        "import os, sys; from pathlib import Path;"
        "from v2meow.config import MediaConfig; from v2meow.media import Reader;"
        "reader = Reader(MediaConfig(timeout_s=9.0, memory_mib=900, max_pixels=10**6, max_seconds=99.0));"
        "reader.probe(Path(sys.argv[1])); print(reader._child._process.pid, flush=True); os._exit(1)"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(video)], capture_output=True, text=True, check=False)
    child = Path("/proc") / parent.stdout.strip()
    waited = threading.Event()
    for _ in range(100):
        if not child.exists() or "\nState:\tZ" in (child / "status").read_text():
            return
        waited.wait(0.1)
    pytest.fail(f"the child {child.name} is still there after 10 s")


def test_a_reader_can_be_used_again_after_it_was_closed(video: Path, limits: MediaConfig):
    reader = Reader(limits)
    for _ in range(2):
        with reader:
            assert reader.probe(video).width == 64


def test_arrays_can_be_written_to(video: Path, reader: Reader):
    """Torch refuses to share memory that is read-only, with a warning a call."""
    assert reader.frames(video, 1, 16).flags.writeable
    assert reader.waveform(video, 8_000).flags.writeable


def test_import_is_cheap():
    """Every step is a process of its own, and this package is imported by several."""
    code = "import sys, v2meow.media; print(*sorted({'torch', 'pandas', 'pyarrow', 'scipy'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_two_readers_in_two_threads_do_not_disturb_each_other(video: Path, limits: MediaConfig):
    """Catalogues are read by several threads, each with a reader."""
    found: dict[int, np.ndarray] = {}

    def read(place: int) -> None:
        with Reader(limits) as reader:
            found[place] = reader.frames(video, 10, 32)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0], found[1])
