"""The report is one file that opens offline, says what was measured, and nothing that was not."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from v2meow.config import recipe_path
from v2meow.data.manifest import REJECTED, RejectedFile, write_rejected
from v2meow.evaluate import plots, report
from v2meow.files import write_json
from v2meow.media import write_video, write_wav

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
AGREES = {"low": 0.31, "high": 0.58, "wrong": 0.02, "shifted": 0.21, "p_value": 0.0003, "ceiling": 0.8, "count": 34}
RECALL = {
    **{f"at_{first}": {**AGREES, "right": 0.25, "chance": 0.03 * first, "trustworthy": True} for first in (1, 5, 10)},
    "median_rank": {"right": 4.0, "shifted": 6.5, "ceiling": 1.0, "chance": 17.5},
}
SLICE = {"mean": 0.21, "low": 0.1, "high": 0.33, "count": 9, "difference": -0.2, "p_value": 0.004}
SHARES = {f"{kind}_share": {"value": 0.03, "low": 0.0, "high": 0.15, "count": 34} for kind in ("exact", "approximate")}
SHARES["longest"] = {kind: {"median_s": 0.48, "most_s": 2.6} for kind in ("exact", "approximate")}
COMPLETED = {"exact": 0.5, "approximate": 0.75, "equal": 0.8, "count": 48}
MORE = {  # what an evaluation measures besides
    "correspondence": {
        "retrieval": {**AGREES, "right": 0.44, "trustworthy": True, "recall": {"music": RECALL, "picture": RECALL}},
        "beats": {**AGREES, "right": 0.45, "trustworthy": False},
        "prompted": {**AGREES, "right": 0.46, "shifted": None, "trustworthy": True},
        "level": None,
        "skipped": {"level": "2 videos in which anything moves"},
    },
    "slices": {
        "by": {"genre": {"polka": {"count": 9, "measures": {"beats": SLICE}}, "ska": {"count": 8, "measures": {}}}},
        "worst": {"beats": {"by": "genre", "value": "polka"} | SLICE},
        "largest_gap": {"beats": {"by": "genre", "best": "ska", "worst": "polka", "gap": 0.35}},
        "too_few": [{"by": "fps", "value": "60", "count": 2}],
    },
    "fairness": {
        "factors": {
            "mirror": {
                "count": 8,
                "distance": {
                    "level_db": {
                        "changed": 1.5,
                        "reseeded": 1.2,
                        "difference": 0.3,
                        "low": -0.1,
                        "high": 0.7,
                        "p_value": 0.2,
                    }
                },
                "shift": {"tempo_octaves": {"mean": 0.12, "low": 0.05, "high": 0.2, "p_value": 0.0004}},
            }
        },
        "findings": [{"factor": "mirror", "of": "shift", "measure": "tempo_octaves", "p_value": 0.0004}],
        "skipped": None,
    },
    "memorisation": {
        "train_clips": 1234,
        "seconds": 2.0,
        **SHARES,
        "held_out": {**SHARES, "exact_share": {"value": 0.01, "low": 0.0, "high": 0.2, "count": 34}},
        "nearest": [
            {
                "row": 3,
                "clip_id": "made-for-3",
                "exact_s": 2.6,
                "clips": [{"clip_id": "learnt-from-7", "seconds": 3.1, "at_s": 0.2, "clip_at_s": 0.4}],
            }
        ],
        "continuation": {
            "prompts": [
                {
                    "prompt_s": seconds,
                    "threshold": 2.0,
                    "train": COMPLETED,
                    "held_out": {**COMPLETED, "approximate": 0.0},
                }
                for seconds in (0.0, 2.0)
            ]
        },
    },
    "quality": {"mel": {"frechet": {"value": 1.75, "low": 1.5, "high": 2.25, "count": 34, "real": 1.25}}},
    "surprise": {"semantic": {"mean": 0.05, "low": 0.01, "high": 0.09, "count": 34}},
    "baselines": {
        "random_track": {"mel": {"frechet": {"value": 0.125, "low": 0.1, "high": 0.2, "count": 34}}},
        "skipped": {"text_only": "no captions"},
    },
    "production": {
        "model": "v2meow",
        "quality": {
            "mel": {
                "difference": -0.55,
                "low": -0.75,
                "high": -0.25,
                "count": 34,
                "candidate": 1.25,
                "production": 1.8,
                "better": "lower",
            }
        },
    },
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


def _measured(place: Path) -> Path:
    shutil.copy(recipe_path("nano"), place / "recipe.yaml")
    write_json(place / "reports/metrics.json", METRICS)
    return place


@pytest.fixture
def measured(tmp_path):
    """A workspace with metrics and a recipe, and nothing else."""
    return _measured(tmp_path)


@pytest.fixture
def workspace(measured):
    """A workspace with every part of a report, each as small as it can be."""
    return _with_parts(measured)


def _with_parts(measured: Path) -> Path:
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


@pytest.fixture
def everything(workspace):
    """The same after an evaluation that could measure all there is."""
    return _with_all(workspace)


def _with_all(workspace: Path) -> Path:
    _change(workspace / "reports/metrics.json", **MORE)
    (workspace / "models/bundle").mkdir()
    (workspace / "models/bundle/MODEL_CARD.md").write_text("# V2Meow model\n\nLearnt from 6 videos.\n")
    return workspace


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple["Page", str]:
    """The page and the card of such an evaluation, for tests that only read them: its pictures take a while."""
    place = _with_all(_with_parts(_measured(tmp_path_factory.mktemp("told"))))
    return _page(place), (place / "reports/MODEL_CARD.md").read_text()


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


def test_music_is_played_under_its_picture_where_there_is_one(workspace):
    """Whether music fits a picture cannot be heard without it."""
    folder = workspace / "reports/samples"
    sound = np.zeros(RATE // 2, np.float32)
    for kind in ("real", "generated", "control"):
        write_wav(folder / f"000-{kind}.wav", sound, RATE)
        write_video(folder / f"000-{kind}.mp4", np.zeros((5, 32, 48, 3), np.uint8), 10, sound, RATE)
    page = _page(workspace)
    videos = [base64.b64decode(player["src"].removeprefix("data:video/mp4;base64,")) for player in page.all("video")]
    assert videos == [(folder / f"000-{kind}.mp4").read_bytes() for kind in ("real", "generated", "control")]
    assert not page.all("audio") and "control : made for another video" in page.text


def test_the_page_says_everything_that_was_measured(workspace):
    """In one reading: the verdict with its criteria, the measures, training, codec, catalogue, rejected files."""
    text = _page(workspace).text
    for said in (
        "Recipe nano , bundle d884c9bdd453 , measured on 34 videos",
        "✓ Passed its gate",
        "1 of 1 criteria of the recipe are met, 1 passed over",
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


def test_the_page_says_all_that_an_evaluation_can_measure(told):
    """Controls, intervals, slices, copies, baselines: a figure that is measured and not told might as well not be."""
    text = told[0].text
    for said in (
        "It does in timbre, level, retrieval, beats; not shown for tempo.",
        "retrieval 54% 0.0003 0.44 0.31 … 0.58 0.02 0.21 0.80 34",
        "Not to be trusted here, as the real music does no better than chance: beats.",
        "prompted 56% 0.0003 0.46 0.31 … 0.58 0.02 0.80 34",
        "Not measured: level (2 videos in which anything moves).",
        "picture the first 10 25% 31% … 58% 21% 80% 30%",
        "picture median place 4 6.5 1 17.5",
        "beats genre polka 0.21 0.1 … 0.33 9 -0.2 0.004 0.35 by genre: ska over polka",
        "Too few clips to say anything: fps 60 (2).",
        "What chance does not explain: mirror (a shift in tempo, octaves).",
        "mirror level, dB 1.5 1.2 0.3 -0.1 … 0.7 0.2",
        "Those of 34 generated pieces were held against all 1,234 training clips",
        "exact 3% 0% … 15% 1% 0.48 s (0.48 s) 2.6 s (2.6 s)",
        "made-for-3 2.6 s learnt-from-7 3.1 s",
        "mel.frechet 1.75 1.5 … 2.25 1.25 34 Fréchet distance",
        "surprise.semantic 0.05 0.01 … 0.09 – 34 nats a code",
        "mel.frechet 1.75 0.125",
        "quality.mel better 1.25 1.8 -0.55 -0.75 … -0.25 34",
    ):
        assert said in text, said


def test_the_worst_slice_is_marked_in_the_table_of_its_kind(told):
    marked = [cell for cell in told[0].all("td") if "worst" in cell.get("class", "")]
    assert [cell["title"] for cell in marked] == ["0.1 … 0.33, n = 9"]


def test_the_card_tells_what_the_page_tells(told):
    """The card is what travels with a model: it must not be greener than the report."""
    card = told[1]
    assert card.startswith("# V2Meow model\n\nLearnt from 6 videos.\n\n## Evaluation")
    for said in (
        BUNDLE,
        "**It has passed its gate** (1 of 1 criteria that could be judged).",
        "| `planted.mode.p_value` | passed over | – |  | – | ≤ 0.01 |",
        "| beats (not to be trusted) | 0.45 | 0.31 … 0.58 | 0.02 | 0.21 | 0.80 | 0.0003 | 34 |",
        "| `mel.frechet` | 1.75 | 1.5 … 2.25 | 1.25 | 34 |",
        "| `quality.mel` | better | 1.25 | 1.8 | -0.55 | -0.75 … -0.25 | 34 |",
        "| beats | genre polka | 0.21 | 0.1 … 0.33 | 9 | 0.004 |",
        "- mirror: shift in tempo_octaves (p 0.0004)",
        "Of 34 pieces, 3% have 2 s or more exactly in common",
    ):
        assert said in card, said
    assert "\n|\n" not in card and not re.search(r"^\|.*\|$\n\n\|", card, re.MULTILINE)  # no table is torn


def test_a_card_without_a_verdict_does_not_claim_one(measured):
    report.write(measured)
    card = (measured / "reports/MODEL_CARD.md").read_text()
    assert "The gate has not judged it" in card and card.startswith("# V2Meow model, recipe `nano`")


def test_a_model_that_was_compared_with_nothing_says_why(everything):
    _change(everything / "reports/metrics.json", production={"model": None, "reason": "no model is in production yet"})
    assert "Not compared: no model is in production yet." in _page(everything).text


def test_names_of_slices_are_no_markup_in_the_card(everything):
    """They come from sidecars of anyone."""
    hostile = "a|b\n# c <img src=x> [d](http://evil.example) `e`"
    slices = {**MORE["slices"], "worst": {"beats": {"by": "genre", "value": hostile} | SLICE}}
    _change(everything / "reports/metrics.json", slices=slices)
    report.write(everything)
    card = (everything / "reports/MODEL_CARD.md").read_text()
    line = next(line for line in card.splitlines() if "genre" in line)
    assert line.startswith(r"| beats | genre a\|b \# c \<img src=x\> \[d\](http://evil.example) \`e\` | 0.21 |")


def test_a_failed_gate_is_said_to_have_failed(workspace):
    failed = _criterion("loss.semantic.margin", -0.1, False, "-0.1, at least 0 is asked", at_least=0.0)
    _change(workspace / "reports/verdict.json", passed=False, criteria=[failed])
    text = _page(workspace).text
    assert "✗ Failed its gate 0 of 1 criteria" in text and "Passed its gate" not in text
    assert "loss.semantic.margin ✗ failed -0.1 ≥ 0" in text


def test_a_criterion_tells_its_interval_its_clips_and_what_it_is_held_against(workspace):
    """Too few clips to judge is another thing than a bad model."""
    figures = {"outcome": "insufficient", "low": -0.5, "high": 0.25, "count": 9, "not_worse_than_production": True}
    row = _criterion("surprise.fine", -0.125, False, "9 clips, at least 24 are needed") | figures
    _change(workspace / "reports/verdict.json", passed=False, criteria=[row])
    said = "surprise.fine ! too few clips -0.125 -0.5 … 0.25 9 no worse than production 9 clips, at least 24 are needed"
    assert said in _page(workspace).text
    card = (workspace / "reports/MODEL_CARD.md").read_text()
    assert "| `surprise.fine` | **too few** | -0.125 | -0.5 … 0.25 | 9 | no worse than production |" in card


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
    """Pieces are left out whole, and said to be."""
    _write_samples(workspace, ["one", "two", "three", "four"], seconds=80)
    path = report.write(workspace)
    page = Page(path.read_text())
    assert path.stat().st_size < 12_000_000
    assert len(page.all("audio")) == 2 and "3 more lie in reports/samples" in page.text


def test_a_long_list_of_rejected_files_is_cut(workspace):
    write_rejected(workspace / REJECTED, [RejectedFile(f"{i:04d}.mp4", "no sound") for i in range(250)])
    text = _page(workspace).text
    assert "0199.mp4" in text and "0200.mp4" not in text and "50 more in data/rejected.csv" in text


def test_the_same_workspace_gives_the_same_bytes(workspace):
    """Otherwise every report is a change to whoever versions it."""
    first = report.write(workspace).read_bytes()
    assert report.write(workspace).read_bytes() == first


def test_pictures_and_players_have_a_text_and_tables_have_headers(told):
    """For people who listen to the page, or see it without its pictures."""
    page = told[0]
    assert all(len(picture["alt"]) > 10 for picture in page.all("img"))
    assert all(len(player["aria-label"]) > 10 for player in page.all("audio"))
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))


@pytest.mark.parametrize(
    ("right", "wrong", "ceiling", "way"),
    [(0.6, 0.2, 1.0, 0.5), (0.1, 0.2, 1.0, 0.0), (1.0, 0.2, 0.9, 1.0), (0.5, 0.5, 0.5, 0.0)],
)
def test_the_way_from_chance_to_real_music_stays_within_its_bar(right, wrong, ceiling, way):
    row = {"right": right, "wrong": wrong, "ceiling": ceiling, "p_value": 0.5, "count": 9}
    (found,) = report.correspondence({"planted": {"timbre": row}, "level": None})["picture"]
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
