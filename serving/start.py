"""Settings from a file and a command line, with every fault told at once before anything is started."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serving.choice import resolve
from serving.settings import Settings
from v2meow.generate.watermark import read_secret

_DRAIN_S = 2.0  # who ends a service at a terminal does not wait for others' music


class SettingsError(ValueError):
    """Settings that cannot work; the message lists all that is wrong."""


def settings_for(
    config: Path | None, models: list[str] | None, keys: Path | None, workspace: Path | None, *, open_to_all: bool
) -> Settings:
    """The settings of `v2meow serve`: what is given on the command line stands over the file.

    SettingsError; WatermarkError; BundleError, RegistryError or WorkspaceError for a model that is not there.
    """
    values: dict[str, Any] = {"drain_s": _DRAIN_S} | (read_settings(config) if config else {})
    if models:
        values["models"] = [{"name": name} for name in models]
    if workspace:
        values["workspace"] = str(workspace.resolve())
    if keys:
        values["keys"] = str(keys.resolve())
    if not values.get("keys") and not open_to_all and not values.get("open"):
        raise SettingsError("others reach this address: give --keys FILE (`v2meow keys create NAME` makes one)")
    values.setdefault("open", not values.get("keys"))
    settings = validated(values)
    if settings.watermark:
        read_secret(Path(settings.watermark))
    for model in settings.models:
        resolve(model.name, Path(settings.workspace) if settings.workspace else None)
    return settings


def read_settings(file: Path) -> dict[str, Any]:
    """The values of a YAML file. SettingsError for one that holds none."""
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{file} holds no settings")
    return values


def validated(values: dict[str, Any]) -> Settings:
    """SettingsError listing every value that cannot be used."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors())
        raise SettingsError("; ".join(faults)) from None
