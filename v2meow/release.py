"""Where a workspace meets its registry: its bundle registered, and a model found for whoever asks.

The registry knows nothing of workspaces nor they of it. Heavy imports wait until they are needed.
"""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from v2meow import bundle, workspace

if TYPE_CHECKING:
    from v2meow.registry import Registry, Version

MODEL_NAME = "v2meow"  # what a workspace's model is called in its own registry
BUNDLE = Path("models/bundle")
VERDICT = Path("reports/verdict.json")
SHIPPED = Path(__file__).parent / "shipped"  # bundles that come with the package, by name
_NAME_ONE = "give --model DIR or NAME@STAGE"


def registry(place: Path) -> "Registry":
    """The registry of a workspace."""
    from v2meow.registry import Registry

    return Registry(place / "registry")


def register(place: Path, name: str = MODEL_NAME) -> "Version":
    """Register the workspace's bundle under its verdict; the same bundle again is the same version.

    The workspace is committed first, so that the version's git revision names what made it.
    Raises WorkspaceError before the gate has run, RegistryError when the gate did not pass.
    """
    if not (place / VERDICT).is_file():
        raise workspace.WorkspaceError(f"{place}: there is no verdict yet: run `v2meow run` there first")
    workspace.snapshot(place, f"Register {name}")
    made_from = workspace.version(place)
    return registry(place).register(
        name,
        place / BUNDLE,
        place / VERDICT,
        data_version=made_from.data_version,
        git_revision=made_from.git_revision,
        actor=getpass.getuser(),
    )


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
        place = place or workspace.find(Path.cwd())
    except workspace.WorkspaceError as error:
        if model:
            raise workspace.WorkspaceError(f"no registry: {_NAME_ONE} of a workspace ({error})") from None
        bundle.verify(SHIPPED / "nano")
        return SHIPPED / "nano"
    return registry(place).resolve(model) if model else _model_of(place)


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
