"""Where a workspace meets its registry: its bundle registered, and a model found for whoever asks.

A registry is the folder `registry/` of a workspace, or the folder or address s3://BUCKET/PREFIX that V2MEOW_REGISTRY
names for everybody. The registry knows nothing of workspaces nor they of it. Heavy imports wait until they are needed.
"""

import getpass
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from v2meow import bundle, workspace
from v2meow.files import read_json, write_json
from v2meow.registry import REGISTRY_VARIABLE, Registry

if TYPE_CHECKING:
    from v2meow.registry import Version

MODEL_NAME = "v2meow"  # what a workspace's model is called in its own registry
BUNDLE = Path("models/bundle")
VERDICT = Path("reports/verdict.json")
SHIPPED = Path(__file__).parent / "shipped"  # bundles that come with the package, by name
_NAME_ONE = "give --model DIR or NAME@STAGE"


def has_registry(place: Path | None) -> bool:
    """Whether there is a registry to ask without naming one."""
    return place is not None or REGISTRY_VARIABLE in os.environ


def registry(place: Path | None = None, location: str | None = None) -> Registry:
    """The registry at `location`, else at $V2MEOW_REGISTRY, else the workspace's own. WorkspaceError without any.

    It is the same object each time, which remembers what it has read.
    """
    chosen = location or os.environ.get(REGISTRY_VARIABLE) or (place and str(place / "registry"))
    if not chosen:
        raise workspace.WorkspaceError(f"no registry: give --registry, set {REGISTRY_VARIABLE}, or name a workspace")
    return _opened(chosen if chosen.startswith("s3://") else str(Path(chosen).expanduser().absolute()))


def register(
    place: Path, name: str = MODEL_NAME, *, location: str | None = None, idempotency_key: str | None = None
) -> "Version":
    """Register the workspace's bundle under its verdict; the same bundle again is the same version.

    The workspace is committed first, so that the version's git revision names what made it. The table of its videos is
    kept with the version. Raises WorkspaceError before the gate has run, or when videos or examples changed since the
    model was made of them; RegistryError when the gate did not pass.
    """
    if not (place / VERDICT).is_file():
        raise workspace.WorkspaceError(f"{place}: there is no verdict yet: run `v2meow run` there first")
    workspace.snapshot(place, f"Register {name}")
    made_from = workspace.version(place)
    if moved := workspace.moved_on((place / "dvc.lock").read_bytes()):
        raise workspace.WorkspaceError(f"{place}: {', '.join(moved)} changed since: run `v2meow run` there first")
    with tempfile.TemporaryDirectory() as folder:
        return registry(place, location).register(
            name,
            place / BUNDLE,
            place / VERDICT,
            data_version=made_from.data_version,
            git_revision=made_from.git_revision,
            actor=getpass.getuser(),
            idempotency_key=idempotency_key,
            lineage=_videos(place, Path(folder)),
            approvals=_approvals(place),
        )


def note_production(place: Path, name: str = MODEL_NAME, *, location: str | None = None) -> bool:
    """Write into production.json of a workspace which version of `name` its registry has in production.

    And into encoders.json, where the recipe wants its encoders kept. True when one of them changed. Steps depend on
    these files: call this before staleness is computed.
    """
    from v2meow.config import load_recipe

    models = registry(place, location)
    state = models.state(name) if name in models.models() else None
    told: dict[str, str | None] = {"model": None}
    if state is not None and "production" in state.stages:
        version = state.versions[state.stages["production"]]
        told = {"model": name, "version": version.name, "bundle": version.bundle}
    kept = told if load_recipe(place / "recipe.yaml").keep_encoders else {"model": None}
    files = {place / workspace.PRODUCTION: told, place / workspace.KEPT: kept}
    changed = [path for path, wanted in files.items() if not (path.is_file() and read_json(path) == wanted)]
    for path in changed:
        write_json(path, files[path])
    return bool(changed)


def find_model(model: str | None, place: Path | None) -> Path:
    """The verified bundle to generate with: `model` when given, else what the workspace promoted or made last.

    `model` is a bundle's folder, the name of one that comes with the package, or NAME@STAGE in the registry of the
    workspace, the nearest one if `place` is None. Outside of any workspace it is `nano`, which comes with the package.
    Raises BundleError, RegistryError, or WorkspaceError saying how to get a model.
    """
    if model and "@" not in model:
        folder = SHIPPED / model if (SHIPPED / model).is_dir() and not Path(model).is_dir() else Path(model)
        bundle.verify(folder)
        return folder
    try:
        if place is None and not (model and has_registry(None)):
            place = workspace.find(Path.cwd())
    except workspace.WorkspaceError as error:
        if model:
            raise workspace.WorkspaceError(f"no registry: {_NAME_ONE} of a workspace ({error})") from None
        bundle.verify(SHIPPED / "nano")
        return SHIPPED / "nano"
    if model:
        return registry(place).resolve(model)
    assert place is not None
    return _model_of(place)


def versions_trained_on(models: Registry, video_id: str) -> tuple[list["Version"], list["Version"]]:
    """The versions of all models that learnt from a video, retired ones too; and those of which that is not known.

    `video_id` is that of the clips table, or the SHA-256 of the video's file, whose beginning it is.
    """
    from v2meow.data import origins

    trained, unknown = [], []
    for model in models.models():
        tables: dict[str, bool] = {}
        for version in models.state(model).versions.values():
            if version.lineage is None:
                unknown.append(version)
                continue
            if version.lineage not in tables:
                table = origins.read(models.attached(model, version.lineage))
                tables[version.lineage] = origins.trained_on(table, video_id)
            if tables[version.lineage]:
                trained.append(version)
    return trained, unknown


def project(
    place: Path, name: str = MODEL_NAME, *, location: str | None = None, remote: str | None = None
) -> tuple[workspace.Change, list[str]]:
    """Bring GTO's tags of a model in the workspace's git, and in `remote`, to what the registry's log says.

    Also tells which versions have none, and why. Raises WorkspaceError when git fails, RegistryError for a name that
    GTO does not take.
    """
    from v2meow.registry import gto

    state = registry(place, location).state(name)
    revisions = {version.git_revision for version in state.versions.values()}
    wanted, missing = gto.tags(state, workspace.commits_of(place, revisions))
    change = workspace.set_tags(place, wanted, lambda tag: gto.is_tag_of(name, tag))
    if remote:
        workspace.push_tags(place, remote, lambda tag: gto.is_tag_of(name, tag))
    return change, missing


@cache
def _opened(location: str) -> Registry:
    return Registry(location)


def _videos(place: Path, folder: Path) -> Path | None:
    """A file in `folder` with the videos that the workspace's model was made from; None where there are no clips."""
    from v2meow.data import origins
    from v2meow.data.manifest import CLIPS

    if not (place / CLIPS).is_file():
        return None
    origins.write(folder / "videos.parquet", origins.videos_of(place / CLIPS))
    return folder / "videos.parquet"


def _approvals(place: Path) -> tuple[str, ...]:
    """The stages that the workspace's recipe lets a model enter only with a person's approval."""
    from v2meow.config import load_recipe

    return load_recipe(place / "recipe.yaml").approvals


def _model_of(place: Path) -> Path:
    models = registry(place)
    stages = models.state(MODEL_NAME).stages if MODEL_NAME in models.models() else {}
    for stage in ("production", "staging"):
        if stage in stages:
            return models.resolve(f"{MODEL_NAME}@{stage}")
    if not (place / BUNDLE).is_dir():
        raise workspace.WorkspaceError(
            f"no model in {place}: run `v2meow run` there, or give --model DIR or NAME@STAGE"
        )
    bundle.verify(place / BUNDLE)
    return place / BUNDLE
