"""The workspace as a folder: made, found, filled with videos, versioned.

`init` can be killed at any point and repeated. Knows nothing of steps and what they write.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import v2meow
from v2meow.config import load_recipe, recipe_path
from v2meow.files import atomic_file, sha256
from v2meow.workspace.errors import WorkspaceError

RAW = Path("data/raw")
KEPT = Path("encoders.json")  # whose encoders are kept, likewise
PRODUCTION = Path("production.json")  # which model is in production, where git and DVC see it
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)

_UNFINISHED = ".v2meow-init"  # stands in a folder while `init` is at work
_VERSIONED = (
    *(".dvc", ".dvcignore", ".gitignore", "data", "dvc.lock", "dvc.yaml", "models"),
    *(str(KEPT), str(PRODUCTION), "recipe.yaml", "reports"),
)
# The default remote is a folder beside the workspace, made by the first push. Without `verify` a pull
# would accept an object that was damaged in the remote.
_DVC_CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = local
['remote "local"']
    url = ../../{name}.remote
    verify = true
"""
_GITIGNORE = """\
/checkpoints/
/data/raw/
/demo/
/registry/
/reports/MODEL_CARD.md
/reports/data-docs/
/reports/report.html
# unfinished outputs of a killed step
/*/.*
/models/encoders/.*
!.gitignore
"""


@dataclass(frozen=True)
class AddedVideos:
    """What `add_videos` did, in numbers of files (sidecars not counted)."""

    added: int
    unchanged: int


@dataclass(frozen=True)
class Version:
    """What a model was made from: the git revision, and the SHA-256 of dvc.lock, which pins all data."""

    git_revision: str
    data_version: str


def is_workspace(folder: Path) -> bool:
    """Whether `init` has finished in `folder`."""
    parts = (folder / "dvc.yaml", folder / "recipe.yaml", folder / ".dvc" / "config")
    return all(part.is_file() for part in parts) and not (folder / _UNFINISHED).exists()


def find(start: Path) -> Path:
    """The nearest workspace from `start` upwards. WorkspaceError when there is none."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if is_workspace(folder):
            return folder
    raise WorkspaceError(f"{start} is not in a workspace: make one with `v2meow init DIR`, or give --workspace DIR")


def init(folder: Path, recipe: str) -> bool:
    """Make `folder` a workspace with `recipe` (a built-in name or a YAML file). False when it is one already.

    Raises WorkspaceError for a folder that holds something else, RecipeError for an unusable recipe.
    """
    source = recipe_path(recipe)
    load_recipe(source)
    if is_workspace(folder):
        return False
    _claim(folder)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _init_dvc(folder)
    for name, text in (
        ("recipe.yaml", source.read_text()),
        (".gitignore", _GITIGNORE),
        (str(KEPT), '{"model": null}\n'),
        (str(PRODUCTION), '{"model": null}\n'),
        ("dvc.yaml", _pipeline_template().read_text()),
    ):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
    (folder / RAW).mkdir(parents=True, exist_ok=True)
    snapshot(folder, f"New workspace, recipe {source.stem}")
    (folder / _UNFINISHED).unlink()
    return True


def videos_in(source: Path, besides: Path | None = None) -> list[Path]:
    """The videos of a folder and its sub-folders, by suffix and sorted; the folder `besides` is not entered.

    Raises WorkspaceError when `source` is no readable folder or holds no video.
    """
    if not source.is_dir():
        raise WorkspaceError(f"{source}: {'not a folder' if source.exists() else 'no such folder'}")
    besides = besides and besides.resolve()
    videos = sorted(file for file in _walk(source, besides) if file.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise WorkspaceError(f"{source}: no video files in this folder ({' '.join(VIDEO_SUFFIXES)})")
    return videos


def add_videos(workspace: Path, source: Path) -> AddedVideos:
    """Bring the videos of `source`, with their sidecars, into `data/raw` under their relative paths.

    Hard links where the file system allows it, else copies. What is there already with the same
    time or content stays. Raises WorkspaceError as `videos_in` does.
    """
    videos = videos_in(source, besides=workspace)
    added = 0
    for video in videos:
        target = workspace / RAW / video.relative_to(source)
        added += _bring(video, target)
        sidecar = video.with_suffix(".json")
        if sidecar.is_file():
            _bring(sidecar, target.with_suffix(".json"))
    return AddedVideos(added=added, unchanged=len(videos) - added)


def snapshot(workspace: Path, message: str) -> None:
    """Commit the recipe, the pipeline, its lock file and the reports, when any of them changed."""
    _git(workspace, "add", "--all", "--", *(name for name in _VERSIONED if (workspace / name).exists()))
    if not _git(workspace, "diff", "--cached", "--name-only"):
        return
    identity = ("-c", "user.name=v2meow", "-c", "user.email=v2meow@localhost") if not _has_identity(workspace) else ()
    # A passphrase prompt or a person's hooks would stop an unattended run.
    _git(workspace, *identity, "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", message)


def version(workspace: Path) -> Version:
    """The workspace's present version. WorkspaceError before the first step has run."""
    lock = workspace / "dvc.lock"
    if not lock.is_file():
        raise WorkspaceError(f"{workspace}: nothing has run here yet (no dvc.lock)")
    return Version(git_revision=_git(workspace, "rev-parse", "HEAD"), data_version=sha256(lock))


def child_environment() -> dict[str, str]:
    """The environment for git and DVC: without the variables by which a git hook would redirect them."""
    redirecting = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")
    return {name: value for name, value in os.environ.items() if name not in redirecting}


def _claim(folder: Path) -> None:
    """Take an empty folder, or one that an interrupted `init` left behind."""
    if folder.exists() and not folder.is_dir():
        raise WorkspaceError(f"{folder} is a file, not a folder")
    marker = folder / _UNFINISHED
    if marker.exists():
        for half_made in (".git", ".dvc"):
            shutil.rmtree(folder / half_made, ignore_errors=True)
    elif folder.exists() and any(folder.iterdir()):
        raise WorkspaceError(f"{folder} is not empty and is not a workspace: choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _init_dvc(folder: Path) -> None:
    """A DVC repository that calls nobody."""
    _call(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    with atomic_file(folder / ".dvc" / "config") as temporary:
        temporary.write_text(_DVC_CONFIG.format(name=folder.resolve().name))


def _pipeline_template() -> Path:
    """dvc.yaml: inside the package in a wheel, beside it in a checkout."""
    package = Path(v2meow.__file__).parent
    packed = package / "dvc.yaml"
    return packed if packed.is_file() else package.parent / "dvc.yaml"


def _walk(source: Path, besides: Path | None) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise WorkspaceError(f"{error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(source, onerror=refuse):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).resolve() != besides]
        yield from (here / name for name in files if not name.startswith("."))


def _bring(source: Path, target: Path) -> bool:
    """Make `target` the same file as `source`; False when it already is."""
    if target.exists() and _same(source, target):
        return False
    with atomic_file(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(source, temporary)
    return True


def _same(one: Path, other: Path) -> bool:
    a, b = one.stat(), other.stat()
    if a.st_size != b.st_size:
        return False
    return a.st_mtime_ns == b.st_mtime_ns or sha256(one) == sha256(other)


def _has_identity(workspace: Path) -> bool:
    command = ["git", "config", "user.email"]
    return subprocess.run(command, cwd=workspace, env=child_environment(), capture_output=True).returncode == 0


def _git(workspace: Path, *arguments: str) -> str:
    return _call(workspace, "git", *arguments)


def _call(workspace: Path, *command: str) -> str:
    """Run a command in the workspace and return what it printed. WorkspaceError with the command's own reason."""
    try:
        done = subprocess.run(
            command, cwd=workspace, env=child_environment(), capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise WorkspaceError(f"{command[0]} is not installed: a workspace needs it") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkspaceError(f"{workspace}: `{' '.join(command)}` failed: {reason}") from error
    return done.stdout.strip()
