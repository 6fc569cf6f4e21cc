"""Annotated tags of a workspace's git repository, brought to exactly what is wanted, here and in a remote.

A tag is compared by its hash, which binds its commit, author, date and message. Knows nothing of what tags mean.
"""

import hashlib
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from v2meow.workspace.errors import WorkspaceError
from v2meow.workspace.folder import child_environment

_EMAIL = "v2meow@localhost"
_AT_ONCE = 500  # tags in one push: a command line is not endless


class Wanted(Protocol):
    """A tag to be made: `time` in seconds since 1970, `target` a commit."""

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def tagger(self) -> str: ...
    @property
    def time(self) -> int: ...
    @property
    def message(self) -> str: ...


@dataclass(frozen=True)
class Change:
    """Numbers of tags that were made (or made anew), removed, and as they should be already."""

    made: int
    removed: int
    kept: int


def commits_of(workspace: Path, revisions: Iterable[str]) -> set[str]:
    """Those of `revisions` that are commits of this repository."""
    names = sorted({name for name in revisions if name.isalnum()})
    if not names:
        return set()
    lines = _git(workspace, "cat-file", "--batch-check=%(objectname) %(objecttype)", text="\n".join(names) + "\n")
    return {line.split()[0] for line in lines.splitlines() if line.endswith(" commit")} & set(names)


def set_tags(workspace: Path, wanted: Iterable[Wanted], ours: Callable[[str], bool]) -> Change:
    """Make the wanted tags, and remove every other one whose name is `ours`. The tags of others stay."""
    by_name = {tag.name: tag for tag in wanted}
    hashes = {name: _hash(tag) for name, tag in by_name.items()}
    there = _local(workspace, ours)
    new = [tag for name, tag in by_name.items() if there.get(name) != hashes[name]]
    extra = sorted(there.keys() - by_name.keys())
    if new:
        _git(workspace, "fast-import", "--quiet", "--force", text="".join(_import(tag) for tag in new))
    if extra:
        _git(workspace, "update-ref", "--stdin", text="".join(f"delete refs/tags/{name}\n" for name in extra))
    if _local(workspace, ours) != hashes:
        raise WorkspaceError(f"{workspace}: somebody else is changing the tags of this repository: try again")
    return Change(made=len(new), removed=len(extra), kept=len(by_name) - len(new))


def push_tags(workspace: Path, remote: str, ours: Callable[[str], bool]) -> Change:
    """Bring the tags whose names are `ours` in `remote` (a name or an address) to what they are here."""
    here, there = _local(workspace, ours), _remote(workspace, remote, ours)
    new = sorted(name for name, found in here.items() if there.get(name) != found)
    extra = sorted(there.keys() - here.keys())
    changes = [f"+refs/tags/{name}:refs/tags/{name}" for name in new] + [f":refs/tags/{name}" for name in extra]
    for start in range(0, len(changes), _AT_ONCE):
        _git(workspace, "push", "--quiet", "--no-verify", "--", remote, *changes[start : start + _AT_ONCE])
    return Change(made=len(new), removed=len(extra), kept=len(here) - len(new))


def _local(workspace: Path, ours: Callable[[str], bool]) -> dict[str, str]:
    return _refs(_git(workspace, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags/"), ours)


def _remote(workspace: Path, remote: str, ours: Callable[[str], bool]) -> dict[str, str]:
    return _refs(_git(workspace, "ls-remote", "--refs", "--tags", "--", remote).replace("\t", " "), ours)


def _refs(lines: str, ours: Callable[[str], bool]) -> dict[str, str]:
    pairs = (line.split(" ", 1) for line in lines.splitlines())
    found = {name.removeprefix("refs/tags/"): value for value, name in pairs}
    return {name: value for name, value in found.items() if ours(name)}


def _tagger(tag: Wanted) -> str:
    name = " ".join("".join(" " if letter in "<>" else letter for letter in tag.tagger).split()) or "unknown"
    return f"tagger {name} <{_EMAIL}> {tag.time} +0000\n"


def _hash(tag: Wanted) -> str:
    """The hash that git gives this very tag, SHA-256 in a repository whose commits have such hashes."""
    content = f"object {tag.target}\ntype commit\ntag {tag.name}\n{_tagger(tag)}\n{tag.message}".encode()
    algorithm = hashlib.sha256 if len(tag.target) == 64 else hashlib.sha1
    return algorithm(f"tag {len(content)}\0".encode() + content).hexdigest()


def _import(tag: Wanted) -> str:
    """The tag as a command of `git fast-import`: one process makes thousands of them."""
    return f"tag {tag.name}\nfrom {tag.target}\n{_tagger(tag)}data {len(tag.message.encode())}\n{tag.message}\n"


def _git(workspace: Path, *arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=workspace, env=child_environment(), input=text, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkspaceError(f"{workspace}: `git {arguments[0]}` failed: {reason}")
    return done.stdout
