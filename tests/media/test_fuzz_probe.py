"""Mutated files: whatever the bytes, the probe ends in a description or one line, soon, and survives."""

import time
from pathlib import Path

import numpy as np
import pytest
from numbered import write_numbered

from v2meow.media import MediaError, Reader

_SOON_S = 20.0


def _mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Damage of one of the kinds that uploads and attackers do: bits, runs, lengths, cuts, parts moved."""
    data = bytearray(whole)
    kind = random.integers(5)
    at = int(random.integers(len(data) if random.random() < 0.4 else min(len(data), 2_000)))
    if kind == 0:
        for place in random.integers(0, len(data), 20):
            data[place] ^= 1 << random.integers(8)
    elif kind == 1:
        data[at : at + 64] = random.bytes(64)
    elif kind == 2:  # a length or a count that is huge
        data[at : at + 4] = b"\xff\xff\xff\xff" if random.random() < 0.5 else b"\x7f\xff\xff\xff"
    elif kind == 3:
        data = data[: max(1, at)]
    else:
        data = data[:at] + data[at // 2 : at // 2 + 500] + data[at:]
    return bytes(data)


def _fuzz(reader: Reader, folder: Path, files: int) -> int:
    """Probe so many mutated files; how many were refused."""
    kinds = {"a.mp4": "aac", "a.mkv": "aac", "a.ts": "aac", "a.avi": "libmp3lame"}
    wholes = {name: write_numbered(folder / name, audio=audio).read_bytes() for name, audio in kinds.items()}
    random, refused = np.random.default_rng(0), 0
    for number in range(files):
        name = list(wholes)[number % len(wholes)]
        (folder / name).write_bytes(_mutated(wholes[name], random))
        started = time.monotonic()
        try:
            reader.probe(folder / name)
        except MediaError as error:
            refused += 1
            assert "\n" not in str(error) and "crashed" not in str(error) and "could not be read" not in str(error)
        assert time.monotonic() - started < _SOON_S
    return refused


def test_mutated_files_end_in_a_probe_or_one_line(tmp_path: Path, reader: Reader):
    """One file that hangs or crashes the probe stops the ingest of all others, or slows it to its time limit."""
    assert 0 < _fuzz(reader, tmp_path, 100) < 100


@pytest.mark.long
def test_two_thousand_mutated_files(tmp_path: Path, reader: Reader):
    """As above, of more kinds of damage than a quick look finds."""
    assert 0 < _fuzz(reader, tmp_path, 2_000) < 2_000
