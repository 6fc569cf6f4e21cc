"""Reading a recipe strictly: unknown, missing and ill-typed keys are all told at once, by their full path."""

import dataclasses
import difflib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from v2meow.config.recipe import Recipe
from v2meow.config.rules import inconsistencies

_RECIPES = Path(__file__).parents[1] / "recipes"


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem by its full key."""


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a built-in recipe by name, or of a YAML file; RecipeError when there is neither."""
    for path in (_RECIPES / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise RecipeError(f"no recipe {name!r}: give one of {', '.join(builtin_recipes())}, or the path of a YAML file")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe strictly. RecipeError lists every problem with its full key."""
    import yaml  # here, so that the core imports without it

    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    return parse_recipe(raw, source=str(path))


def parse_recipe(raw: Any, source: str = "recipe") -> Recipe:
    """Build a Recipe from plain values. RecipeError lists every problem with its full key."""
    problems: list[str] = []
    recipe = _build(Recipe, raw, "", problems)
    if not problems:
        problems = [f"{key}: {message}" for key, message in inconsistencies(recipe)]
    if problems:
        raise RecipeError(f"{source} cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return recipe


def _build(kind: Any, value: Any, key: str, problems: list[str]) -> Any:
    """`value` as `kind`; problems are collected, and the result is meaningless when there are any."""
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, key, problems)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{key}: expected a list, got {value!r}")
            return ()
        return tuple(_build(get_args(kind)[0], item, f"{key}[{i}]", problems) for i, item in enumerate(value))
    if origin is Literal:
        if value not in get_args(kind):
            problems.append(f"{key}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin in (Union, types.UnionType):
        return _build_union(get_args(kind), value, key, problems)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        problems.append(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def _build_union(kinds: tuple[Any, ...], value: Any, key: str, problems: list[str]) -> Any:
    """A value that may be absent, or one of several dataclasses, which `kind` tells apart."""
    if type(None) in kinds:
        (kind,) = (kind for kind in kinds if kind is not type(None))
        return None if value is None else _build(kind, value, key, problems)
    named = {name: kind for kind in kinds for name in get_args(get_type_hints(kind)["kind"])}
    if not isinstance(value, dict):
        problems.append(f"{key}: expected a mapping, got {value!r}")
    elif "kind" not in value:
        problems.append(f"{key}.kind: missing, give one of {', '.join(named)}")
    elif value["kind"] not in named:
        problems.append(f"{key}.kind: {value['kind']!r} is not one of {', '.join(named)}")
    else:
        return _build_dataclass(named[value["kind"]], value, key, problems)
    return None


def _build_dataclass(kind: Any, value: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{key or 'recipe'}: expected a mapping, got {value!r}")
        return None
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            problems.append(f"{prefix}{name}: unknown key" + (f", did you mean {near[0]}?" if near else ""))
    hints, built = get_type_hints(kind), {}
    for name, field in fields.items():
        if name in value:
            built[name] = _build(hints[name], value[name], prefix + name, problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{prefix}{name}: missing")
    return kind(**built) if not problems else None
