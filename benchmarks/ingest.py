"""Reading and encoding videos at the nano recipe's sizes, beside the ways in which it is usually done."""

import argparse
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks import measure
from v2meow.config import LappedCodecConfig, Recipe, TwoTowerConfig, load_recipe, recipe_path
from v2meow.data import clips, extract, synthetic
from v2meow.data.examined import cache_folder
from v2meow.data.extract.columns import loaders
from v2meow.data.extract.local import one_thread
from v2meow.data.extract.media import BatchMedia, read_batch
from v2meow.data.extract.plan import make_shards
from v2meow.data.manifest import RAW, read_clips
from v2meow.encoders.visual import load_visual
from v2meow.media import Reader
from v2meow.train import fit

SIZES = {"pictures 10 Hz 64 px": (10.0, 64), "pictures 1 Hz 224 px": (1.0, 224)}
SPAN_S = 30.0  # of a video that is read at once
HELP = """\
Seconds of video that are read or encoded in a second of one core's time, ours and the usual ways in turns.

  pictures  reading them at a rate and size: ours seeks or scans, whichever is cheaper, and scales in FFmpeg, in a
            bounded child process whose start counts, too
    every frame   decode every frame, make each an image of PIL, scale it, keep those that are asked for
    one scan      decode every frame, but scale only those that are asked for
  encode    all extractors of the nano recipe, of media that were read before
    one by one    a frame, and a clip's sound, at a time instead of a batch
  ingest    the whole step: decoding, cutting, measuring, looking for copies; `again` when nothing changed; no peers
  extract   the whole step, reading and encoding; has no peer

  ours_x_core, peer_x_core  seconds of video over seconds of processor time, child processes included
  ours_x, peer_x            seconds of video over seconds by the clock, on all cores there are
  speedup                   median of the rounds' own peer / ours, by the clock: above 1 where we are faster

  uv run --extra pipeline python -m benchmarks.ingest --json
  uv run --extra pipeline python -m benchmarks.ingest --videos MY_VIDEOS --rounds 3
"""


@dataclass
class Metered:
    """Something to measure, and the processor time in seconds that each of its turns took."""

    run: Callable[[], object]
    cores: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        before = _processor_time()
        self.run()
        self.cores.append(_processor_time() - before)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """A workspace with clips and encoders, and the seconds that its clips cover of each video."""

    recipe: Recipe
    workspace: Path
    spans: dict[Path, float]

    @property
    def seconds(self) -> float:
        return sum(self.spans.values())


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, then a row a case and peer."""
    asked = _parser().parse_args(arguments)
    measure.emit(measure.machine(), json=asked.json)
    with catalogue(asked.videos, asked.synthetic) as found:
        for row in compare(found, asked.rounds):
            measure.emit(row, json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="music videos; default: synthetic ones")
    parser.add_argument("--synthetic", type=int, default=16, metavar="N", help="how many of these; default: 16")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which each takes its turn; default: 3")
    return parser


@contextmanager
def catalogue(videos: Path | None, synthetic_videos: int) -> Iterator[Catalogue]:
    """A workspace of the nano recipe. Its encoders are hardly trained: what they say changes, not what it costs."""
    nano = load_recipe(recipe_path("nano"))
    assert isinstance(nano.codec, LappedCodecConfig) and isinstance(nano.joint, TwoTowerConfig)
    recipe = replace(
        nano, codec=replace(nano.codec, steps=1, sample_frames=4 * nano.codec.bins), joint=replace(nano.joint, steps=1)
    )
    with tempfile.TemporaryDirectory(prefix="v2meow-ingest-") as folder:
        workspace = Path(folder)
        if videos is None:
            synthetic.make(workspace / RAW, 0, synthetic_videos)
        else:
            (workspace / "data").mkdir()
            (workspace / RAW).symlink_to(videos.resolve())
        clips.run(recipe, workspace)
        for name in ("codec", "semantic", "joint"):
            fit.run(name, recipe, workspace)
        spans: dict[Path, float] = {}
        for clip in read_clips(workspace):
            spans[workspace / clip.path] = max(spans.get(workspace / clip.path, 0.0), clip.start + clip.seconds)
        yield Catalogue(recipe=recipe, workspace=workspace, spans=spans)


def compare(found: Catalogue, rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of all cases."""
    for case, (rate, size) in SIZES.items():
        contestants: dict[str, Callable[[], object]] = {
            "ours": lambda rate=rate, size=size: our_pictures(found, rate, size),
            "every frame": lambda rate=rate, size=size: every_frame(found, rate, size),
            "one scan": lambda rate=rate, size=size: one_scan(found, rate, size),
        }
        yield from _contest(case, found.seconds, contestants, rounds)
    with one_thread():
        yield from _contest("encode", found.seconds, _encoders(found), rounds)
    first: dict[str, Callable[[], object]] = {"ours": lambda: first_ingest(found)}
    yield from _contest("ingest", found.seconds, first, rounds)
    again: dict[str, Callable[[], object]] = {"ours": lambda: clips.run(found.recipe, found.workspace)}
    yield from _contest("ingest again", found.seconds, again, rounds)
    step: dict[str, Callable[[], object]] = {"ours": lambda: extract.run(found.recipe, found.workspace)}
    yield from _contest("extract", found.seconds, step, rounds)


def _contest(
    case: str, seconds: float, contestants: dict[str, Callable[[], object]], rounds: int
) -> Iterator[dict[str, Any]]:
    metered = {name: Metered(run) for name, run in contestants.items()}
    taken = measure.alternate({name: meter.__call__ for name, meter in metered.items()}, rounds)

    def paces(name: str | None) -> tuple[float | None, float | None]:
        if name is None:
            return None, None
        return seconds / median(metered[name].cores[1:]), seconds / median(taken[name])

    for peer in [name for name in contestants if name != "ours"] or [None]:
        (ours_core, ours), (peer_core, theirs) = paces("ours"), paces(peer)
        yield {
            "bench": "ingest",
            "case": case,
            "seconds": seconds,
            "peer": peer,
            "ours_x_core": ours_core,
            "peer_x_core": peer_core,
            "ours_x": ours,
            "peer_x": theirs,
            "speedup": measure.ratio(taken, peer, "ours") if peer else None,
        }


# ---- pictures


def first_ingest(found: Catalogue) -> object:
    """As if no video had been seen before."""
    shutil.rmtree(cache_folder(found.workspace))
    return clips.run(found.recipe, found.workspace)


def our_pictures(found: Catalogue, rate: float, size: int) -> list[np.ndarray]:
    """uint8 [V, size, size, 3] of each video."""
    with Reader(found.recipe.media) as reader:
        return [
            np.concatenate([reader.frames(path, rate, size, start, end - start) for start, end in _parts(seconds)])
            for path, seconds in found.spans.items()
        ]


def every_frame(found: Catalogue, rate: float, size: int) -> list[np.ndarray]:
    """The same, by way of an image of every frame."""
    videos = []
    for path, seconds in found.spans.items():
        shown = [(time, _scaled(frame, size)) for time, frame in _decoded(path)]
        videos.append(np.stack([picture for _, picture in _at(shown, rate, seconds)]))
    return videos


def one_scan(found: Catalogue, rate: float, size: int) -> list[np.ndarray]:
    """The same, scaling only what is asked for."""
    return [
        np.stack([_scaled(frame, size) for _, frame in _at(_decoded(path), rate, seconds)])
        for path, seconds in found.spans.items()
    ]


def _parts(seconds: float) -> Iterator[tuple[float, float]]:
    return pairwise([*np.arange(0, seconds, SPAN_S).tolist(), seconds])


def _decoded(path: Path) -> Iterator[tuple[float, Any]]:
    """(seconds after the first frame, frame) of the first video stream."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        zero = None
        for frame in container.decode(stream):
            zero = frame.time if zero is None else zero
            yield frame.time - zero, frame


def _scaled(frame: Any, size: int) -> np.ndarray:
    return np.asarray(frame.to_image().resize((size, size), Image.Resampling.BOX))


def _at(shown: Any, rate: float, seconds: float) -> Iterator[tuple[float, Any]]:
    """What is on screen at i / rate, of (time, picture) in their order."""
    times = iter(np.arange(round(seconds * rate)) / rate)
    due, current = next(times, None), None
    for item in shown:
        while current is not None and due is not None and due < item[0] - 1e-3:
            yield current
            due = next(times, None)
        current = item
    while current is not None and due is not None:
        yield current
        due = next(times, None)


# ---- extractors


def _encoders(found: Catalogue) -> dict[str, Callable[[], object]]:
    recipe, workspace = found.recipe, found.workspace
    columns = {name: load() for name, load in loaders(recipe, workspace).items()}
    sound = [extract for name, extract in columns.items() if not name.startswith("visual_")]
    visual = [load_visual(config) for config in recipe.visual]
    with Reader(recipe.media) as reader:
        batches = [batch for shard in make_shards(recipe, read_clips(workspace)) for batch in shard.batches]
        media = [read_batch(recipe, workspace, reader, batch) for batch in batches]

    def batched() -> None:
        for batch in media:
            for encode in columns.values():
                encode(batch)

    def one_by_one() -> None:
        for batch in media:
            for encode, videos in zip(visual, batch.frames, strict=True):
                for frames in videos:
                    for index in range(len(frames)):
                        encode(frames[max(0, index - 1) : index + 1])  # motion needs the frame before
            for clip in range(len(batch.clips)):
                for encode in sound:
                    encode(_alone(batch, clip))

    return {"ours": batched, "one by one": one_by_one}


def _alone(batch: BatchMedia, clip: int) -> BatchMedia:
    return replace(batch, clips=[batch.clips[clip]], waveforms=batch.waveforms[clip : clip + 1])


def _processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
