"""The `v2meow` command: arguments in, one call into the package, a few lines out.

A command imports the code behind it when it runs, so that `--help` is instant and a step pays
only for its own libraries. Errors that a person can mend end in one line on standard error.
"""

import os
import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from v2meow.cli_assets import app as assets_app
from v2meow.cli_data import app as data_app
from v2meow.cli_inspect import inspect
from v2meow.cli_models import WorkspaceOption, chosen_workspace
from v2meow.cli_models import app as models_app
from v2meow.cli_serve import keys_app, serve
from v2meow.cli_study import app as study_app
from v2meow.cli_up import flows_app, up
from v2meow.config import STAGES
from v2meow.demo import CATALOGUE_VIDEOS
from v2meow.preempt import CONTINUE_LATER, Interrupted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""
Music for a silent video: train on a catalogue of music videos, then score any video.

[bold]Try it[/bold] in minutes, on a CPU, with nothing to download:  v2meow demo

[bold]With your own catalogue[/bold], in a workspace (a git + DVC folder):

  v2meow init shop                  make the workspace
  cp -r MY_VIDEOS/. shop/data/raw/  add music videos
  cd shop && v2meow run             run every step that is out of date
  v2meow generate VIDEO -o OUT.mp4  score a video with the model

A NAME.json beside NAME.mp4 may say {"caption": "slow piano at dusk"}.

[bold]The steps[/bold], in their order:

  ingest → validate → fit codec|semantic|joint → extract → check-features
  → train semantic|coarse|fine → evaluate → gate

A model that passed its gate goes through staging to production: v2meow models.
""",
)
_EXTRAS = {  # of the packages that not every installation has
    "boto3": "s3",
    "cv2": "extractors",
    "fastapi": "serve",
    "httpx": "serve",
    "open_clip": "extractors",
    "prefect": "orchestrate",
    "psutil": "orchestrate",
    "psycopg": "study",
    "ray": "cluster",
    "sqlalchemy": "study",
    "torchvision": "extractors",
    "transformers": "extractors",
    "uvicorn": "study",
}
_INTERRUPTED = 130  # what Typer makes of Ctrl-C
_PROJECT, _STEPS, _MODELS = "Projects", "Steps, as `v2meow run` runs them", "Models and music"
app.add_typer(data_app, name="data", rich_help_panel=_PROJECT)
app.add_typer(flows_app, name="flows", rich_help_panel=_PROJECT)
app.add_typer(models_app, name="models", rich_help_panel=_MODELS)
app.add_typer(assets_app, name="assets", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(inspect)
app.command(rich_help_panel=_MODELS)(serve)
app.add_typer(keys_app, name="keys", rich_help_panel=_MODELS)
app.add_typer(study_app, name="study", rich_help_panel=_MODELS)


class Encoder(StrEnum):
    codec = "codec"
    semantic = "semantic"
    joint = "joint"


Stage = StrEnum("Stage", STAGES)


def main() -> None:
    """The console entry: exit status 1 for what a person can mend, 2 for usage, 75 for SIGTERM, 130 for Ctrl-C."""
    # OpenMP threads that spin while another process needs the core made training ten times slower;
    # those that soon sleep cost nothing on an idle machine. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            print("interrupted", file=sys.stderr)
        raise
    except Interrupted as reason:
        print(reason, file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("v2meow"):
            raise
        extra = _EXTRAS.get(str(error.name).split(".")[0], "pipeline")
        _fail(f"{error.name} is not installed: this needs v2meow's extra `{extra}`, v2meow[{extra}]")
    except Exception as error:
        if not _is_for_people(error):
            raise
        _fail(_one_line(error))


@app.command(rich_help_panel=_PROJECT)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    recipe: Annotated[str, typer.Option(help="A built-in recipe by name, or a YAML file.")] = "nano",
) -> None:
    """Make a workspace: git, DVC, the pipeline and a recipe. Repeating it changes nothing."""
    from v2meow import workspace

    if workspace.init(folder, recipe):
        print(f"{folder} is ready: put videos into {folder / 'data' / 'raw'}, then `v2meow run --workspace {folder}`")
    else:
        print(f"{folder} is a workspace already; left as it is")


@app.command(rich_help_panel=_PROJECT)
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the videos go.")],
    videos: Annotated[int, typer.Option(min=2, help="How many videos.")] = CATALOGUE_VIDEOS,
    seed: Annotated[int, typer.Option(help="Another seed makes another catalogue.")] = 0,
) -> None:
    """Make a synthetic catalogue whose music follows the picture in a known way."""
    from v2meow.data import synthetic
    from v2meow.workspace import watch_owner

    watch_owner()
    synthetic.make(folder, seed, videos)
    print(f"videos: {folder}")


@app.command(rich_help_panel=_PROJECT)
def run(
    steps: Annotated[
        list[str] | None, typer.Argument(metavar="[STEP]...", help="Default: all. What a step depends on is included.")
    ] = None,
    folder: WorkspaceOption = None,
) -> None:
    """Run the steps that are out of date, such as `train@coarse`, through DVC; the rest is left alone.

    SIGTERM stops the step under way; a training first saves what it has learnt. Exit status 75 then says that the
    same command goes on from there.
    """
    from v2meow import live, release, workspace

    place = chosen_workspace(folder)
    with workspace.owned(place):
        release.note_production(place)
        names = workspace.with_dependencies(place, steps or workspace.stages(place))
        with live.shown(names) as show:
            ran = workspace.run_stale(place, names, show)
        workspace.snapshot(place, f"Run {', '.join(ran)}" if ran else "Recipe and reports")
    print(f"{len(ran)} of {len(names)} steps ran, {len(names) - len(ran)} were up to date")


app.command(rich_help_panel=_PROJECT)(up)


@app.command(rich_help_panel=_PROJECT)
def report(folder: WorkspaceOption = None) -> None:
    """Write reports/report.html: catalogue, losses, metrics, samples to listen to, the verdict."""
    place = chosen_workspace(folder)
    from v2meow.evaluate import report as page

    print(page.write(place))


@app.command(rich_help_panel=_PROJECT)
def demo(
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your own music videos instead of the synthetic catalogue.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The workspace to make, or to go on with.")] = Path(
        "v2meow-demo"
    ),
) -> None:
    """The whole life of a model in minutes: catalogue, training, evaluation, registry, a scored video.

    Exit status 1 when the model did not pass its gate; its files are there all the same.
    """
    from v2meow import demo as life

    raise typer.Exit(0 if life.demo(videos, out) else 1)


@app.command(rich_help_panel=_STEPS)
def ingest(folder: WorkspaceOption = None) -> None:
    """Cut the videos under data/raw into clips; list what was rejected, and why."""
    _step("v2meow.data.clips", "run", folder)


@app.command(rich_help_panel=_STEPS)
def validate(folder: WorkspaceOption = None) -> None:
    """Check the catalogue against what the recipe demands."""
    _step("v2meow.data.checks", "validate", folder)


@app.command(rich_help_panel=_STEPS)
def fit(encoder: Encoder, folder: WorkspaceOption = None) -> None:
    """Fit one encoder on the training clips."""
    _step("v2meow.train.fit", "run", folder, encoder.value)


@app.command(rich_help_panel=_STEPS)
def extract(folder: WorkspaceOption = None) -> None:
    """Turn every clip into features and ids.

    In this process, or by Ray Data where the recipe's extract.workers is above 1 or RAY_ADDRESS is set.
    """
    _step("v2meow.data.extract", "run", folder)


@app.command(rich_help_panel=_STEPS)
def check_features(folder: WorkspaceOption = None) -> None:
    """Check the features and ids that the models will learn from."""
    _step("v2meow.data.checks", "check_features", folder)


@app.command(rich_help_panel=_STEPS)
def train(
    stage: Stage,
    folder: WorkspaceOption = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Have a Ray cluster do it: its dashboard's address, http://HEAD:8265."),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the training on the cluster; it can go on later.")] = False,
) -> None:
    """Train one stage of the cascade.

    In this process, or by Ray Train where the recipe's train.workers is above 1 or RAY_ADDRESS names a cluster.
    SIGTERM ends it after the step under way, with exit status 75: started again, it goes on from there.
    Killed, it goes on from its last checkpoint.

    With --cluster it is a job of a Ray cluster whose machines see the workspace under the same path. Its log and
    progress are shown here; Ctrl-C ends only that, and the same command shows them again. Exit status 75: it was
    stopped, and the same command goes on.
    """
    if cluster is None:
        if stop:
            raise typer.BadParameter("--stop needs --cluster; a training that runs here ends by SIGTERM or Ctrl-C")
        _step("v2meow.train.step", "run", folder, stage.value)
    else:
        _step("v2meow.train.ray_job", "stop" if stop else "run", folder, cluster, stage.value)


@app.command(rich_help_panel=_STEPS)
def evaluate(folder: WorkspaceOption = None) -> None:
    """Score held-out videos, measure the music, and assemble the bundle."""
    _step("v2meow.evaluate.step", "run", folder)


@app.command(rich_help_panel=_STEPS)
def gate(folder: WorkspaceOption = None) -> None:
    """Compare the metrics with the recipe's criteria; the verdict is written, passed or not."""
    _step("v2meow.evaluate.gate", "run", folder)


@app.command(rich_help_panel=_MODELS)
def generate(
    video: Annotated[Path, typer.Argument(help="The video to score; its own soundtrack is ignored.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.mp4", help="The scored video.")],
    prompt: Annotated[str | None, typer.Option(help="What the music should be like.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME@STAGE|nano",
            help="Default: the workspace's production, staging or latest model, else nano, which comes along.",
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first seconds of the video.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other music.")] = 0,
    takes: Annotated[
        int, typer.Option(min=1, max=64, help="Make several, with seeds one after the other; the best becomes OUT.mp4.")
    ] = 1,
    begin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on from the sound at the beginning of this file.")
    ] = None,
    begin_seconds: Annotated[float, typer.Option(min=0.1, help="How much of that sound is kept.")] = 3.0,
    wav: Annotated[bool, typer.Option("--wav", help="Also write the music alone, as OUT.wav.")] = False,
    watermark: Annotated[
        Path | None, typer.Option(metavar="SECRET", help="Mark the sound by the secret in this file (see `inspect`).")
    ] = None,
    folder: WorkspaceOption = None,
) -> None:
    """Generate music for a video.

    Takes are ranked by how much likelier the picture makes them, in the model's own eyes; the others become
    OUT-2.mp4, OUT-3.mp4 and so on.
    """
    from v2meow import release
    from v2meow.workspace import watch_owner

    watch_owner()
    bundle = release.find_model(
        model, folder and chosen_workspace(folder)
    )  # before torch: a missing model shows at once
    from v2meow.generate.files import Order, generate_file

    order = Order(
        prompt=prompt,
        seconds=seconds,
        seed=seed,
        takes=takes,
        begin=begin,
        begin_seconds=begin_seconds,
        wav=wav,
        watermark=watermark,
    )
    _print_figures(generate_file(video, out, bundle, order))


@app.command(rich_help_panel=_MODELS)
def audit(
    pairs: Annotated[
        Path, typer.Argument(metavar="PAIRS.csv", help="Columns video_a, video_b, factor; paths relative to the file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.json", help="All figures.")],
    model: Annotated[str | None, typer.Option(metavar="DIR|NAME@STAGE|nano", help="As `generate` takes it.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Of each video; default: a training clip.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes other music.")] = 0,
    folder: WorkspaceOption = None,
) -> None:
    """Ask what the music owes to something that should not matter, such as who is seen.

    Each pair of videos differs in that factor and in nothing else. Both are scored with one seed, and the first with
    another one, too: more than another seed changes, the factor should not change. Ten pairs of a factor are few.
    """
    from v2meow import release
    from v2meow.workspace import watch_owner

    watch_owner()
    bundle = release.find_model(model, folder and chosen_workspace(folder))
    from v2meow.evaluate import fairness
    from v2meow.files import write_json

    figures = fairness.audit(bundle, pairs, seconds=seconds, seed=seed)
    write_json(out, figures)
    print(f"{figures['pairs']} pairs, {len(figures['findings'])} findings that chance does not explain: {out}")
    for row in figures["findings"]:
        print(f"{row['factor']}: {row['of']} of {row['measure']}, p = {row['p_value']:.2g}")


def _step(module: str, function: str, folder: Path | None, *names: str) -> None:
    """Run one step in the workspace and print its figures. It ends when whoever drives the workspace dies."""
    from v2meow import assets
    from v2meow.config import load_recipe
    from v2meow.workspace import watch_owner

    watch_owner()
    place = chosen_workspace(folder)
    recipe = load_recipe(place / "recipe.yaml")
    assets.check_licences(recipe, place / assets.DECLARATIONS)
    _print_figures(getattr(import_module(module), function)(*names, recipe, place))


def _print_figures(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _is_for_people(error: Exception) -> bool:
    """Whether the message alone tells what to mend: our own errors, and the operating system's."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("flows", "serving", "v2meow")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    head, *rest = (line.strip() for line in str(error).splitlines())
    return f"{head} {'; '.join(rest)}".strip()


if __name__ == "__main__":
    main()
