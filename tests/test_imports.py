"""Imports go one way, and nobody pays for a library that he does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = "torch torchaudio av pyarrow pandas sklearn great_expectations dvc matplotlib encodec safetensors"

CORE = (
    "v2meow.model.lm",
    "v2meow.train.loop",
    "v2meow.generate.engine",
    "v2meow.generate.parallel",
    "v2meow.generate.piece",
)

IMPORT_WITH_TORCH_ALONE = """
import sys
from importlib import import_module

class OnlyTorch:
    barred = set(sys.argv[1].split())
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.barred:
            raise ModuleNotFoundError(f"barred: {name}")

sys.meta_path.insert(0, OnlyTorch())
for module in sys.argv[2:]:
    import_module(module)
"""


def _python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )


def test_the_layers_and_the_homes_of_libraries_are_kept():
    """The contracts are in pyproject.toml; a package that imports upwards can no longer be used alone."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "0 broken" in shown.stdout


def test_the_command_line_starts_without_heavy_libraries():
    """`v2meow --help` and every step would wait seconds for libraries that they never use."""
    shown = _python(f"import sys, v2meow.cli; print(*sorted(set('{HEAVY}'.split()) & set(sys.modules)))")
    assert (shown.stdout.strip(), shown.stderr) == ("", "")


@pytest.mark.parametrize("module", ["v2meow.generate.files", "serving.workers"])
def test_music_is_made_without_the_libraries_of_training(module):
    """They would take as long as PyTorch to import, in each process of a service anew."""
    shown = _python(f"import sys, {module}; print(*sorted({{'sklearn', 'pandas', 'pyarrow'}} & set(sys.modules)))")
    assert (shown.stdout.strip(), shown.returncode) == ("", 0), shown.stderr


@pytest.mark.parametrize("module", ["v2meow.evaluate.step", "v2meow.train.loop"])
def test_what_cuts_models_into_parts_is_imported_where_one_is_cut(module):
    """It takes a second, and most trainings and all measurements have their models whole."""
    parts = "torch.distributed.tensor", "torch.distributed.fsdp"
    shown = _python(f"import sys, {module}; print(*sorted(set({parts}) & set(sys.modules)))")
    assert (shown.stdout.strip(), shown.returncode) == ("", 0), shown.stderr


@pytest.mark.parametrize("package", ["v2meow", "serving"])
def test_ray_learns_in_time_that_uv_must_not_start_its_workers(package):
    """It looks once, when it is imported; whichever part of ours imports it first has said so before."""
    variable = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    told = f"os.environ['{variable}'], 'ray' in sys.modules"
    shown = _python(f"import os, sys; os.environ.pop('{variable}', None); import {package}; print({told})")
    assert (shown.stdout.strip(), shown.stderr) == ("0 False", "")


def test_the_core_imports_with_torch_alone():
    """Whoever wants the model in a program of his own installs torch, not our pipeline."""
    barred = f"{HEAVY} yaml rich typer jinja2 ray prefect".replace("torch ", "", 1)
    shown = _python(IMPORT_WITH_TORCH_ALONE, barred, *CORE)
    assert shown.returncode == 0, shown.stderr
