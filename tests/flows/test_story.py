"""The whole way, as it is: videos land, and a model goes to production, or does not, by itself."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.story import tell
from v2meow.registry import Registry
from v2meow.release import MODEL_NAME


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_the_story_is_true(tmp_path: Path, free_port: int):
    """Parts that work one by one, and a chain of which a link is never pulled."""
    told: list[str] = []
    tell(tmp_path / "story", free_port, told.append)
    history = Registry(tmp_path / "story/workspace/registry").state(MODEL_NAME).history
    assert told[-1].startswith("— The end") and history[-1].kind == "rollback"
    canary = history[-2].report
    assert canary and canary.kind == "canary" and canary.numbers["slowdown"] > 3.0 and not canary.passed
    smoke, watched = (datetime.fromisoformat(event.time) for event in history[-3:-1])
    assert watched - smoke < timedelta(seconds=60), "a watch of six seconds and six requests"
