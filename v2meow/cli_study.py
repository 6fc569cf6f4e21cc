"""`v2meow study …`: a blind listening study, made from the music of several systems, served, and reported."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Have people compare the music of several systems, blind.")

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="V2MEOW_STUDY_DATABASE", help="Where ratings are; default: SQLite in the study's folder."
    ),
]


@app.command()
def create(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The study's folder, which must not be there yet.")],
    system: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=DIR",
            help="A system and its music: a folder of scored videos or sounds, named as those of the other systems; "
            "or an evaluated workspace, whose samples are taken. Give it for each system.",
        ),
    ],
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The videos, where the music comes as sound alone.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(metavar="WORKSPACE", help="Its real soundtracks are one more system, `real`.")
    ] = None,
    title: Annotated[str, typer.Option(help="What raters see as the title.")] = "Which music?",
    intro: Annotated[str, typer.Option(help="What raters read first: who asks, and what becomes of it.")] = "",
    thanks: Annotated[str, typer.Option(help="What they read at the end, such as a completion code.")] = "",
    per_rater: Annotated[
        int, typer.Option(min=0, help="So many pairs of systems for each rater, alike of all; 0: all of them.")
    ] = 0,
    silent: Annotated[int, typer.Option(min=0, help="Pairs with one silent side, to see who attends.")] = 3,
    mismatched: Annotated[int, typer.Option(min=0, help="Pairs of own music and music for another video.")] = 0,
    invite: Annotated[int, typer.Option(min=0, help="Let in only so many raters, each by a token of their own.")] = 0,
    max_raters: Annotated[int, typer.Option(min=1, help="Let in no more, invited or not.")] = 1000,
    exclude_at: Annotated[float, typer.Option(help="Leave out who fails this share of the silent pairs.")] = 0.5,
    listen: Annotated[float, typer.Option(min=0.0, help="Seconds that each side must be heard before answers.")] = 3.0,
    loudness: Annotated[float, typer.Option(max=0.0, help="LUFS that all music is brought to.")] = -20.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other orders and sides.")] = 0,
) -> None:
    """Make a study: pairs of systems on the same videos, equally loud, under names that tell nothing."""
    from v2meow.evaluate.study.create import Wish
    from v2meow.evaluate.study.create import create as make
    from v2meow.evaluate.study.sources import read_pictures, read_real, read_source

    sources = [read_source(*_named(one)) for one in system] + ([read_real(real)] if real else [])
    wish = Wish(
        title=title,
        intro=intro,
        thanks=thanks,
        seed=seed,
        per_rater=per_rater,
        silent=silent,
        mismatched=mismatched,
        listen_s=listen,
        max_raters=max_raters,
        exclude_at=exclude_at,
        loudness=loudness,
        invite=invite,
    )
    for name, value in make(out, sources, read_pictures(videos) if videos else {}, wish).items():
        print(f"{name}: {value}")
    print(f"next: v2meow study serve {out}")


@app.command()
def serve(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    database: DatabaseOption = None,
) -> None:
    """Serve the page of a study. Ctrl-C ends it; ratings are kept, and it can be served again."""
    from v2meow.evaluate.study.serve import serve as run

    run(study, host, port, database)


@app.command()
def report(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where report.html and ratings.csv go; default: STUDY/report.")
    ] = None,
    database: DatabaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What the ratings say so far: scores and win rates with intervals, agreement, and who was left out."""
    from v2meow.evaluate.study.design import read_study
    from v2meow.evaluate.study.report import REPORT, text, write_report
    from v2meow.evaluate.study.serve import open_ballots
    from v2meow.evaluate.study.tally import results

    design = read_study(study)
    ballots = open_ballots(design, study, database)
    ratings = ballots.all()
    ballots.close()
    found = results(design, ratings)
    paths = write_report(out or study / REPORT, design, ratings, found)
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        print(text(found), *map(str, paths), sep="\n")


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise typer.BadParameter(f"{text!r} is not NAME=DIR", param_hint="--system")
    return name, Path(folder)
