"""Models in the format of `transformers`' save_pretrained, from a local folder: never from a hub, never remote code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from v2meow.encoders.published import find_weights, loading
from v2meow.files import read_json
from v2meow.weights import CONFIG, ModelError

_OPTIONAL = {"masked_spec_embed"}  # replaces masked frames in training, and is not in every publication


def load_model(kind: Any, folder: Path, types: tuple[str, ...]) -> Any:
    """A `transformers` model of class `kind` in evaluation mode and float32.

    ModelError naming the file when one is missing or damaged, when config.json names a model type that is not among
    `types`, or when weights are missing that would stay as they were drawn at random.
    """
    check_type(folder, types)
    file = find_weights(folder)
    with loading(file, f"weights of a {kind.__name__}"), _quiet():
        model, found = kind.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, weights_only=True
        )
    if missing := sorted(set(found["missing_keys"]) - _OPTIONAL):
        raise ModelError(f"{file} lacks {len(missing)} weights of a {kind.__name__}, such as {missing[0]}")
    return model.eval().requires_grad_(False)


def load_processor(kind: Any, folder: Path, file: str) -> Any:
    """A tokenizer or feature extractor of class `kind`; ModelError naming `file` when it cannot be read."""
    with loading(folder / file, f"of a {kind.__name__}"), _quiet():
        return kind.from_pretrained(folder, local_files_only=True)


def check_type(folder: Path, types: tuple[str, ...]) -> None:
    """ModelError when a published config.json is missing, damaged, or of another type of model."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{path} is missing: the folder does not hold a published model")
    with loading(path, "a published model's configuration"):
        found = read_json(path)["model_type"]
    if found not in types:
        raise ModelError(f"{path} describes a model of type {found!r}; expected {' or '.join(types)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remarks and bars about what is checked here."""
    log = transformers.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
