"""A recipe is read strictly: what is wrong with it is said at once, by the full key, before anything runs."""

import pytest
import tiny
import yaml

from v2meow.config import RecipeError, builtin_recipes, load_recipe, parse_recipe, recipe_path


def _problems(values) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values)
    head, *problems = str(caught.value).splitlines()
    assert head == "recipe cannot be used:"
    return [problem.strip() for problem in problems]


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_recipe_that_ships_can_be_used(name):
    assert load_recipe(recipe_path(name)).name == name


def test_all_problems_are_told_at_once_by_their_full_keys():
    """One problem a run would cost as many runs as there are typing errors."""
    values = tiny.values()
    values["stages"]["fine"]["widht"] = values["stages"]["fine"].pop("width")
    values["data"]["clip_seconds"] = "4 s"
    values["visual"][0]["kind"] = "optical"
    values["gate"] = [{"metric": 3, "at_last": 1.0}]
    values["media"] = 7
    assert sorted(_problems(values)) == [
        "data.clip_seconds: expected float, got '4 s'",
        "gate[0].at_last: unknown key, did you mean at_least?",
        "gate[0].metric: expected str, got 3",
        "media: expected a mapping, got 7",
        "stages.fine.widht: unknown key, did you mean width?",
        "stages.fine.width: missing",
        "visual[0].kind: 'optical' is not one of motion, clip, i3d-flow, vq-tokens",
    ]


def test_values_that_cannot_work_together_are_told_at_once():
    """They would otherwise end training hours later, or never, with wrong shapes."""
    changes = {
        "data.holdout": 1.0,
        "codec.hop": 300,
        "semantic_ids.rate": 30,
        "stages.coarse_levels": 4,
        "stages.semantic.heads": 3,
        "stages.fine.window_seconds": 2.5,
        "generate.context_seconds": 2.0,
        "visual": [],
        "gate": [{"metric": "a"}, {"metric": "b", "at_least": 0, "at_most": 1}],
    }
    keys = {problem.split(": ")[0] for problem in _problems(tiny.values(changes))}
    assert keys >= {*changes} - {"gate", "stages.semantic.heads"} | {"gate[0]", "gate[1]", "stages.semantic.width"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codec.hop", 0),
        ("semantic_ids.rate", 0),
        ("stages.coarse.heads", 0),
        ("stages.coarse.accumulate", 0),
        ("stages.coarse.checkpoint_steps", 0),
        ("generate.fine.temperature", 0.0),
        ("generate.coarse.top_p", 0.0),
    ],
)
def test_a_nought_where_it_makes_no_sense_is_named(key, value):
    """Not a division by zero from the middle of the reader, nor codes drawn from NaN."""
    assert [problem.split(": ")[0] for problem in _problems(tiny.values({key: value}))] == [key]


@pytest.mark.parametrize(("key", "value"), [("stages.fine.accumulate", 3), ("stages.fine.ema", 1.0)])
def test_a_way_of_training_that_cannot_work_is_named(key, value):
    """A batch of 4 has no thirds, and an average that never moves is the random start."""
    assert [problem.split(": ")[0] for problem in _problems(tiny.values({key: value}))] == [key]


def test_semantic_ids_are_decoded_step_by_step():
    """Nothing below them says how the music goes on, so passes over all at once would have nothing to start from."""
    values = tiny.values({"stages.semantic.layout": "parallel", "generate.semantic.passes": 4})
    assert _problems(values) == ["stages.semantic.layout: semantic ids are decoded step by step"]


@pytest.mark.parametrize(
    ("layout", "passes", "problem"),
    [
        ("parallel", 1, "generate.fine.passes: must be at least 2, one a level"),
        ("parallel", 0, "generate.fine.passes: must be at least 2, one a level"),
        ("delay", 6, "generate.fine.passes: is for stages of layout parallel only"),
        ("parallel", 2, None),
        ("delay", 0, None),
    ],
)
def test_passes_are_counted_against_the_levels_of_a_parallel_stage(layout, passes, problem):
    """A level without a pass would stay empty; passes of a stage that has none are a layout misunderstood."""
    values = tiny.values({"stages.fine.layout": layout, "generate.fine.passes": passes})
    assert problem is None or _problems(values) == [problem]
    assert problem is not None or parse_recipe(values).sampling("fine").passes == passes


def test_a_clip_must_be_a_whole_number_of_frames():
    """Otherwise ids, codes and waveform of a clip have different lengths, and the codec stops in mid-run."""
    assert any(
        problem.startswith("data.clip_seconds") for problem in _problems(tiny.values({"data.clip_seconds": 2.01}))
    )


def test_whole_numbers_are_taken_for_fractions_but_not_for_yes_or_no():
    """YAML's `4` means 4.0 where seconds are asked for; its `yes` means no number at all."""
    seconds = tiny.recipe({"media.timeout_s": 60}).media.timeout_s
    assert (seconds, type(seconds)) == (60.0, float)
    assert _problems(tiny.values({"media.timeout_s": True})) == ["media.timeout_s: expected float, got True"]
    assert _problems(tiny.values({"seed": True})) == ["seed: expected int, got True"]
    assert _problems(tiny.values({"stages.fine.bfloat16": 1})) == ["stages.fine.bfloat16: expected bool, got 1"]
    assert _problems(tiny.values({"seed": 1.0})) == ["seed: expected int, got 1.0"]


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "name\n"])
def test_a_file_that_holds_something_else_is_no_recipe(content):
    assert _problems(yaml.safe_load(content))[0].startswith("recipe: expected a mapping")


@pytest.mark.parametrize("content", [b"a: [1\n", b"\xff\xfe\x00a"])
def test_a_file_that_is_not_yaml_is_named(content, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not valid YAML"):
        load_recipe(tmp_path / "recipe.yaml")


def test_an_unknown_name_lists_the_recipes_that_there_are():
    with pytest.raises(RecipeError, match=r"no recipe 'nanno': give one of .*nano"):
        recipe_path("nanno")


def test_a_recipe_of_ones_own_is_found_by_its_path(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny.values({"name": "mine"})))
    assert load_recipe(recipe_path(str(tmp_path / "mine.yaml"))).name == "mine"


def test_lengths_follow_from_rates():
    """Every step computes its shapes from these two."""
    recipe = tiny.recipe({"data.clip_seconds": 4.0})
    assert (recipe.codec.rate, recipe.codec_frames, recipe.semantic_frames) == (50, 200, 100)
