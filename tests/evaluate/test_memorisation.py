"""Copies of training clips are found wherever they stand, to the id, and chance is told from copying."""

from dataclasses import replace
from itertools import permutations

import catalogues
import numpy as np
import pytest
import tiny
import tiny_bundle
import torch

from v2meow import bundle
from v2meow.config import Recipe
from v2meow.data.dataset import Examples, read_examples
from v2meow.evaluate import continuation, memorisation
from v2meow.evaluate.gate import BUNDLE
from v2meow.evaluate.material import Material, Music
from v2meow.evaluate.stretches import SEED, Search, longest_missed
from v2meow.generate.pipeline import Cascade
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM
from v2meow.train.batches import make_batch
from v2meow.train.loop import loss_of

TRAIN, HELD_OUT = 7, 4


def _ids(rows: int, length: int, bins: int, seed: int) -> np.ndarray:
    """Ids [rows, length] that stay for a while, as those of music do."""
    random = np.random.default_rng(seed)
    held = random.integers(0, bins, (rows, length)), random.random((rows, length)) < 0.4
    ids = held[0].copy()
    for place in range(1, length):
        ids[:, place] = np.where(held[1][:, place], ids[:, place - 1], ids[:, place])
    return ids


def _longest(query: np.ndarray, clip: np.ndarray, mismatches: int) -> int:
    """The longest stretch with a run of SEED equal ids, not all the same id, in it: by trying every one."""
    best = 0
    for shift in range(-len(clip) + 1, len(query)):
        i, j = max(shift, 0), max(-shift, 0)
        overlap = min(len(query) - i, len(clip) - j)
        equal, ids = query[i : i + overlap] == clip[j : j + overlap], query[i : i + overlap]
        seeds = [
            place
            for place in range(overlap - SEED + 1)
            if equal[place : place + SEED].all() and len(set(ids[place : place + SEED].tolist())) > 1
        ]
        if not seeds:
            continue
        wrong = np.concatenate(([0], np.cumsum(~equal)))
        for start in range(overlap):
            for end in range(start + max(best, SEED - 1) + 1, overlap + 1):
                if wrong[end] - wrong[start] > mismatches:
                    break
                if any(start <= place and place + SEED <= end for place in seeds):
                    best = end - start
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_what_trying_every_stretch_finds(seed):
    """A search that skips what it should look at gives a memorising model a clean record."""
    queries, clips = _ids(6, 24, 3, seed), _ids(9, 30, 3, seed + 10)
    queries[0, 3:20] = clips[4, 5:22]
    queries[0, 9] += 1  # a copy with one id changed
    queries[1] = 1  # a drone, which the clips have, too
    clips[2, 4:20] = 1
    search = Search(queries, (0, 2), kept=len(clips), threads=2)
    search.add(clips[:5])
    search.add(clips[5:])
    for found, mismatches in zip(search.found(), (0, 2), strict=True):
        expected = np.array([[_longest(query, clip, mismatches) for clip in clips] for query in queries])
        made = np.zeros_like(expected)
        for row, place in np.argwhere(found.clip >= 0):
            made[row, found.clip[row, place]] = found.length[row, place]
        assert made.tolist() == expected.tolist()
        assert (np.diff(found.length, axis=1) <= 0).all() and not expected[1].any()


def test_a_stretch_stands_where_it_is_said_to_stand():
    queries, clips = _ids(5, 60, 4, 0), _ids(40, 60, 4, 1)
    search = Search(queries, (0, 3))
    search.add(clips)
    for found, mismatches in zip(search.found(), (0, 3), strict=True):
        for row, place in np.argwhere(found.clip >= 0):
            length, at, clip_at = (int(part[row, place]) for part in (found.length, found.at, found.clip_at))
            clip = clips[found.clip[row, place], clip_at : clip_at + length]
            assert len(clip) == length and (queries[row, at : at + length] != clip).sum() <= mismatches


def test_the_answer_does_not_depend_on_how_clips_are_cut_into_files_or_threads():
    """Otherwise the verdict on a model would depend on the machine."""
    queries, clips = _ids(8, 50, 3, 2), _ids(60, 50, 3, 3)
    whole, parts = Search(queries, (0, 5)), Search(queries, (0, 5), threads=3)
    whole.add(clips)
    for part in np.split(clips, [7, 8, 40]):
        parts.add(part)
    for one, other in zip(whole.found(), parts.found(), strict=True):
        assert one.length.tolist() == other.length.tolist() and one.clip.tolist() == other.clip.tolist()


@pytest.mark.parametrize("mismatches", [1, 5])
def test_no_stretch_beyond_the_stated_length_is_missed(mismatches):
    """The worst case: differing ids that leave runs just too short, then one id more."""
    length = longest_missed(mismatches)
    clip = np.arange(2 * length)[None]
    query = clip[:, :length].copy()
    query[0, SEED - 1 :: SEED] = 9999
    missed, found = (
        Search(query, (mismatches,)),
        Search(np.append(query, clip[:, length : length + 1], 1), (mismatches,)),
    )
    for search in (missed, found):
        search.add(clip)
    assert missed.found()[0].length[0, 0] == 0 and found.found()[0].length[0, 0] == length + 1
    assert longest_missed(5) < memorisation.SECONDS * 25  # of the recipes' ids


def test_sequences_shorter_than_a_seed_have_nothing_in_common():
    search = Search(np.zeros((2, SEED - 1), int), (0,))
    search.add(np.zeros((3, 20), int))
    assert search.found()[0].clip.tolist() == [[-1, -1, -1]] * 2


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    """A tiny workspace whose semantic stage knows its training clips by heart, and music that is such clips."""
    workspace = tmp_path_factory.mktemp("memorisation")
    recipe = tiny.recipe({"data.clip_seconds": 4.0, "evaluate.batch": 3})
    catalogues.write_examples(workspace, recipe, TRAIN, HELD_OUT)
    train, held_out = (read_examples(recipe, workspace, split) for split in ("train", "holdout"))
    parts = tiny_bundle.parts(workspace / "parts")
    save_stage(parts["semantic"], _learnt_by_heart(recipe, train), {})
    (workspace / "models").mkdir()
    bundle.assemble(parts, workspace / BUNDLE)
    return Material(
        recipe=recipe,
        workspace=workspace,
        cascade=Cascade(workspace / BUNDLE),
        examples=held_out,
        train=train,
        generated=_music(train.semantic[:4, 0]),
        real=_music(held_out.semantic[:, 0]),
    )


def _learnt_by_heart(recipe: Recipe, examples: Examples) -> TokenLM:
    model = tiny.model("semantic")
    batch = make_batch(recipe, "semantic", examples, torch.arange(len(examples)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss_of(model, batch).mean().backward()
        optimizer.step()
    return model


def _music(ids: torch.Tensor) -> Music:
    return Music(waveforms=torch.zeros(len(ids), 1), ids=ids, codes=torch.zeros(len(ids), 1, 1))


def _shares(found: dict) -> tuple[float, float]:
    return found["exact_share"]["value"], found["approximate_share"]["value"]


def test_music_that_is_a_training_clip_is_rated_a_copy(material):
    """The one thing that this measure is for; and real music that training never saw must not be accused."""
    found = memorisation.measure(material)
    assert memorisation.copies(material)["per_clip"] == {"exact_s": [4.0] * 4, "approximate_s": [4.0] * 4}
    assert found["train_clips"] == TRAIN and found["exact_share"]["count"] == 4
    assert _shares(found) == (1.0, 1.0) and _shares(found["held_out"]) == (0.0, 0.0)
    assert (found["exact_excess"], found["approximate_excess"]) == (1.0, 1.0)
    assert [piece["clips"][0]["clip_id"] for piece in found["nearest"]] == material.train.clip_id[:4]
    assert {piece["exact_s"] for piece in found["nearest"]} == {4.0}
    assert [row["prompt_s"] for row in found["continuation"]["prompts"]] == [0.0, 0.52, 1.0, 1.52]
    assert all(row["train"]["exact"] == 1.0 for row in found["continuation"]["prompts"])


def test_a_copy_with_single_ids_changed_is_an_approximate_one(material):
    """A model that plays a clip again with a wrong note now and then has learnt it by heart all the same."""
    ids = material.train.semantic[:4, 0].clone()
    ids[:, 10::20] = (ids[:, 10::20] + 1) % 16
    found = memorisation.copies(replace(material, generated=_music(ids)))
    assert _shares(found) == (0.0, 1.0)


def test_clips_that_were_learnt_by_heart_are_completed_and_others_are_not(material):
    """By a model that can do nothing else; the held-out clips show that the test itself gives nothing away."""
    found = continuation.measure(material)
    assert found["exact_excess"] == 1 and found["approximate_excess"] > 0.5 and found["equal_excess"] > 0.5
    for row in found["prompts"]:
        train, held_out = row["train"], row["held_out"]
        assert (train["exact"], train["approximate"], train["equal"], train["count"]) == (1, 1, 1, TRAIN)
        assert held_out["exact"] == 0 and held_out["equal"] < 0.5 and held_out["count"] == HELD_OUT


def test_an_end_that_is_nearly_the_clips_own_is_an_approximate_match():
    """Of unrelated ends hardly any, else every piece in the style of the catalogue would be a copy."""
    random = np.random.default_rng(0)
    true, other = random.integers(0, 64, (30, 25)), random.integers(0, 64, (30, 25))
    points = random.normal(size=(64, 4))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = true.copy()
    near[:, 7] = other[:, 7]
    by_heart = continuation.judge({"train": (true, true), "held_out": (other, true)}, distances, 0)
    assert (by_heart["train"]["exact"], by_heart["train"]["approximate"], by_heart["train"]["equal"]) == (1, 1, 1)
    assert by_heart["held_out"]["exact"] == 0 and by_heart["held_out"]["approximate"] <= 0.1
    almost = continuation.judge({"train": (near, true), "held_out": (other, true)}, distances, 0)
    assert almost["train"]["exact"] < 0.1 and almost["train"]["approximate"] == 1


def test_the_cost_of_moving_ids_is_that_of_the_cheapest_way():
    """Against trying every order, and in closed form on a line."""
    random = np.random.default_rng(0)
    points = random.normal(size=(9, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    one, other = random.integers(0, 9, 5), random.integers(0, 9, 5)
    tried = [np.mean([distances[a, b] for a, b in zip(one, order, strict=True)]) for order in permutations(other)]
    assert continuation.transport_cost(one, other, distances) == pytest.approx(min(tried))
    line = np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0)))
    assert continuation.transport_cost(one, other, line) == pytest.approx(np.abs(np.sort(one) - np.sort(other)).mean())


def test_a_prompt_is_gone_on_with_greedily_and_alike_in_any_company(material):
    """Neither who is completed beside a clip nor the seed decides how it goes on: nothing is drawn."""
    engine = continuation.greedy_engine(material)
    made, true = continuation.complete(material, engine, material.train, 10, 12)
    assert true.tolist() == material.train.semantic[:, 0, 10:22].tolist()
    alone, _ = continuation.complete(material, engine, material.train.select([2]), 10, 12)
    assert alone[0].tolist() == made[2].tolist() and ((made >= 0) & (made < 16)).all()


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (47, 47, 0.9244, 1.0)]
)
def test_no_copy_among_few_pieces_is_not_shown_to_be_none(hits, count, low, high):
    """Published values: a share of nought of ten pieces may well be a quarter."""
    assert memorisation.share_interval(hits, count) == pytest.approx((low, high), abs=5e-5)
