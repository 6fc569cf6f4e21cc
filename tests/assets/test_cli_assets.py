"""The commands as people meet them: what is printed, and the exit status that scripts rely on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from v2meow import assets
from v2meow.config import recipe_path

OWN = {
    "about": "ours",
    "licence": "CC-BY-NC-4.0",
    "commercial": False,
    "folder": "made",
    "files": {"weights.pt": {}, "config.json": {}},
}


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with a recipe that names an asset of its own, declared beside it."""
    recipe = yaml.safe_load(recipe_path("nano").read_text())
    recipe["visual"] = [{"kind": "clip", "asset": "ours", "model": "ViT-B-32", "rate": 1.0, "batch": 1}]
    recipe["visual"][0]["bfloat16"] = False
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / assets.DECLARATIONS).write_text(yaml.safe_dump({"ours": OWN}))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights.pt").write_bytes(b"weights")
    (tmp_path / "made" / "config.json").write_bytes(b"{}")
    return tmp_path


def v2meow(place, *arguments, **variables):
    command = [sys.executable, "-m", "v2meow.cli", "assets", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", **variables}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)


def test_pull_list_and_verify_from_the_recipe_to_a_damaged_file(place, store):
    listed = v2meow(place, "list", "--recipe", "recipe.yaml")
    assert listed.stdout.split()[-6:-1] == ["│", "no", "│", "missing", "│"], listed

    pulled = v2meow(place, "pull", "--recipe", "recipe.yaml")
    assert (pulled.returncode, pulled.stdout) == (0, f"{store / 'ours'}: 2 files fetched, 0 were there\n"), pulled
    assert v2meow(place, "pull", "ours").stdout == f"{store / 'ours'}: 0 files fetched, 2 were there\n"

    assert (verified := v2meow(place, "verify")).stdout == "ours: 2 files are as they should be\n", verified
    path = store / "ours" / "weights.pt"
    before = path.stat()
    path.write_bytes(b"Weights")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    verified = v2meow(place, "verify", "ours")
    assert verified.returncode == 1
    assert verified.stdout.startswith(f"{path} is damaged: its SHA-256 is ")
    assert verified.stderr == "error: files that are missing or damaged: 1, `v2meow assets pull` mends them\n"


def test_list_shows_the_catalogue_with_its_licences(place):
    listed = v2meow(place, "list").stdout
    for name in assets.catalogue():
        assert name in listed
    assert "CC-BY-NC-4.0" in listed


def test_a_commercial_recipe_pulls_nothing_that_bars_it(place, store):
    with (place / "recipe.yaml").open("a") as file:
        file.write("commercial_only: true\n")
    refused = v2meow(place, "pull", "--recipe", "recipe.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "ours (CC-BY-NC-4.0)" in refused.stderr
    assert not store.exists()


def test_a_mirror_may_stand_in_the_environment(place, store):
    """Machines of one site are set up once, not by every command."""
    shutil.copytree(place / "made", place / "mirror" / "ours")
    (place / "made" / "weights.pt").unlink()
    pulled = v2meow(place, "pull", "--recipe", "recipe.yaml", **{assets.MIRROR_VARIABLE: str(place / "mirror")})
    assert pulled.returncode == 0, pulled
    assert (store / "ours" / "weights.pt").read_bytes() == b"weights"


def test_without_a_network_the_whole_list_is_printed(place, store):
    pulled = v2meow(place, "pull", "encodec-24khz", "w2v-bert-2.0", HF_ENDPOINT="http://127.0.0.1:9", **_NO_WEB)
    assert pulled.returncode == 1
    head, _, *wanted = pulled.stderr.splitlines()
    assert head.startswith("error: there is no connection to ")
    assert [line.split()[0] for line in wanted] == [
        str(store / "encodec-24khz" / "encodec_24khz-d7cc33bc.th"),
        *(str(store / "w2v-bert-2.0" / name) for name in ("config.json", "preprocessor_config.json")),
        str(store / "w2v-bert-2.0" / "model.safetensors"),
    ]


def test_pull_asks_what_to_pull_where_nothing_says_it(place):
    asked = v2meow(place, "pull")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr == "error: say what to pull: names, --recipe, or run it in a workspace\n"


_NO_WEB = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
