"""Features of motion: I3D over dense optical flow. The only home of OpenCV.

Flow is prepared as for Kinetics (Carreira & Zisserman, arXiv 1705.07750): 256 pixels on the shorter side, clipped to
20 pixels a frame, scaled to -1…1, the central 224 pixels. DIS (Kroeger et al., arXiv 1603.03590) takes the place of
TV-L1, which is a hundred times slower.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from v2meow.config import FlowConfig
from v2meow.encoders.published import find_weights, loading, read_weights
from v2meow.encoders.visual.i3d import I3D, SIDE, WIDTH

_FASTEST = 20.0  # pixels a frame


class Flow:
    """A row of I3D features every 1 / rate seconds, of the flow around that time."""

    width = WIDTH

    def __init__(self, config: FlowConfig, folder: Path, device: torch.device) -> None:
        """Load the weights in `folder`; ModelError naming the file when they are damaged or of another model."""
        self._config, self._device = config, device
        self._model = I3D().eval()
        weights = find_weights(folder, prefix="flow")
        with loading(weights, "the state dict of an I3D over flow, such as flow_imagenet.pt"):
            self._model.load_state_dict(read_weights(weights))
        self._model.to(device)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [V, 1024] of RGB frames uint8 [F, H, W, 3] at the configuration's `frame_rate`."""
        assert frames.ndim == 4 and frames.shape[3] == 3, frames.shape
        windows = flow_windows(len(frames), self._config)
        needed, places = np.unique(windows, return_inverse=True)  # windows overlap, or leave gaps
        flows, places = optical_flow(frames, needed, self._config.size), places.reshape(windows.shape)
        rows = [
            self._embed(torch.from_numpy(flows[places[first : first + self._config.batch]]))
            for first in range(0, len(windows), self._config.batch)
        ]
        return torch.cat(rows).numpy()

    def _embed(self, flows: Tensor) -> Tensor:
        """Features [B, 1024] of windows of flow [B, T, 224, 224, 2]."""
        clips = flows.to(self._device).permute(0, 4, 1, 2, 3)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.bfloat16):
            return self._model.features(clips).float().cpu()


def flow_windows(frames: int, config: FlowConfig) -> np.ndarray:
    """Which flows make up each row: int [V, window_frames], flow i lying between frames i and i + 1.

    A window is centred on its row's time; at the ends the first or last flow is repeated.
    """
    rows = max(1, round(frames / config.frame_rate * config.rate))
    centres = np.arange(rows) * config.frame_rate / config.rate  # in frames
    first = np.floor(centres - config.window_frames / 2 + 0.5).astype(int)
    return np.clip(first[:, None] + np.arange(config.window_frames), 0, max(0, frames - 2))


def optical_flow(frames: np.ndarray, places: np.ndarray, shorter: int) -> np.ndarray:
    """Flow from frame i to the next, for each i in `places`: float32 [N, 224, 224, 2] (right, down) in -1…1.

    1 is 20 pixels a frame where the shorter side is scaled to `shorter` pixels. A single frame does not move.
    """
    grey = [_grey(frame, shorter) for frame in (frames if len(frames) > 1 else np.repeat(frames, 2, axis=0))]
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = np.empty((len(places), SIDE, SIDE, 2), np.float32)
    for flow, place in zip(flows, places, strict=True):
        # None, which OpenCV's stubs forget: an array here would be taken for a first guess
        found = np.asarray(dense.calc(grey[place], grey[place + 1], None))  # pyright: ignore[reportCallIssue, reportArgumentType]
        top, left = (found.shape[0] - SIDE) // 2, (found.shape[1] - SIDE) // 2
        np.clip(found[top : top + SIDE, left : left + SIDE] / _FASTEST, -1, 1, out=flow)
    return flows


def _grey(frame: np.ndarray, shorter: int) -> np.ndarray:
    """A frame uint8 [H, W, 3] as grey [H, W] with a shorter side of `shorter` pixels."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = shorter / min(height, width)
    return grey if scale == 1 else cv2.resize(grey, (round(width * scale), round(height * scale)))
