"""What is written of a finished training beside its model: how fast it was, and curves that DVC can draw.

DVC draws a file whose curves it knows by name. How many codebook levels there are is up to the recipe, so each has a
file of its own, in a folder that is drawn whole.
"""

from pathlib import Path
from typing import Any

from v2meow.files import atomic_folder, write_json
from v2meow.train.history import thinned

SPEED = Path("reports/train_{stage}.json")
LEVELS = Path("reports/levels")  # STAGE/LEVEL.tsv
_LEVEL = "loss_level_"


def write_reports(stage: str, workspace: Path, metrics: dict[str, Any], speed: dict[str, Any]) -> dict[str, Any]:
    """Write the reports; the figures of the whole training."""
    write_json(workspace / str(SPEED).format(stage=stage), speed)
    curve = thinned(metrics["curve"])
    with atomic_folder(workspace / LEVELS / stage) as folder:
        for name in sorted(name for name in curve[0] if name.startswith(_LEVEL)):
            rows = [f"{point['step']}\t{point[name]:.5g}" for point in curve if name in point]
            (folder / f"{name.removeprefix(_LEVEL)}.tsv").write_text("\n".join(["step\tloss", *rows]) + "\n")
    told = {key: metrics[key] for key in ("parameters", "train_loss", "holdout_loss")}
    return told | {key: value for key, value in speed.items() if key != "curve"}
