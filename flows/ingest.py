"""`ingest`: the recipe's source is looked at; what is new comes into the workspace, enough of it starts `retrain`."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from v2meow.config import MediaConfig, load_recipe
from v2meow.data import pull as pulling
from v2meow.data.arrivals import new_hours
from v2meow.data.source import open_source

ARRIVED = "v2meow.videos.enough"  # the event that starts a retraining


@flow(name="ingest", flow_run_name="ingest", persist_result=False)
def ingest(folder: str, source: str = "") -> State[Any]:
    """Bring the videos of `source`, a folder or s3://bucket/prefix, by default the recipe's, into the workspace.

    Emits the event that starts a retraining when something came and what no dataset holds is enough of it.
    """
    home, log = Path(folder).resolve(), get_run_logger()
    recipe = load_recipe(home / "recipe.yaml")
    source = source or recipe.data.source
    if not source:
        return Completed(name="No source", message="set data.source in the recipe")
    added = pull(home, source)
    if not added:
        return Completed(name="Nothing new", message=f"{source} has nothing new")
    hours = waiting(home, recipe.media)
    enough = hours >= recipe.retrain.min_new_hours
    log.info("%d files came; %.2f hours wait, %g are enough", added, hours, recipe.retrain.min_new_hours)
    if enough:
        about = {"prefect.resource.id": f"v2meow.workspace.{home.name}"}
        emit_event(ARRIVED, about, payload={"files": added, "hours": hours})
    return Completed(message=f"{added} files came, {'enough' if enough else 'not enough'} for a retraining")


@task(retries=3, retry_delay_seconds=[5, 30, 120], cache_policy=NO_CACHE, persist_result=False)
def pull(home: Path, source: str) -> int:
    """How many objects came, new or changed. What was left out, and why, stands in the run's log."""
    found = pulling.pull(home, open_source(source))
    for key, reason in found.skipped.items():
        get_run_logger().warning("%s was left out: %s", key, reason)
    return found.added + found.replaced


@task(cache_policy=NO_CACHE, persist_result=False)
def waiting(home: Path, limits: MediaConfig) -> float:
    """Hours of videos that no dataset holds."""
    return new_hours(home, limits)
