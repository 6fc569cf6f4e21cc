"""A bundle: the one folder that is evaluated, registered and served, and the hash that names it.

It holds `semantic/ coarse/ fine/` (the stages), `encoders/{codec,semantic,joint}/`, `encoders/visual.json` where
pretrained visual extractors are used, `recipe.yaml`, `MODEL_CARD.md` and `bundle.json` =
{"format": 1, "files": {path in the bundle: SHA-256}}. Knows nothing of what those files mean: that a bundle works is
shown by the gate's verdict on its hash.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path, PurePosixPath

from v2meow.files import atomic_folder, sha256

MANIFEST = "bundle.json"
FORMAT = 1


class BundleError(ValueError):
    """A folder that is not the bundle it claims to be; the message names the files at fault."""


def assemble(parts: dict[str, Path], out: Path) -> str:
    """Copy each part (a file or a folder, keyed by its path in the bundle) to `out`; return the bundle's hash.

    `out` is replaced as a whole. Files are copied, never linked: an edit of `recipe.yaml` in place
    would otherwise change a bundle that was already evaluated.
    Raises BundleError for a part that does not exist, or that would land outside the bundle.
    """
    with atomic_folder(out) as folder:
        for name, source in parts.items():
            _copy_part(name, source, folder)
        files = _hash_files(folder)
        (folder / MANIFEST).write_text(_manifest(files))
    return _bundle_hash(files)


def verify(folder: Path) -> str:
    """Hash every file again and return the bundle's hash.

    Raises BundleError naming each file that is missing, changed or not listed, and for anything
    that is not a plain file: a link could be pointed elsewhere after its content was verified.
    """
    files = _hash_files(folder)
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from None
    # Byte for byte, so that not even the manifest's own spacing can change unnoticed.
    if manifest != _manifest(files).encode():
        raise BundleError(f"{folder} is damaged: {_differences(manifest, files)}")
    return _bundle_hash(files)


def listed(manifest: bytes) -> tuple[str, dict[str, str]]:
    """The hash of the bundle that a manifest describes, and its files: SHA-256 by path. BundleError if it is none."""
    try:
        files = json.loads(manifest)["files"]
        if manifest != _manifest(files).encode():
            raise ValueError("not as `assemble` writes it")
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(f"this is not the manifest of a bundle: {error}") from error
    return _bundle_hash(files), files


def copy(folder: Path, out: Path, expected: str) -> None:
    """Copy the bundle `folder` to `out`, which appears only when the copy's own hash is `expected`."""
    with atomic_folder(out) as temporary:
        _copy_folder(folder, temporary)
        found = verify(temporary)
        if found != expected:
            raise BundleError(f"{folder} changed while it was copied: its hash is {found}, not {expected}")


def _copy_part(name: str, source: Path, folder: Path) -> None:
    """Copy one part into the bundle; links in the source are followed, so the bundle holds their content."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name == MANIFEST:
        raise BundleError(f"{name!r} cannot be a part of a bundle: it must be a relative path other than {MANIFEST}")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        _copy_folder(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)
    else:
        raise BundleError(f"the bundle's part {name} is missing: {source} does not exist")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy contents, not modes. Unlike `shutil.copytree`, a full disk ends it at once with that one error."""
    for parent, _, names in os.walk(source, followlinks=True):
        folder = target / Path(parent).relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(Path(parent, name), folder / name)


def _hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` except the manifest, by path in the bundle."""
    files = {}
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in sorted(folders + names)):
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleError(f"{folder}: {relative} is a link or a special file; a bundle holds plain files only")
            if path.is_file() and relative != MANIFEST:
                files[relative] = sha256(path)
    return files


def _manifest(files: dict[str, str]) -> str:
    return json.dumps({"format": FORMAT, "files": files}, indent=2, sort_keys=True) + "\n"


def _bundle_hash(files: dict[str, str]) -> str:
    """SHA-256 of the canonical JSON of `files`: what the verdict and the registry call the bundle."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _differences(manifest: bytes, files: dict[str, str]) -> str:
    """What differs between the manifest and the files that are there, for the error message."""
    try:
        listed = json.loads(manifest)["files"]
        found = {
            "missing": sorted(listed.keys() - files.keys()),
            "changed": sorted(name for name in listed.keys() & files.keys() if listed[name] != files[name]),
            "not listed": sorted(files.keys() - listed.keys()),
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read as the manifest of a bundle"
    texts = [f"{kind}: {', '.join(names)}" for kind, names in found.items() if names]
    return "; ".join(texts) or f"{MANIFEST} is not format {FORMAT} as `assemble` writes it"
