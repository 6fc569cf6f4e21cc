"""The demo: a catalogue, every step of the pipeline, a registered model and a scored video, in one call.

It only puts other commands in order, so it can be killed anywhere and repeated: what is finished
stays finished. Whatever takes long runs in a child that dies with it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2meow import live, release, workspace
from v2meow.files import read_json, sha256, write_json

if TYPE_CHECKING:
    from rich.console import Console

CATALOGUE_VIDEOS = 250
RECIPE = "nano"

# Seconds each part took when measured on two cores; only their proportions matter.
_SECONDS = {
    "catalogue": 30.0,
    "ingest": 10.0,
    "validate": 7.0,
    "fit@codec": 40.0,
    "fit@semantic": 12.0,
    "fit@joint": 15.0,
    "extract": 30.0,
    "check-features": 6.0,
    "train@semantic": 60.0,
    "train@coarse": 85.0,
    "train@fine": 30.0,
    "evaluate": 60.0,
    "gate": 2.0,
    "report": 5.0,
    "score": 7.0,
}

RAW, REPORT = Path("data/raw"), Path("reports/report.html")
SCORED, SOUND = Path("demo/scored.mp4"), Path("demo/scored.wav")

Show = Callable[[str, workspace.State, workspace.Progress], None]


def demo(videos: Path | None, out: Path) -> bool:
    """Run, or go on with, the demo in the workspace `out`; True when the model passed its gate.

    `videos` is a folder of music videos to use instead of the synthetic catalogue.
    Raises WorkspaceError for folders that cannot be used, StageError when a part fails.
    """
    if videos:
        workspace.videos_in(videos)  # before anything is made
    workspace.init(out, RECIPE)
    with workspace.owned(out):
        _claim(out, videos)
        release.note_production(out)
        steps = workspace.stages(out)
        with live.shown(["catalogue", *steps, "report", "score"], _SECONDS) as show:
            if videos:
                _bring_videos(videos, out, show)
            else:
                _make_catalogue(CATALOGUE_VIDEOS, out, show)
            ran = workspace.run_stale(out, steps, show)
            workspace.snapshot(out, f"Demo: {', '.join(ran) or 'nothing to run'}")
            verdict = read_json(out / release.VERDICT)
            if verdict["passed"]:
                _release(out)
            data_version = workspace.version(out).data_version
            _part("report", ["report"], {"data": data_version}, [REPORT], out, show)
            video = _unseen_video(out)
            score = ["generate", str(video), "--out", str(SCORED), "--wav", "--model", str(release.BUNDLE)]
            made_from = {"video": sha256(out / video), "bundle": verdict["bundle"]}
            _part("score", score, made_from, [SCORED, SOUND], out, show)
    _tell(out, video, verdict, ran)
    return verdict["passed"]


def _claim(out: Path, videos: Path | None) -> None:
    """Remember whose catalogue this is. Two mixed catalogues would be neither a demo nor anyone's own."""
    source = str(videos.resolve()) if videos else "synthetic"
    path = out / "demo" / "source.json"
    if path.exists():
        claimed = read_json(path)["source"]
        if claimed != source:
            raise workspace.WorkspaceError(f"{out} was made from another catalogue ({claimed}): choose another --out")
    elif any((out / RAW).iterdir()):
        raise workspace.WorkspaceError(f"{out} holds a catalogue of its own: use `v2meow run` there")
    else:
        write_json(path, {"source": source})


def _bring_videos(videos: Path, out: Path, show: Show) -> None:
    show("catalogue", "running", {})
    brought = workspace.add_videos(out, videos)
    show("catalogue", "done" if brought.added else "unchanged", {})


def _make_catalogue(count: int, out: Path, show: Show) -> None:
    _part("catalogue", ["synth", str(RAW), "--videos", str(count)], {"videos": count}, [RAW], out, show)


def _part(name: str, command: list[str], made_from: dict[str, Any], files: list[Path], out: Path, show: Show) -> None:
    """Run `v2meow COMMAND` in the workspace, unless `files` are there and were made from the same."""
    record = out / "demo" / f"{name}.json"
    if record.exists() and read_json(record) == made_from and all((out / file).exists() for file in files):
        show(name, "unchanged", {})
    else:
        show(name, "running", {})
        workspace.run_command(out, name, command, lambda progress: show(name, "running", progress))
        write_json(record, made_from)
        show(name, "done", {})


def _release(out: Path) -> None:
    """Register the model and promote it to staging; both are no-ops the second time."""
    version = release.register(out)
    release.registry(out).promote(release.MODEL_NAME, version.name, "staging", actor="demo")


def _unseen_video(out: Path) -> Path:
    """The first video that training never saw, relative to the workspace."""
    from v2meow.data.manifest import read_clips

    return Path(next(clip.path for clip in read_clips(out) if clip.split == "holdout"))


def _tell(out: Path, video: Path, verdict: dict[str, Any], ran: list[str]) -> None:
    """What was refused, whether the gate passed, where the files are, and what to try next."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _tell_rejected(out, console)
    if not ran:
        console.print("Nothing had changed since the last run: all steps are as they were.")
    _tell_verdict(verdict, console)
    captions = read_json(out / "models/encoders/joint/metrics.json")["pairs"]
    prompt = '--prompt "slow dark bell music" ' if captions else ""
    console.print(f"""
scored video   {out / SCORED}  (the music alone: {out / SOUND})
its picture    {out / video}, which training never saw
report         {out / REPORT}
model          {out / release.BUNDLE}

Try next:
  v2meow generate VIDEO -o OUT.mp4 {prompt}--workspace {out}
  v2meow models show {release.MODEL_NAME} --workspace {out}
  v2meow run --workspace {out}    after a change in {out / "recipe.yaml"}""", markup=False)  # fmt: skip


def _tell_rejected(out: Path, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    from v2meow.data.manifest import REJECTED, read_rejected

    rejected = read_rejected(out / REJECTED)
    if rejected:
        table = Table("file", "why it was rejected", title=f"{len(rejected)} files were rejected")
        for file in rejected:
            table.add_row(Text(file.path), Text(file.reason))
        console.print(table)


def _tell_verdict(verdict: dict[str, Any], console: "Console") -> None:
    if verdict["passed"]:
        console.print(f"The model passed its gate: it is registered and holds {release.MODEL_NAME}@staging.")
        return
    console.print("The model did not pass its gate, so it was not registered:")
    for criterion in verdict["criteria"]:
        if not criterion["passed"]:
            console.print(f"  {criterion['metric']}: {criterion['reason']}", markup=False)
