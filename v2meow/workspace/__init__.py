"""A workspace: the git and DVC folder that holds one catalogue, its models and its reports.

The only home of DVC. Knows the order in which steps run, never what a step does.
"""

from v2meow.workspace.errors import StageError, WorkspaceError
from v2meow.workspace.folder import (
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
from v2meow.workspace.graph import graph, stages, stale
from v2meow.workspace.owner import owned, watch_owner
from v2meow.workspace.run import Progress, State, run_command, run_stage, run_stale, with_dependencies

__all__ = [
    "AddedVideos",
    "Progress",
    "StageError",
    "State",
    "Version",
    "WorkspaceError",
    "add_videos",
    "find",
    "graph",
    "init",
    "is_workspace",
    "owned",
    "run_command",
    "run_stage",
    "run_stale",
    "snapshot",
    "stages",
    "stale",
    "version",
    "videos_in",
    "watch_owner",
    "with_dependencies",
]
