"""What TensorBoard shows of a folder of event files."""

from pathlib import Path


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every curve, without what a later writer has declared void."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    tags: list[str] = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def shown_steps(folder: Path) -> list[int]:
    """The steps of the loss curve."""
    return [step for step, _ in shown(folder)["loss"]]
