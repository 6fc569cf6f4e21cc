"""Which edition answers a request that names none: shares of several, followed in the registry."""

import random
from dataclasses import dataclass
from pathlib import Path

from serving.editions import Edition
from serving.problems import Problem
from serving.settings import ModelShare
from v2meow import bundle, release
from v2meow.registry import DEPLOYMENT_STAGES


@dataclass(frozen=True)
class Served:
    """An edition, the name it is asked for by, and its share."""

    name: str
    edition: Edition
    share: float


def resolve(name: str, workspace: Path | None) -> Edition:
    """The edition that a name stands for now. BundleError, RegistryError or WorkspaceError."""
    label = standing(name, workspace) or name  # of an empty stage the registry says what is wrong
    folder = release.find_model(label, workspace)
    model, _, version = label.partition("@")
    registered = bool(version) and release.has_registry(workspace)
    known = release.registry(workspace).state(model).versions.get(version) if registered else None
    data = known.data_version if known else None
    return Edition(bundle.verify(folder), str(folder.resolve()), label, data)


def standing(name: str, workspace: Path | None) -> str | None:
    """The label of what a name stands for now, which is cheap to ask: MODEL@v3 for MODEL@STAGE, else the name.

    None for a stage that is empty again.
    """
    model, _, wanted = name.partition("@")
    if not release.has_registry(workspace) or wanted not in DEPLOYMENT_STAGES:
        return name
    state = release.registry(workspace).state(model)
    version = state.stages.get(wanted)
    return f"{model}@{version}" if version else None if state.versions else name


class Choice:
    """Draws editions by their shares."""

    def __init__(self, served: list[Served]) -> None:
        self.served = served

    def pick(self, asked: str | None) -> Edition:
        """The edition for a request; `asked` is a name, a label or the beginning of a digest. Problem 404."""
        if asked is None:
            return random.choices([one.edition for one in self.served], [one.share for one in self.served])[0]  # noqa: S311
        for one in self.served:
            if asked in (one.name, one.edition.label) or (len(asked) >= 8 and one.edition.digest.startswith(asked)):
                return one.edition
        raise Problem(404, "no-such-model", "that model is not served: see /v1/models")


def shares(models: tuple[ModelShare, ...]) -> dict[str, float]:
    """Share of each name, together 1."""
    total = sum(model.share for model in models)
    return {model.name: model.share / total for model in models}
