"""Our speed beside that of others, in one process and in turns: `python -m benchmarks.NAME --json`."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported
