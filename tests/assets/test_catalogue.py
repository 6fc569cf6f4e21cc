"""What is declared can be used, what cannot is told at once, and a licence is held before anything is loaded."""

from pathlib import Path

import pytest
import tiny

from v2meow import assets
from v2meow.assets import AssetError
from v2meow.assets.catalogue import to_asset, to_plain
from v2meow.assets.sources import published

OWN = """
our-clip:
  about: CLIP, fine-tuned on our videos
  licence: ours
  commercial: true
  folder: weights
  files:
    open_clip_model.safetensors: {}
"""


def test_every_asset_that_ships_says_where_it_comes_from():
    shipped = assets.catalogue()
    assert len(shipped) >= 10
    for asset in shipped.values():
        for file in asset.files:
            assert published(asset, file.name).startswith("https://"), asset.name
            assert len(file.sha256) in (0, 8, 64), (asset.name, file)
        assert to_asset(asset.name, to_plain(asset), Path(), "itself") == asset


def test_a_hub_file_has_its_address_at_the_hub_that_is_chosen(monkeypatch):
    asset = assets.find("w2v-bert-2.0")
    path = f"facebook/w2v-bert-2.0/resolve/{asset.revision}/config.json"
    assert published(asset, "config.json") == f"https://huggingface.co/{path}"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert published(asset, "config.json") == f"https://hub.example/{path}"


def test_a_name_that_stands_nowhere_is_answered_with_the_nearest():
    with pytest.raises(AssetError, match=r"no asset 'w2v-bert-2', did you mean w2v-bert-2.0\?.*v2meow assets list"):
        assets.folder("w2v-bert-2")


def test_ones_own_assets_are_known_wherever_the_store_is_once_pulled(tmp_path):
    """Encoders ask by name alone; a bundle travels without the workspace's assets.yaml."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "open_clip_model.safetensors").write_bytes(b"weights")
    declared = tmp_path / assets.DECLARATIONS
    declared.write_text(OWN)
    with pytest.raises(AssetError, match=r"assets.yaml beside the recipe may declare it"):
        assets.folder("our-clip")
    assets.pull([assets.find("our-clip", declared)])
    declared.unlink()
    assert (assets.folder("our-clip") / "open_clip_model.safetensors").read_bytes() == b"weights"
    assert assets.find("our-clip").licence == "ours"


def test_an_asset_without_a_source_is_put_into_the_store_by_hand(declare, store):
    asset = declare({"weights.pt": {}})
    with pytest.raises(AssetError, match=f"no source; put this file into the store: {store / 'tiny' / 'weights.pt'}"):
        assets.pull([asset])
    (store / "tiny" / "weights.pt").write_bytes(b"weights")
    assets.pull([asset])
    assert assets.folder("tiny") == store / "tiny"


def test_all_problems_of_a_declaration_are_told_at_once(tmp_path):
    declared = tmp_path / assets.DECLARATIONS
    declared.write_text("""
ours:
  about: 3
  hub: no-owner
  url: http://plain
  files: {../x: {}, a.bin: {size: big, sha256: ABC, colour: red}, asset.json: {}}
""")
    with pytest.raises(AssetError) as caught:
        assets.catalogue(declared)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "ours.licence: missing",
        "ours.commercial: missing",
        "ours.about: expected str, got 3",
        "ours: give one of hub, url and folder",
        "ours.hub: expected OWNER/REPOSITORY, got 'no-owner'",
        "ours.url: must begin with https://, got 'http://plain'",
        "ours.files: '../x' is not a plain file name other than asset.json",
        "ours.files.a.bin.colour: unknown key",
        "ours.files.a.bin.size: expected bytes, got 'big'",
        "ours.files.a.bin.sha256: expected 8 to 64 hexadecimal digits, lower case, got 'ABC'",
        "ours.files: 'asset.json' is not a plain file name other than asset.json",
    ]


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", ""])
def test_a_name_cannot_lead_out_of_the_store(name):
    with pytest.raises(AssetError, match="a name is letters"):
        to_asset(name, {}, Path(), "test")


def test_the_catalogues_own_names_are_not_declared_again(tmp_path):
    """Else a recipe would mean other weights, under another licence, in one workspace than in another."""
    declared = tmp_path / assets.DECLARATIONS
    declared.write_text(OWN.replace("our-clip", "clip-vit-l14-openai"))
    with pytest.raises(AssetError, match="declares clip-vit-l14-openai, which the catalogue has"):
        assets.find("clip-vit-l14-openai", declared)


ENCODERS = {
    "visual": [{"kind": "clip", "asset": "clip-vit-l14-openai", "model": "ViT-L-14", "rate": 1.0, "batch": 1}],
    "semantic_ids": {"kind": "mert", "asset": "mert-v1-95m", "layer": 7, "rate": 25, "clusters": 16},
    "codec": {"kind": "encodec", "asset": "encodec-24khz", "sample_rate": 24000, "bandwidth": 6.0},
    "joint": {"kind": "clap", "asset": "clap-htsat-unfused", "batch": 1, "bfloat16": False},
}
ENCODERS["visual"][0]["bfloat16"] = ENCODERS["semantic_ids"]["bfloat16"] = False
ENCODERS["semantic_ids"]["sample_frames"] = 100


@pytest.fixture
def pretrained(monkeypatch):
    """A tiny recipe whose every encoder is a pretrained one, with other keys changed as asked."""
    kept = {key: value for key, value in tiny.CHANGES.items() if key.partition(".")[0] not in ENCODERS}
    monkeypatch.setattr(tiny, "CHANGES", kept)
    return lambda **changes: tiny.recipe(ENCODERS | changes)


def test_a_recipe_needs_the_assets_of_its_encoders(pretrained):
    assert assets.needed(tiny.recipe({"visual": [{"kind": "motion", "rate": 10.0, "size": 64}]})) == []
    names = ["clip-vit-l14-openai", "mert-v1-95m", "encodec-24khz", "clap-htsat-unfused"]
    assert assets.needed(pretrained()) == names


def test_a_commercial_recipe_is_refused_with_every_asset_that_bars_it(pretrained):
    assets.check_licences(pretrained())
    with pytest.raises(AssetError, match=r"mert-v1-95m \(CC-BY-NC-4.0\), encodec-24khz \(unclear") as caught:
        assets.check_licences(pretrained(commercial_only=True))
    assert "clap" not in str(caught.value)
