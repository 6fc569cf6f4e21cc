"""The report is one file that opens offline, says what was measured, and nothing that was not."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from v2meow.config import recipe_path
from v2meow.data.manifest import REJECTED, RejectedFile, write_rejected
from v2meow.evaluate import plots, report
from v2meow.files import write_json
from v2meow.media import write_wav

RATE = 16_000
BUNDLE = "d884c9bdd453" + "0" * 52
HOSTILE = '"><script src=http://evil.example/x.js></script><img src=x onerror=alert(1)>'
METRICS = {
    "bundle": BUNDLE,
    "videos": 34,
    "audio": {"level_dbfs": -22.2, "silent_share": 0.0, "clipping_share": 0.005},
    "loss": {
        "semantic": {"by_level": [1.34], "mean": 1.34, "right_video": 1.34, "wrong_video": 1.62, "margin": 0.28},
        "coarse": {"by_level": [2.2, 2.8], "mean": 2.5},
        "fine": {"by_level": [4.2, 4.1], "mean": 4.15},
    },
    "level": {"right": 0.91, "wrong": -0.03, "p_value": 0.0001, "count": 34},
    "planted": {
        "timbre": {"right": 0.6, "wrong": 0.2, "ceiling": 1.0, "p_value": 0.0004, "count": 34},
        "tempo": {"right": 0.26, "wrong": 0.23, "ceiling": 0.94, "p_value": 0.4, "count": 34},
    },
    "contradicted": {"prompt": 0.71, "picture": 0.18},
}
JOINT = {
    "pairs": 412,
    "follows_text": True,
    "recall_at_1": 0.59,
    "recall_at_10": 1.0,
    "chance_at_1": 0.03,
    "text_recall_at_1": 0.52,
    "text_recall_at_10": 0.98,
    "text_chance_at_1": 0.04,
}
CODEC = {"kilobits_per_second": 3.2, "si_sdr_db": 8.3, "mel_distance": 0.45, "codebook_use": 0.67}


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self._pieces: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self._pieces).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._pieces.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def _check(rule, success=True, severity="critical", examples=(), **found):
    said = {"rule": rule, "success": success, "severity": severity, "name": "expect", "column": "clip_id"}
    return said | {"unexpected": len(examples), "observed": None, "examples": list(examples)} | found


def _criterion(metric, value, passed, reason, at_least=None, at_most=None):
    limits = {"at_least": at_least, "at_most": at_most, "optional": value is None}
    return {"metric": metric, "value": value, "passed": passed, "reason": reason, **limits}


def _write_samples(workspace, captions, seconds=0.5, attributes=None):
    folder, listed = workspace / "reports/samples", []
    for row, caption in enumerate(captions):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
        write_wav(folder / f"{row:03d}-real.wav", wave, RATE)
        write_wav(folder / f"{row:03d}-generated.wav", 0 * wave, RATE)
        listed.append(
            {"number": f"{row:03d}", "clip_id": f"{row:016x}-0000", "caption": caption, "attributes": attributes or {}}
        )
    write_json(folder / "samples.json", listed)


@pytest.fixture
def measured(tmp_path):
    """A workspace with metrics and a recipe, and nothing else."""
    shutil.copy(recipe_path("nano"), tmp_path / "recipe.yaml")
    write_json(tmp_path / "reports/metrics.json", METRICS)
    return tmp_path


@pytest.fixture
def workspace(measured):
    """A workspace with every part of a report, each as small as it can be."""
    criteria = [
        _criterion("audio.silent_share", 0.0, True, "0, at most 0.1 is asked", at_most=0.1),
        _criterion("planted.mode.p_value", None, True, "not measurable on this catalogue", at_most=0.01),
    ]
    verdict = {"passed": True, "bundle": BUNDLE, "recipe": "nano", "criteria": criteria}
    write_json(measured / "reports/verdict.json", verdict)
    figures = {"clips": 16, "videos": 8, "holdout_videos": 2, "train_videos": 6, "rejected_share": 0.1}
    checks = [_check("clip ids are unique"), _check("captions are given", False, "warning", ["clip-7"])]
    write_json(measured / "reports/validate.json", {"passed": True, "figures": figures, "checks": checks})
    usage = {"examples": 16, "failed_share": 0.0, "semantic_usage": 0.9, "codes_usage": [1.0, 0.5]}
    features = {"passed": True, "figures": usage, "checks": [_check("a clip has one example")]}
    write_json(measured / "reports/features.json", features)
    write_rejected(measured / REJECTED, [RejectedFile("data/raw/notes.txt", "not a video")])
    curve = [{"step": step, "loss": 5.5 - 0.1 * step} for step in range(30)]
    for name in ("semantic", "coarse", "fine"):
        figures = {"curve": curve, "parameters": 1_522_048, "holdout_loss": 3.0}
        write_json(measured / "models" / name / "metrics.json", figures)
    write_json(measured / "models/encoders/codec/metrics.json", CODEC | {"curve": curve})
    write_json(measured / "models/encoders/joint/metrics.json", JOINT | {"curve": curve})
    _write_samples(measured, ["a slow bell"], attributes={"timbre": "bell"})
    return measured


def _change(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


def _page(workspace) -> Page:
    return Page(report.write(workspace).read_text())


def test_the_page_needs_nothing_but_itself(workspace):
    """A report that is mailed, or opened offline, must not lose its plots or players, nor phone home."""
    path = report.write(workspace)
    page, text = Page(path.read_text()), path.read_text()
    linked = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert path == workspace / "reports/report.html" and len(linked) == 2 * 2 + 5 + 1
    assert all(link.startswith("data:") for link in linked)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "url(" not in text and "@import" not in text


def test_embedded_sound_and_pictures_are_whole(workspace):
    page = _page(workspace)
    sounds = [base64.b64decode(player["src"].split(",")[1]) for player in page.all("audio")]
    folder = workspace / "reports/samples"
    assert sounds == [(folder / f"000-{kind}.wav").read_bytes() for kind in ("real", "generated")]
    pictures = [base64.b64decode(picture["src"].split(",")[1]) for picture in page.all("img")]
    assert all(picture.startswith(b"\x89PNG") or b"<svg" in picture[:600] for picture in pictures)


def test_the_page_says_everything_that_was_measured(workspace):
    """In one reading: the verdict with its criteria, the measures, training, codec, catalogue, rejected files."""
    text = _page(workspace).text
    for said in (
        "Recipe nano , bundle d884c9bdd453 , measured on 34 videos",
        "✓ Passed its gate",
        "audio.silent_share ✓ passed 0 ≤ 0.1 0, at most 0.1 is asked",
        "planted.mode.p_value – passed over – ≤ 0.01 not measurable on this catalogue",
        "It does in timbre, level; not shown for tempo.",
        "timbre 50% 0.0004 0.60 0.20 1.00 34",
        "level 91% 0.0001 0.91 -0.03 1.00 34",
        "margin 0.28",
        "a slow bell timbre bell",
        "1,522,048 parameters",
        "SI-SDR 8.3 dB",
        "59% of held-out music",
        "clipped 0.5%",
        "6 to train on, 2 held out",
        "data/raw/notes.txt not a video",
    ):
        assert said in text, said


def test_a_failed_gate_is_said_to_have_failed(workspace):
    failed = _criterion("loss.semantic.margin", -0.1, False, "-0.1, at least 0 is asked", at_least=0.0)
    _change(workspace / "reports/verdict.json", passed=False, criteria=[failed])
    text = _page(workspace).text
    assert "✗ Failed its gate 0 of 1 criteria" in text and "Passed its gate" not in text
    assert "loss.semantic.margin ✗ failed -0.1 ≥ 0" in text


def test_the_verdict_on_another_bundle_is_not_shown(workspace):
    """After retraining, yesterday's green verdict above today's numbers would be a lie."""
    _change(workspace / "reports/verdict.json", bundle="f" * 64)
    text = _page(workspace).text
    assert "has not judged this bundle yet" in text and "Passed its gate" not in text


def test_hostile_captions_and_file_names_stay_text(workspace):
    """Catalogues come from anyone; the report is opened by people with access."""
    before = [tag for tag, _ in _page(workspace).elements]
    _write_samples(workspace, [HOSTILE], attributes={HOSTILE: HOSTILE})
    write_rejected(workspace / REJECTED, [RejectedFile(HOSTILE, HOSTILE)])
    checks = [_check(HOSTILE), _check(HOSTILE, False, "warning", [HOSTILE])]
    _change(workspace / "reports/validate.json", checks=checks)
    page = _page(workspace)
    assert [tag for tag, _ in page.elements] == before
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) == 8


def test_a_catalogue_without_planted_truth_says_so(workspace):
    """Real catalogues plant nothing; the level of the real soundtrack still tells something."""
    _change(workspace / "reports/metrics.json", planted=None)
    text = _page(workspace).text
    assert "This catalogue plants no known truth" in text and "It does in level." in text


def test_missing_parts_are_said_in_a_line_each(measured):
    """A report that fails on the first missing part shows none of the others."""
    _change(measured / "reports/metrics.json", planted=None, level=None)
    text = _page(measured).text
    for said in (
        "has not judged this bundle yet",
        "This catalogue plants no known truth",
        "Too few held-out videos to compare levels",
        "No samples were kept",
        "No loss curves",
        "No figures of the codec",
        "No captions to learn from",
        "Not checked yet: v2meow validate",
        "Not checked yet: v2meow check-features",
        "Rejected files None.",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"pairs": 0, "follows_text": False}, "No captions to learn from"),
        ({"pairs": 0, "follows_text": True}, "nothing was learnt here"),
        ({"pairs": 9, "curve": []}, "No held-out captions"),
    ],
)
def test_a_catalogue_with_few_captions_has_a_report(workspace, figures, said):
    write_json(workspace / "models/encoders/joint/metrics.json", figures)
    assert said in _page(workspace).text


def test_a_workspace_without_evaluation_says_what_to_run(tmp_path):
    with pytest.raises(report.ReportError, match=r"no evaluation in .*: run `v2meow run` first"):
        report.write(tmp_path)


def test_a_damaged_report_is_named(workspace):
    (workspace / "reports/verdict.json").write_text('{"passed": tr')
    with pytest.raises(report.ReportError, match=r"verdict\.json is not valid JSON"):
        report.write(workspace)
    assert not (workspace / "reports/report.html").exists()


def test_failed_checks_come_first_and_of_them_the_critical_ones(workspace):
    """Among forty lines that hold, the one that does not is what people look for."""
    checks = [
        _check("holds"),
        _check("only warns", False, "warning", ["clip-7"]),
        _check("breaks", False, unexpected=None, observed=4),
    ]
    _change(workspace / "reports/validate.json", passed=False, checks=checks)
    text = _page(workspace).text
    assert "✗ failed : 1 of 3 checks hold; these do not:" in text
    assert re.search(r"breaks ✗ failed 4 only warns ! warning 1 against it, such as clip-7 .*holds ✓ passed", text)


def test_many_long_samples_do_not_make_a_page_that_cannot_be_mailed(workspace):
    """Pairs are left out whole, and said to be."""
    _write_samples(workspace, ["one", "two", "three", "four"], seconds=50)
    path = report.write(workspace)
    page = Page(path.read_text())
    assert path.stat().st_size < 8_000_000
    assert len(page.all("audio")) == 2 and "3 more lie in reports/samples" in page.text


def test_a_long_list_of_rejected_files_is_cut(workspace):
    write_rejected(workspace / REJECTED, [RejectedFile(f"{i:04d}.mp4", "no sound") for i in range(250)])
    text = _page(workspace).text
    assert "0199.mp4" in text and "0200.mp4" not in text and "50 more in data/rejected.csv" in text


def test_the_same_workspace_gives_the_same_bytes(workspace):
    """Otherwise every report is a change to whoever versions it."""
    first = report.write(workspace).read_bytes()
    assert report.write(workspace).read_bytes() == first


def test_pictures_and_players_have_a_text_and_tables_have_headers(workspace):
    """For people who listen to the page, or see it without its pictures."""
    page = _page(workspace)
    assert all(len(picture["alt"]) > 10 for picture in page.all("img"))
    assert all(len(player["aria-label"]) > 10 for player in page.all("audio"))
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))


@pytest.mark.parametrize(
    ("right", "wrong", "ceiling", "way"),
    [(0.6, 0.2, 1.0, 0.5), (0.1, 0.2, 1.0, 0.0), (1.0, 0.2, 0.9, 1.0), (0.5, 0.5, 0.5, 0.0)],
)
def test_the_way_from_chance_to_real_music_stays_within_its_bar(right, wrong, ceiling, way):
    row = {"right": right, "wrong": wrong, "ceiling": ceiling, "p_value": 0.5, "count": 9}
    (found,) = report.correspondence({"planted": {"timbre": row}, "level": None})
    assert found["way"] == pytest.approx(way)


def test_smoothing_does_not_bend_the_ends_of_a_curve():
    """Padding with zeros would make every curve start and end in a fall."""
    assert plots.smooth(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
    assert plots.smooth(np.array([2.0])).tolist() == [2.0]


def test_spectrograms_of_a_pair_share_one_colour_scale():
    """Else silence would look as loud as the music beside it."""
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    alone, beside_silence = plots.spectrograms([tone, tone], RATE)[0], plots.spectrograms([tone, 0 * tone], RATE)
    assert beside_silence[0] == alone and beside_silence[1] != alone
    assert plots.spectrograms([0.01 * tone, tone], RATE)[0] != plots.spectrograms([0.01 * tone] * 2, RATE)[0]
