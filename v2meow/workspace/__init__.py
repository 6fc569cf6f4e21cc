"""A workspace: the git and DVC folder that holds one catalogue, its models and its reports.

The only home of DVC. Knows the order in which steps run, never what a step does.
"""

from v2meow.workspace.cache import cache_folder, last_version
from v2meow.workspace.deliver import added_bytes, deliver, refresh, store, undelivered
from v2meow.workspace.errors import StageError, WorkspaceError
from v2meow.workspace.folder import (
    KEPT,
    PRODUCTION,
    AddedVideos,
    Version,
    add_videos,
    find,
    init,
    is_workspace,
    snapshot,
    version,
    videos_in,
)
from v2meow.workspace.graph import graph, meta, stages, stale
from v2meow.workspace.history import committed, fetch_at, file_at, locked, moved_on, revision_of, subject_at
from v2meow.workspace.owner import owned, watch_owner
from v2meow.workspace.run import Progress, State, run_command, run_stage, run_stale, with_dependencies
from v2meow.workspace.stores import objects, stores
from v2meow.workspace.tags import Change, commits_of, push_tags, set_tags
from v2meow.workspace.worktree import worktree

__all__ = [
    "KEPT",
    "PRODUCTION",
    "AddedVideos",
    "Change",
    "Progress",
    "StageError",
    "State",
    "Version",
    "WorkspaceError",
    "add_videos",
    "added_bytes",
    "cache_folder",
    "commits_of",
    "committed",
    "deliver",
    "fetch_at",
    "file_at",
    "find",
    "graph",
    "init",
    "is_workspace",
    "last_version",
    "locked",
    "meta",
    "moved_on",
    "objects",
    "owned",
    "push_tags",
    "refresh",
    "revision_of",
    "run_command",
    "run_stage",
    "run_stale",
    "set_tags",
    "snapshot",
    "stages",
    "stale",
    "store",
    "stores",
    "subject_at",
    "undelivered",
    "version",
    "videos_in",
    "watch_owner",
    "with_dependencies",
    "worktree",
]
