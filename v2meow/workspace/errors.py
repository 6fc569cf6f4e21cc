"""What can go wrong with a workspace, as one line for people."""


class WorkspaceError(ValueError):
    """A folder that cannot be used as asked; the message is one line that names it."""


class StageError(RuntimeError):
    """A step of the pipeline that failed; the message holds the step's own last words and where its log is."""
