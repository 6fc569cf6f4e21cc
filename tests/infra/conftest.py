"""The manifests as `kubectl kustomize` builds them, and the schemas that they are held against."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import INFRA, Manifests, strict


@pytest.fixture(scope="session")
def filled_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """infra/ as an operator has it: each overlay with the secrets of secrets.example."""
    place = tmp_path_factory.mktemp("infra") / "infra"
    shutil.copytree(INFRA, place, ignore=shutil.ignore_patterns("secrets"))
    for overlay in (place / "overlays").iterdir():
        shutil.copytree(place / "secrets.example", overlay / "secrets")
    return place


@pytest.fixture(scope="session")
def build(filled_in: Path) -> Callable[[str], Manifests]:
    """The documents of a folder of infra/, each folder built once."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: kustomize cannot build the manifests")
    built: dict[str, Manifests] = {}

    def documents(folder: str) -> Manifests:
        if folder not in built:
            text = subprocess.run(
                [kubectl, "kustomize", str(filled_in / folder)], capture_output=True, text=True, check=False
            )
            assert text.returncode == 0, text.stderr
            built[folder] = Manifests(folder, list(yaml.safe_load_all(text.stdout)))
        return built[folder]

    return documents


@pytest.fixture(scope="session")
def crds() -> dict[tuple[str, str], dict[str, Any]]:
    """Strict JSON schemas by (apiVersion, kind): $V2MEOW_TEST_CRDS, else ../shared/crds beside the repository."""
    beside = INFRA.parents[1] / "shared" / "crds"
    folder = Path(os.environ.get("V2MEOW_TEST_CRDS", beside))
    found = sorted(folder.glob("*/*.json"))
    if not found:
        pytest.skip(f"no schemas of KubeRay and KServe in {folder}: set V2MEOW_TEST_CRDS")
    schemas = {}
    for file in found:
        spec = json.loads(file.read_text())["spec"]
        for version in spec["versions"]:
            name = f"{spec['group']}/{version['name']}"
            schemas[name, spec["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return schemas
