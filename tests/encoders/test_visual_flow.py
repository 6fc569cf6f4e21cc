"""I3D over optical flow: the published network, and flow that says what moved, when and how fast."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.config import FlowConfig
from v2meow.encoders.visual.flow import Flow, flow_windows, optical_flow
from v2meow.encoders.visual.i3d import I3D
from v2meow.weights import ModelError

CPU = torch.device("cpu")
CONFIG = FlowConfig(kind="i3d-flow", asset="i3d", rate=1.0, frame_rate=8.0, window_frames=8, batch=2, bfloat16=False)


@pytest.fixture(scope="module")
def network() -> I3D:
    """Random, its normalization too: where that does nothing, a wrong one does not show. Signals keep their size."""
    torch.manual_seed(0)
    made = I3D().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor, low, high in ((module.running_mean, -0.1, 0.1), (module.running_var, 0.5, 1.5)):
                assert tensor is not None
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return made


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """As the port's file was written: by a PyTorch that did not count batches yet, in its old format."""
    place = tmp_path_factory.mktemp("i3d")
    weights = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.save(weights, place / "flow_imagenet.pt", _use_new_zipfile_serialization=False)
    return place


def _scene(frames: int, right: float, down: float, height: int = 256, width: int = 320) -> np.ndarray:
    """A smooth random texture that moves by so many pixels a frame."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [(*random.uniform(-0.2, 0.2, 2), random.uniform(0, 6.3)) for _ in range(40)]

    def picture(i: int) -> np.ndarray:
        grey = sum(np.sin(a * (x - right * i) + b * (y - down * i) + c) for a, b, c in waves)
        return np.repeat(np.clip(128 + 12 * np.asarray(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    return np.stack([picture(i) for i in range(frames)])


def _padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """SAME as TensorFlow's documentation writes it."""
    sides = []
    for length, size, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(size - (step if length % step == 0 else length % step), 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides)


def _unit(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.conv3d.weight"]
    x = F.conv3d(_padded(x, tuple(kernel.shape[2:]), (stride,) * 3), kernel, stride=stride)
    mean, variance, scale, bias = (
        weights[f"{name}.bn.{part}"].reshape(-1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu((x - mean) / torch.sqrt(variance + 1e-3) * scale + bias)


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_padded(x, kernel, stride), kernel, stride)


def _mixed(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    def branch(x: Tensor, *names: str) -> Tensor:
        for part in names:
            x = _unit(weights, f"{name}.{part}", x)
        return x

    pooled = _pool(x, (3, 3, 3), (1, 1, 1))
    return torch.cat((branch(x, "b0"), branch(x, "b1a", "b1b"), branch(x, "b2a", "b2b"), branch(pooled, "b3b")), 1)


@torch.inference_mode()
def test_the_network_is_the_published_one(network):
    """Written out from the names in its weights: a kernel padded on the wrong side loads without a complaint."""
    torch.manual_seed(1)
    clip, weights = torch.rand(1, 2, 11, 224, 224) * 2 - 1, network.state_dict()
    x = _pool(_unit(weights, "Conv3d_1a_7x7", clip, stride=2), (1, 3, 3), (1, 2, 2))
    x = _pool(_unit(weights, "Conv3d_2c_3x3", _unit(weights, "Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for block, pool in (("bc", (3, 3, 3)), ("bcdef", (2, 2, 2)), ("bc", None)):
        for letter in block:
            number = {"bc": 3 if pool else 5, "bcdef": 4}[block]
            x = _mixed(weights, f"Mixed_{number}{letter}", x)
        x = _pool(x, pool, (2, 2, 2)) if pool else x
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    features, scores = network.features(clip), network(clip)
    assert (features.shape, scores.shape) == ((1, 1024), (1, 400))
    assert torch.allclose(features, x.mean((2, 3, 4)), atol=1e-4)
    assert features.std() > 0.01
    expected = F.conv3d(x, weights["logits.conv3d.weight"], weights["logits.conv3d.bias"]).mean((2, 3, 4))
    assert torch.allclose(scores, expected, atol=1e-4)


def test_its_weights_have_the_published_names_and_shapes(network):
    """12.7 million of them, for two channels of flow and 400 actions."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 2, 7, 7, 7)
    assert shapes["Conv3d_2c_3x3.bn.running_var"] == (192,)
    assert shapes["Mixed_3b.b0.conv3d.weight"] == (64, 192, 1, 1, 1)
    assert shapes["Mixed_4e.b1b.conv3d.weight"] == (288, 144, 3, 3, 3)
    assert shapes["Mixed_5c.b2b.conv3d.weight"] == (128, 48, 3, 3, 3)
    assert shapes["Mixed_5c.b3b.conv3d.weight"] == (128, 832, 1, 1, 1)
    assert (shapes["logits.conv3d.weight"], shapes["logits.conv3d.bias"]) == ((400, 1024, 1, 1, 1), (400,))
    units = 3 + 9 * 6
    assert len(shapes) == 6 * units + 2 and sum(map(math.prod, shapes.values())) == 12_689_872 + units


def test_flow_points_where_the_picture_goes():
    """Exchanged channels, or a sign, would be another direction of motion to the network."""
    right, down = optical_flow(_scene(2, right=6.0, down=-3.0), np.array([0]), 256)[0].reshape(-1, 2).T
    assert np.median(right) == pytest.approx(6 / 20, abs=0.02)
    assert np.median(down) == pytest.approx(-3 / 20, abs=0.02)


def test_what_is_faster_than_the_network_knows_is_clipped():
    flow = optical_flow(_scene(2, right=22.0, down=0.0), np.array([0]), 256)
    assert flow.shape == (1, 224, 224, 2) and flow.dtype == np.float32
    assert np.abs(flow).max() == 1.0 and np.median(flow[..., 0]) == 1.0


def test_a_small_picture_is_as_fast_as_a_large_one():
    """Speed is in pixels, so it counts how large the picture is."""
    small = optical_flow(_scene(2, right=2.0, down=0.0, height=128, width=160), np.array([0]), 256)
    assert np.median(small[..., 0]) == pytest.approx(4 / 20, abs=0.02)


def test_windows_are_centred_on_their_rows():
    """A window that starts at its row's time would let the music run ahead by half of it."""
    windows = flow_windows(32, CONFIG)
    assert windows.shape == (4, 8)
    assert windows[1].tolist() == list(range(4, 12))  # from 0.5 s to 1.5 s: flow 4 lies between frames 4 and 5
    assert windows[0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert flow_windows(30, replace(CONFIG, rate=8.0))[-1].tolist() == [25, 26, 27, 28, 28, 28, 28, 28]


def test_a_single_frame_does_not_move():
    assert (optical_flow(_scene(1, 5.0, 5.0), flow_windows(1, CONFIG)[0], 256) == 0).all()


def test_features_are_those_of_each_window_alone(network, folder):
    """Windows share flows and go in batches; what one shares with another must not show."""
    config = replace(CONFIG, rate=4.0)
    frames = _scene(8, right=4.0, down=1.0)
    frames[4:] = frames[4:, ::-1]
    extractor = Flow(config, folder, CPU)
    found = extractor(frames)
    assert extractor.width == 1024 and (found.shape, found.dtype) == ((4, 1024), np.float32)
    alone = torch.from_numpy(optical_flow(frames, flow_windows(8, config)[2], 256))
    with torch.inference_mode():
        expected = network.features(alone.permute(3, 0, 1, 2)[None])[0].numpy()
    assert np.abs(found[2] - expected).max() < 1e-4
    assert np.abs(found - expected).max(axis=1)[[0, 1, 3]].min() > 1e-3


def test_bfloat16_is_near(folder):
    frames = _scene(9, right=4.0, down=1.0)[:8]
    exact, near = (Flow(replace(CONFIG, bfloat16=value), folder, CPU)(frames)[0] for value in (False, True))
    assert near.dtype == np.float32 and np.abs(exact - near).max() > 0
    assert (exact @ near) / np.linalg.norm(exact) / np.linalg.norm(near) > 0.999


@pytest.mark.parametrize("harm", ["truncated", "RGB", "one is missing"])
def test_weights_that_cannot_be_used_are_named(network, folder, tmp_path, harm):
    """The RGB network's weights differ in one shape only."""
    file = tmp_path / ("flow.pt" if harm == "truncated" else "flow.safetensors")
    if harm == "truncated":
        file.write_bytes((folder / "flow_imagenet.pt").read_bytes()[:10_000])
    else:
        weights = network.state_dict()
        if harm == "RGB":
            weights["Conv3d_1a_7x7.conv3d.weight"] = torch.zeros(64, 3, 7, 7, 7)
        else:
            del weights["Mixed_4c.b2b.conv3d.weight"]
        save_file(weights, file)
    with pytest.raises(ModelError, match=f"{file.name} is damaged, or not the state dict of an I3D") as caught:
        Flow(CONFIG, tmp_path, CPU)
    assert "\n" not in str(caught.value)
