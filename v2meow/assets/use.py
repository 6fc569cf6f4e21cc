"""What encoders and steps ask of assets: a verified folder, its fingerprint, and whether a recipe may use it."""

from collections.abc import Iterable
from pathlib import Path

from v2meow.assets import store
from v2meow.assets.catalogue import Asset, AssetError
from v2meow.assets.fetch import wanted
from v2meow.config import Recipe
from v2meow.files import sha256


def folder(name: str) -> Path:
    """The local folder of a complete, verified asset, its files as they were published.

    Raises AssetError naming every missing or damaged file by its full path, and the command that mends it.
    """
    asset = store.find(name)
    if lines := wanted([asset]):
        mend = f"fetch it with `v2meow assets pull {name}`, or put the files there"
        raise AssetError(f"the asset {name} cannot be used:\n{lines}\n{mend}")
    return store.root() / name


def fingerprint(name: str) -> dict[str, str]:
    """SHA-256 of an asset's files by their names; AssetError as `folder` does."""
    place, here = folder(name), store.recorded(name)
    digests = {}
    for file in store.find(name).files:
        entry = here.get(file.name)  # there is none where the store is read-only
        digests[file.name] = entry.sha256 if entry else sha256(place / file.name)
    return digests


def needed(recipe: Recipe) -> list[str]:
    """Names of the assets that a recipe's encoders load, each once, in the recipe's order."""
    encoders = (*recipe.visual, recipe.semantic_ids, recipe.codec, recipe.joint)
    names = (getattr(encoder, "asset", None) for encoder in encoders)
    return list(dict.fromkeys(name for name in names if name is not None))


def check_licences(recipe: Recipe, declared: Path | None = None) -> None:
    """Raise AssetError naming each asset that a recipe with `commercial_only` must not use.

    `declared` is the user's own assets.yaml; what the store recorded is known without it.
    """
    if recipe.commercial_only:
        check_commercial(store.find(name, declared) for name in needed(recipe))


def check_commercial(assets: Iterable[Asset]) -> None:
    """Raise AssetError naming each of these assets whose licence does not allow commercial use."""
    barred = [f"{asset.name} ({asset.licence})" for asset in assets if not asset.commercial]
    if barred:
        raise AssetError(f"the recipe is commercial_only, and this is not for commercial use: {', '.join(barred)}")
