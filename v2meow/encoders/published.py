"""Weights as others publish them: finding the file in an asset's folder, and one clear error when it cannot be used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from v2meow import assets
from v2meow.weights import ModelError

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # in this order of preference
_REASON = 300  # characters: a model that does not fit lists hundreds of names


def find_weights(folder: Path, prefix: str = "") -> Path:
    """The file of weights in `folder`, preferring names that start with `prefix`, and safetensors over pickle.

    ModelError when there is none, or when two are equally good.
    """
    found = [file for file in folder.glob("*") if file.suffix in _SUFFIXES]
    if not found:
        raise ModelError(f"{folder} holds no weights: expected a file that ends in {', '.join(_SUFFIXES)}")

    def rank(file: Path) -> tuple[bool, int]:
        return not file.name.startswith(prefix), _SUFFIXES.index(file.suffix)

    best = min(map(rank, found))
    chosen = sorted(file for file in found if rank(file) == best)
    if len(chosen) > 1:
        raise ModelError(f"{folder} holds several files of weights: leave one of {', '.join(f.name for f in chosen)}")
    return chosen[0]


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name, of safetensors or of a PyTorch file that holds nothing but tensors."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def loading(file: Path, what: str) -> Iterator[None]:
    """Whatever fails inside becomes a ModelError that names `file` and what it should have been."""
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # there are as many kinds of failure as formats and libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        shown = reason if len(reason) <= _REASON else f"{reason[:_REASON]} …"
        raise ModelError(f"{file} is damaged, or not {what}: {shown}") from error


def check_asset(path: Path, name: str, fitted: Mapping[str, str], mend: str) -> None:
    """Compare an asset's files with those that a model was made with: SHA-256 by name, as `path` has them.

    ModelError that names the files which differ and how to `mend` it; AssetError when the asset is not here.
    """
    found = assets.fingerprint(name)
    if other := sorted(file for file in {*found, *fitted} if found.get(file) != fitted.get(file)):
        raise ModelError(
            f"{path}: the model was made with other files of the asset {name} than those in its folder "
            f"({', '.join(other)}): bring those back, or {mend}"
        )
