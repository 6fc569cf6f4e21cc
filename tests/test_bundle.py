"""A bundle is exactly the files that were evaluated, or it is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from v2meow.bundle import BundleError, assemble, copy, verify

ASSEMBLE_AND_DIE = """
import os, shutil, signal, sys
from pathlib import Path
from v2meow.bundle import assemble

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

module, _, function = sys.argv[1].partition(".")
setattr({"os": os, "shutil": shutil}[module], function, die)
assemble({"semantic": Path(sys.argv[2]), "recipe.yaml": Path(sys.argv[3])}, Path(sys.argv[4]))
"""


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """A stage and an encoder (folders, one nested) and a recipe (a file)."""
    (tmp_path / "models/semantic").mkdir(parents=True)
    (tmp_path / "models/semantic/model.safetensors").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "models/semantic/config.json").write_text("{}\n")
    (tmp_path / "models/encoders/codec/deep").mkdir(parents=True)
    (tmp_path / "models/encoders/codec/deep/weights.bin").write_bytes(b"codec")
    (tmp_path / "recipe.yaml").write_text("name: nano\n")
    return {
        "semantic": tmp_path / "models/semantic",
        "encoders/codec": tmp_path / "models/encoders/codec",
        "recipe.yaml": tmp_path / "recipe.yaml",
    }


def test_a_bundle_holds_every_part_at_its_place_and_verifies_to_the_hash_it_was_given(parts, tmp_path):
    out = tmp_path / "bundle"
    assert assemble(parts, out) == verify(out)
    listed = json.loads((out / "bundle.json").read_text())
    assert listed["format"] == 1
    assert sorted(listed["files"]) == [
        "encoders/codec/deep/weights.bin",
        "recipe.yaml",
        "semantic/config.json",
        "semantic/model.safetensors",
    ]
    assert (out / "recipe.yaml").read_text() == "name: nano\n"


def test_the_hash_depends_on_names_and_contents_alone(parts, tmp_path):
    """A verdict must still fit its bundle on another machine, under other times and modes."""
    first = assemble(parts, tmp_path / "one")
    os.utime(parts["recipe.yaml"], (0, 0))
    parts["recipe.yaml"].chmod(0o444)
    assert assemble(dict(reversed(parts.items())), tmp_path / "elsewhere/two") == first
    parts["recipe.yaml"].chmod(0o644)
    parts["recipe.yaml"].write_text("name: other\n")
    assert assemble(parts, tmp_path / "three") != first


def test_an_edit_of_a_source_in_place_does_not_reach_the_bundle(parts, tmp_path):
    """Hard links would let an editor change a bundle that was already evaluated."""
    digest = assemble(parts, tmp_path / "bundle")
    with parts["recipe.yaml"].open("a") as file:
        file.write("seed: 1\n")
    assert verify(tmp_path / "bundle") == digest


def test_links_in_the_sources_become_plain_files(parts, tmp_path):
    """DVC may check out models as links into its cache; the bundle must not depend on that cache."""
    digest = assemble(parts, tmp_path / "plain")
    weights = parts["semantic"] / "model.safetensors"
    weights.rename(tmp_path / "cached")
    weights.symlink_to(tmp_path / "cached")
    assert assemble(parts, tmp_path / "linked") == digest
    assert not (tmp_path / "linked/semantic/model.safetensors").is_symlink()


def test_assembling_again_leaves_nothing_of_the_bundle_before(parts, tmp_path):
    out = tmp_path / "bundle"
    assemble(parts, out)
    del parts["encoders/codec"]
    assemble(parts, out)
    verify(out)
    assert not (out / "encoders").exists()


@pytest.mark.parametrize("name", ["/etc/recipe.yaml", "../recipe.yaml", "semantic/../../x", "bundle.json"])
def test_a_part_cannot_land_outside_the_bundle_or_on_its_manifest(name, parts, tmp_path):
    with pytest.raises(BundleError, match="cannot be a part"):
        assemble({name: parts["recipe.yaml"]}, tmp_path / "bundle")


def test_a_missing_part_is_named_and_the_bundle_before_stays(parts, tmp_path):
    digest = assemble(parts, tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"part fine is missing: .*models/fine"):
        assemble(parts | {"fine": tmp_path / "models/fine"}, tmp_path / "bundle")
    assert verify(tmp_path / "bundle") == digest


def test_one_flipped_bit_anywhere_is_found(parts, tmp_path):
    """Also in the manifest's own spacing, which JSON would forgive."""
    out = tmp_path / "bundle"
    digest = assemble(parts, out)
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for position in range(0, len(content), 1 if file.name == "bundle.json" else 97):
            flipped = bytearray(content)
            flipped[position] ^= 1
            file.write_bytes(flipped)
            with pytest.raises(BundleError):
                verify(out)
        file.write_bytes(content)
    assert verify(out) == digest


def test_missing_changed_and_extra_files_are_each_named(parts, tmp_path):
    out = tmp_path / "bundle"
    assemble(parts, out)
    (out / "semantic/config.json").unlink()
    (out / "recipe.yaml").write_text("name: evil\n")
    (out / "semantic/extra.bin").write_bytes(b"")
    expected = "missing: semantic/config.json; changed: recipe.yaml; not listed: semantic/extra.bin"
    with pytest.raises(BundleError, match=expected):
        verify(out)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"format": 1, "files": []}', '{"format": 2, "files": {}}'])
def test_a_manifest_that_is_none_is_refused_as_such(manifest, parts, tmp_path):
    assemble(parts, tmp_path / "bundle")
    (tmp_path / "bundle/bundle.json").write_text(manifest)
    with pytest.raises(BundleError, match="is damaged"):
        verify(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_that_never_was_a_bundle_is_called_so(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"not a bundle: it has no bundle\.json"):
        verify(tmp_path / name)


@pytest.mark.parametrize("place", ["link to a file", "link to a folder", "link within", "dangling link", "fifo"])
def test_links_and_special_files_are_refused(place, parts, tmp_path):
    """A link can be pointed elsewhere after it was verified; reading a fifo would never return."""
    out = tmp_path / "bundle"
    assemble(parts, out)
    strange = out / "strange"
    if place == "fifo":
        os.mkfifo(strange)
    else:
        targets = {"link to a file": parts["recipe.yaml"], "link to a folder": parts["semantic"]}
        strange.symlink_to(targets.get(place, Path("recipe.yaml" if place == "link within" else "nowhere")))
    with pytest.raises(BundleError, match="strange is a link or a special file"):
        verify(out)


def test_a_copy_of_something_else_does_not_appear(parts, tmp_path):
    """A bundle that changes between its check and its copy must not be stored under the old hash."""
    digest = assemble(parts, tmp_path / "bundle")
    copy(tmp_path / "bundle", tmp_path / "good", digest)
    assert verify(tmp_path / "good") == digest
    with pytest.raises(BundleError, match="changed while it was copied"):
        copy(tmp_path / "bundle", tmp_path / "bad", "0" * 64)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("moment", ["shutil.copyfile", "os.walk", "os.fsync", "os.replace"])
def test_a_killed_assembly_leaves_nothing_that_looks_finished(moment, parts, tmp_path):
    """Killed while copying, hashing, flushing, or just before the rename."""
    arguments = [moment, str(parts["semantic"]), str(parts["recipe.yaml"]), str(tmp_path / "out/bundle")]
    child = subprocess.run([sys.executable, "-c", ASSEMBLE_AND_DIE, *arguments], timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/bundle").exists()
    assert assemble(parts, tmp_path / "out/bundle") == verify(tmp_path / "out/bundle")
