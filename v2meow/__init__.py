"""V2Meow: music for silent video, by a cascade of three token language models."""

import os

# Read when Ray is imported, by whomever. Else, under `uv run`, Ray starts every worker by `uv run` in a copy of the
# working folder, packed with models, data and all, and the workers never come.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
