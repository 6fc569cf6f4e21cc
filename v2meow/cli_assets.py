"""`v2meow assets …`: the pretrained weights that recipes name, fetched, listed and verified.

The rules are those of `v2meow.assets`. Nothing heavy is imported before a command runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from v2meow import assets
from v2meow.cli_models import WorkspaceOption, chosen_workspace
from v2meow.config import Recipe, load_recipe, recipe_path

app = typer.Typer(no_args_is_help=True, help="Fetch, list and verify pretrained weights.")

NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Assets, by name.")]
RecipeOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="What this recipe needs; assets.yaml beside the file counts, too."),
]


@app.command()
def pull(
    names: NamesArgument = None,
    recipe: RecipeOption = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            envvar=assets.MIRROR_VARIABLE,
            help="A folder, http(s)://… or s3://BUCKET/PREFIX that holds NAME/FILE.",
        ),
    ] = None,
    folder: WorkspaceOption = None,
) -> None:
    """Fetch assets into the store; without names, those of the recipe. Only what is missing or damaged is fetched."""
    chosen, declared = _recipe(recipe, folder)
    if not names and chosen is None:
        raise assets.AssetError("say what to pull: names, --recipe, or run it in a workspace")
    wanted = [assets.find(name, declared) for name in names or assets.needed(_given(chosen))]
    if chosen is not None and chosen.commercial_only:
        assets.check_commercial(wanted)
    if not wanted:
        print(f"the recipe {_given(chosen).name} needs no assets")
    try:
        for done in assets.pull(wanted, mirror):
            print(f"{assets.root() / done.name}: {done.fetched} files fetched, {done.present} were there")
    except assets.UnreachableError as error:  # a list, that one line would hide
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command("list")
def list_assets(recipe: RecipeOption = None, folder: WorkspaceOption = None) -> None:
    """What there is, under what licence, and what of it is in the store; with --recipe, only what that needs."""
    from rich.console import Console
    from rich.table import Table

    chosen, declared = _recipe(recipe, folder)
    named = assets.needed(_given(chosen)) if recipe else [*assets.catalogue(declared), *assets.stored()]
    table = Table("name", "what for", "MB", "licence", "commercial", "here")
    for asset in (assets.find(name, declared) for name in dict.fromkeys(named)):
        states = assets.conditions(asset)
        commercial = "yes" if asset.commercial else "no"
        table.add_row(asset.name, asset.about, _megabytes(states), asset.licence, commercial, _state(states))
    if table.row_count:
        Console().print(table)
    else:
        print("this recipe needs no assets")


@app.command()
def verify(names: NamesArgument = None, recipe: RecipeOption = None, folder: WorkspaceOption = None) -> None:
    """Hash assets again, whole; without names, all that the store has. Exit status 1 names every bad file."""
    chosen, declared = _recipe(recipe, folder)
    named = names or (assets.needed(_given(chosen)) if recipe else assets.stored())
    bad = 0
    for asset in [assets.find(name, declared) for name in named]:
        states = assets.conditions(asset, rehash=True)
        wrong = [state for state in states if state.problem]
        for state in wrong:
            print(f"{state.path} {state.problem}")
        bad += len(wrong)
        if not wrong:
            print(f"{asset.name}: {len(states)} files are as they should be")
    if bad:
        raise assets.AssetError(f"files that are missing or damaged: {bad}, `v2meow assets pull` mends them")


def _recipe(name: str | None, folder: Path | None) -> tuple[Recipe | None, Path | None]:
    """The recipe that was named, else the workspace's, where there is one; and where its own assets are declared."""
    from v2meow import workspace

    if name is not None:
        path = recipe_path(name)
    elif folder is not None:
        path = chosen_workspace(folder) / "recipe.yaml"
    else:
        try:
            path = workspace.find(Path.cwd()) / "recipe.yaml"
        except workspace.WorkspaceError:
            return None, None
    return load_recipe(path), path.parent / assets.DECLARATIONS


def _given(recipe: Recipe | None) -> Recipe:
    if recipe is None:
        raise assets.AssetError("there is no recipe")
    return recipe


def _megabytes(states: list[assets.Condition]) -> str:
    sizes = [state.file.size or (state.found.size if state.found else None) for state in states]
    known = sum(size for size in sizes if size)
    shown = f"{known / 1e6:,.0f}" if known else ""
    return shown if all(sizes) else f"{shown} + ?".strip(" +")


def _state(states: list[assets.Condition]) -> str:
    if any(state.problem for state in states if state.found):
        return "damaged"
    absent = sum(state.found is None for state in states)
    return "present" if not absent else "missing" if absent == len(states) else f"{absent} files missing"
