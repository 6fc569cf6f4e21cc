"""CLIP: what open_clip itself makes of a picture, faster; and weights that are what they claim to be."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from pretrained import MODEL, pictures, tiny_clip
from safetensors.torch import save_file

from v2meow.config import ClipConfig
from v2meow.encoders.visual.clip import Clip
from v2meow.encoders.visual.preprocess import Preprocess
from v2meow.media import write_video
from v2meow.weights import ModelError

CPU = torch.device("cpu")
CONFIG = ClipConfig(kind="clip", asset="clip", model=MODEL, rate=1.0, batch=4, bfloat16=False)
SHAPES = [(512, 910), (360, 640), (910, 512), (512, 512), (37, 53), (230, 224), (512, 1229)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("architecture"))


@pytest.fixture
def folder(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def _transformed(frames: np.ndarray, cfg: PreprocessCfg) -> torch.Tensor:
    """Frames as open_clip's own transform makes them, one PIL image after the other: [B, 3, height, width]."""
    transform: Any = image_transform_v2(cfg, is_train=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in frames])


def _by_open_clip(model, frames, cfg=None) -> np.ndarray:
    """Embeddings as open_clip's documentation makes them."""
    batch = _transformed(frames, cfg or PreprocessCfg(size=32))
    with torch.inference_mode():
        return model.encode_image(batch).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_are_those_of_open_clip_within_a_grey_level(shape, fit, interpolation):
    """Without antialiasing, or cropped one pixel off, a picture is another one; the model was trained on PIL's."""
    size, plain = (224, 224), dict[str, Any](mean=(0, 0, 0), std=(1, 1, 1))
    cfg = PreprocessCfg(size=224, resize_mode=fit, interpolation=interpolation, fill_color=99, **plain)
    ours = Preprocess(size=size, fit=fit, interpolation=interpolation, fill=99, **plain)
    frame = pictures(1, *shape)
    if fit == "squash":  # Pillow 13 squashes tall pictures vertically first: the same, where nothing is clipped between
        frame = frame // 2 + 64
    expected, found = _transformed(frame, cfg), ours(torch.from_numpy(frame).permute(0, 3, 1, 2))
    assert found.shape == expected.shape == (1, 3, *size)
    assert 255 * (found - expected).abs().max() < 1.01


def test_a_model_with_oblong_pictures_is_given_them():
    cfg = PreprocessCfg(size=(96, 64), mean=(0, 0, 0), std=(1, 1, 1))
    frame = pictures(1, 360, 640)
    found = Preprocess(size=(96, 64), mean=(0, 0, 0), std=(1, 1, 1))(torch.from_numpy(frame).permute(0, 3, 1, 2))
    assert 255 * (found - _transformed(frame, cfg)).abs().max() < 1.01


def test_embeddings_are_those_of_open_clip(model, folder):
    clip, frames = Clip(CONFIG, folder, CPU), pictures(6, 45, 80)
    found = clip(frames)
    assert clip.width == 16 and (found.shape, found.dtype) == ((6, 16), np.float32)
    assert np.abs(found - _by_open_clip(model, frames)).max() < 0.01
    assert np.abs(found - found[0])[1:].max() > 0.1


def test_the_batch_changes_nothing(folder):
    """The last batch is smaller; a row that is lost or doubled there shifts all that follow."""
    frames = pictures(5, 40, 40)
    one, all_at_once = (Clip(replace(CONFIG, batch=batch), folder, CPU)(frames) for batch in (1, 5))
    assert np.abs(Clip(CONFIG, folder, CPU)(frames) - one).max() < 1e-5
    assert np.abs(all_at_once - one).max() < 1e-5


def test_bfloat16_is_near(folder):
    frames = pictures(8, 45, 80)
    exact, near = (Clip(replace(CONFIG, bfloat16=value), folder, CPU)(frames) for value in (False, True))
    assert near.dtype == np.float32
    agreement = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert agreement.min() > 0.999 and np.abs(exact - near).max() > 0


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "ViT.pt", "epoch_32.pth"])
def test_every_published_form_of_weights_is_read(model, folder, tmp_path, name):
    """Checkpoints of a training wrap the state dict and call it a module's."""
    other = tmp_path / "other"
    other.mkdir()
    weights = model.state_dict()
    whole = {"epoch": 32, "state_dict": {f"module.{key}": value for key, value in weights.items()}}
    torch.save(whole if name.endswith(".pth") else weights, other / name)
    frames = pictures(2, 32, 32)
    assert (Clip(CONFIG, other, CPU)(frames) == Clip(CONFIG, folder, CPU)(frames)).all()


def test_what_is_published_beside_the_weights_counts(model, folder):
    """SigLIP's pictures are normalised otherwise than CLIP's, and OpenAI's models have another activation."""
    cfg = PreprocessCfg(
        size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash", interpolation="bilinear"
    )
    frames, before = pictures(2, 45, 80), Clip(CONFIG, folder, CPU)(pictures(2, 45, 80))
    published = folder / "open_clip_config.json"
    published.write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": asdict(cfg) | {"size": None}}))
    after = Clip(CONFIG, folder, CPU)(frames)
    assert np.abs(after - _by_open_clip(model, frames, cfg)).max() < 0.01
    assert np.abs(after - before).max() > 0.05
    published.write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    assert np.abs(Clip(CONFIG, folder, CPU)(frames) - before).max() > 1e-4


class _Malicious:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("harm", ["truncated", "garbage", "other model", "code"])
def test_weights_that_cannot_be_used_are_one_line_that_names_them(model, folder, harm, capsys):
    """A model with a layer left at random would give features all the same."""
    file = folder / "open_clip_model.safetensors"
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "other model":
        save_file({key: value for key, value in model.state_dict().items() if "ln_post" not in key}, file)
    else:
        file.unlink()
        file = folder / "open_clip_pytorch_model.bin"
        file.write_bytes(b"not a model")
        if harm == "code":
            torch.save({"visual": _Malicious()}, file)
    message = f"{file.name} is damaged, or not a state dict of open_clip's tiny-clip"
    with pytest.raises(ModelError, match=message) as caught:
        Clip(CONFIG, folder, CPU)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert "this ran" not in capsys.readouterr().out


def test_a_folder_without_weights_and_one_with_too_many_are_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty holds no weights"):
        Clip(CONFIG, tmp_path / "empty", CPU)
    (folder / "open_clip_other.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"leave one of open_clip_model\.safetensors, open_clip_other\.safetensors"):
        Clip(CONFIG, folder, CPU)


def test_an_unknown_architecture_is_told(folder):
    with pytest.raises(ModelError, match="open_clip has no model 'ViT-B-31'"):
        Clip(replace(CONFIG, model="ViT-B-31"), folder, CPU)


def test_pictures_are_read_large_enough_for_every_model():
    """A picture made smaller than a model's input would be blown up again."""
    made: list[Any] = [open_clip.get_model_config(name) for name in open_clip.list_models()]
    sizes = [architecture["vision_cfg"].get("image_size", 224) for architecture in made]
    assert max(size if isinstance(size, int) else max(size) for size in sizes) <= CONFIG.size


def test_a_large_picture_read_smaller_is_the_same_to_the_model(reader, tmp_path):
    """Recipes promise that reading costs nothing: what the model sees is what it would see of the full picture."""
    frequency = np.hypot(np.fft.fftfreq(1080)[:, None], np.fft.rfftfreq(1920))
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, frequency.shape)
    scenery = np.fft.irfft2(np.exp(1j * phases) / np.maximum(frequency, 1 / 1080), (1080, 1920))  # as in nature, 1 / f
    grey = np.clip(128 + 50 * scenery / scenery.std(), 0, 255).astype(np.uint8)
    frame = np.repeat(grey[..., None], 3, axis=2)
    write_video(tmp_path / "a.mp4", [frame], 1, np.zeros(1000, np.float32), 1000)
    prepare = Preprocess(size=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
    read = [reader.frames(tmp_path / "a.mp4", 1, size, seconds=1.0, whole=True) for size in (CONFIG.size, 1080)]
    small, full = (prepare(torch.from_numpy(frames).permute(0, 3, 1, 2)) * 255 for frames in read)
    assert [frames.shape[1] for frames in read] == [640, 1080]
    apart = small - full  # FFmpeg rounds down by a level where it scales while it makes RGB
    assert apart.abs().max() < 4 and (apart - apart.mean()).abs().max() < 2.5
