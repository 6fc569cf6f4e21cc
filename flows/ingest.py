"""`ingest`: the recipe's source is looked at; what is new comes into the workspace and is measured.

Enough of it starts `retrain`, and so does less of it that is of another kind than what the model was made from. A
retraining that did not come to its end is asked for again.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from flows import owed, pages
from flows.asking import due_or_under_way, was_cancelled
from v2meow.config import Recipe, load_recipe
from v2meow.data import arrivals
from v2meow.data import pull as pulling
from v2meow.data.arrivals import Arrivals
from v2meow.data.source import open_source
from v2meow.files import atomic_file

# The events that start a retraining.
ARRIVED = "v2meow.videos.enough"
DRIFTED = "v2meow.data.drift"
UNFINISHED = "v2meow.retraining.unfinished"
_JUDGED = Path(".dvc/tmp/v2meow/judged")  # what waited when it was last judged
_POSTPONED = "postponed"


@flow(name="ingest", flow_run_name="ingest", persist_result=False)
def ingest(folder: str, source: str = "") -> State[Any]:
    """Bring the videos of `source`, a folder or s3://bucket/prefix, by default the recipe's, into the workspace.

    Emits the event that starts a retraining once for what came: when what no dataset holds is enough of it, or lies
    unlike what the last model was made from.
    """
    home = Path(folder).resolve()
    recipe = load_recipe(home / "recipe.yaml")
    source = source or recipe.data.source
    if not source:
        return Completed(name="No source", message="set data.source in the recipe")
    added = pull(home, source)
    unseen = arrivals.waiting(home)
    mark, last = _mark(unseen, recipe.retrain.min_new_hours), _last(home)
    if added or last == _POSTPONED or (unseen and mark != last):
        if due_or_under_way("retrain", home):  # it may take in what waits, or a part of it
            _note(home, _POSTPONED)
            return Completed(message=f"{added} files came; they wait for the end of a retraining that is under way")
        told = _judge(home, recipe, added, measure(recipe, home, unseen))
        _note(home, mark)  # last: killed before it, the next look asks once more
        return Completed(message=told)
    if owed.is_owed(home) and (told := _ask_again(home)):
        return Completed(message=told)
    return Completed(name="Nothing new", message=f"{source} has nothing new")


@task(retries=3, retry_delay_seconds=[5, 30, 120], cache_policy=NO_CACHE, persist_result=False)
def pull(home: Path, source: str) -> int:
    """How many objects came, new or changed. What was left out, and why, stands in the run's log."""
    found = pulling.pull(home, open_source(source))
    for key, reason in found.skipped.items():
        get_run_logger().warning("%s was left out: %s", key, reason)
    return found.added + found.replaced


@task(cache_policy=NO_CACHE, persist_result=False)
def measure(recipe: Recipe, home: Path, unseen: dict[str, str]) -> Arrivals:
    """What the videos that no dataset holds are like; each is decoded once, whoever asks again."""
    return arrivals.measure(recipe, home, unseen)


def _judge(home: Path, recipe: Recipe, added: int, found: Arrivals) -> str:
    """Start a retraining where there is reason to; what was found, in words."""
    enough = found.hours >= recipe.retrain.min_new_hours
    words = f"{added} files came; {found.videos} videos of {found.hours:.2f} hours wait"
    get_run_logger().info("%s, %g are enough; %s", words, recipe.retrain.min_new_hours, found.shifted or "no drift")
    about = {"files": added, "videos": found.videos, "hours": found.hours}
    if found.drift:
        pages.drift({name: asdict(one) | {"shifted": one.shifted} for name, one in found.drift.items()})
    if found.shifted:
        words += f", of another kind than before: {'; '.join(found.shifted)}"
        figures = {name: asdict(one) for name, one in found.drift.items() if one.shifted}
        _start(home, DRIFTED, about | {"words": words, "columns": figures})
    elif enough:
        _start(home, ARRIVED, about)
    return f"{words}{'' if found.shifted else ', enough' if enough else ', not enough'} for a retraining"


def _ask_again(home: Path) -> str | None:
    """Ask for the retraining that is owed, when it is time to; what was done, None where nothing was."""
    if due_or_under_way("retrain", home):
        return None
    if was_cancelled("retrain", home):
        owed.settle(home)
        return None
    if not owed.look(home):
        return None
    _tell(home, UNFINISHED, {})
    return "the last retraining did not come to its end: it was asked for again"


def _start(home: Path, event: str, payload: dict[str, Any]) -> None:
    owed.owe(home)
    _tell(home, event, payload)


def _tell(home: Path, event: str, payload: dict[str, Any]) -> None:
    emit_event(event, {"prefect.resource.id": f"v2meow.workspace.{home.name}"}, payload=payload)


def _mark(unseen: dict[str, str], enough: float) -> str:
    """What waits and what is demanded of it, in short."""
    return hashlib.sha256(json.dumps([unseen, enough], sort_keys=True).encode()).hexdigest()


def _last(home: Path) -> str:
    return (home / _JUDGED).read_text() if (home / _JUDGED).is_file() else ""


def _note(home: Path, mark: str) -> None:
    with atomic_file(home / _JUDGED) as file:
        file.write_text(mark)
