"""A stage comes back from its folder as it went in, or is refused with the reason."""

import json

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.model.io import load_stage, save_stage
from v2meow.weights import ModelError


@pytest.mark.parametrize("stage", STAGES)
def test_a_loaded_stage_gives_the_same_logits(stage, tmp_path):
    """Streams, visual inputs and statistics are all part of what is saved."""
    model = tiny.model(stage)
    codes, given = tiny.inputs(model, 1, 0.2)
    save_stage(tmp_path / stage, model.train(), {"loss": 1.0})
    loaded = load_stage(tmp_path / stage)
    assert loaded.spec == model.spec
    assert not loaded.training
    assert torch.equal(loaded(codes, given), model.eval()(codes, given))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_loaded_without_beginnings_that_nobody_needs(stage, tmp_path):
    """Drawing them takes longer than reading the weights. So all there is must be in the file: the rest is not set."""
    save_stage(tmp_path / stage, tiny.model(stage), {})
    before = torch.get_rng_state()
    loaded = load_stage(tmp_path / stage)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.state_dict().keys() == dict((*loaded.named_parameters(), *loaded.named_buffers())).keys()


@pytest.mark.parametrize(
    "damage",
    [
        {"target": None},
        {"prefix": {"levels": 1}},
        {"visual": [{"width": 3}]},
        {"depth": 3},
        {"layers": 3},
        {"width": 16},
    ],
)
def test_a_config_that_does_not_describe_the_weights_is_refused(damage, tmp_path):
    """Old folders, or folders edited by hand, must end in one line that names the folder."""
    save_stage(tmp_path / "coarse", tiny.model("coarse"), {})
    file = tmp_path / "coarse/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(ModelError, match="coarse"):
        load_stage(tmp_path / "coarse")
