"""A model folder is complete or absent, and damage is told with the folder's name instead of a traceback."""

import pytest
import torch
from disks import small_disk
from safetensors.torch import load_file
from torch import nn

from v2meow.weights import ModelError, halve, load_into, read_config, save


def _linear(seed: int = 0, width: int = 3) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, 2)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    save(tmp_path / "model", _linear(), {"width": 3}, {"loss": 1.5})
    other = _linear(seed=1)
    load_into(other, tmp_path / "model")
    assert torch.equal(other.weight, _linear().weight) and torch.equal(other.bias, _linear().bias)
    assert read_config(tmp_path / "model") == {"width": 3}
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "model.safetensors",
        "config.json",
        "metrics.json",
    }


def test_saving_the_same_twice_gives_the_same_bytes(tmp_path):
    """A bundle's name is the hash of its bytes."""
    for name in ("a", "b"):
        save(tmp_path / name, _linear(), {}, {})
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_halved_weights_load_as_before_and_what_does_not_fit_stays(tmp_path):
    """Half of the size for a difference that nobody hears; infinities would be silence."""
    big = _linear()
    with torch.no_grad():
        big.bias.fill_(1e6)
    save(tmp_path / "model", big, {"width": 3}, {"loss": 1.5})
    halve(tmp_path / "model", tmp_path / "half")
    stored = load_file(tmp_path / "half/model.safetensors")
    assert stored["weight"].dtype == torch.float16 and stored["bias"].dtype == torch.float32
    other = _linear(seed=1)
    load_into(other, tmp_path / "half")
    torch.testing.assert_close(other.weight, big.weight, rtol=1e-3, atol=0)
    assert torch.equal(other.bias, big.bias) and other.weight.dtype == torch.float32
    assert read_config(tmp_path / "half") == {"width": 3} and (tmp_path / "half/metrics.json").is_file()


def test_damaged_weights_cannot_be_halved(tmp_path):
    save(tmp_path / "model", _linear(), {}, {})
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model\.safetensors is missing or damaged"):
        halve(tmp_path / "model", tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_weights_of_another_shape_or_another_name_are_refused(tmp_path):
    """Loaded silently in part, a model would generate noise."""
    save(tmp_path / "model", _linear(), {}, {})
    for other in (_linear(width=4), nn.Sequential(_linear())):
        with pytest.raises(ModelError, match=r"model\.safetensors does not fit its config\.json or is damaged"):
            load_into(other, tmp_path / "model")


def test_damaged_weights_are_refused(tmp_path):
    save(tmp_path / "model", _linear(), {}, {})
    file = tmp_path / "model/model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:20], b"\x80\x04pickle" * 10):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_into(_linear(), tmp_path / "model")


def test_a_folder_without_weights_or_config_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"is not a model folder: model\.safetensors is missing"):
        load_into(_linear(), tmp_path)
    with pytest.raises(ModelError, match=r"is not a model folder: config\.json is missing"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_config_that_is_none_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_model_whose_metrics_cannot_be_written_does_not_replace_the_old_one(tmp_path):
    save(tmp_path / "model", _linear(), {"version": 1}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path / "model", _linear(seed=1), {"version": 2}, {"loss": float("nan")})
    assert read_config(tmp_path / "model") == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_told_with_the_folders_name(tmp_path):
    """The error must be the operating system's, which ends in one line, not one of the weights' library."""
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(OSError, match=r"could not write .*model: No space left"):
            save(disk / "model", nn.Linear(1000, 100), {}, {})
        assert not any(disk.iterdir())
