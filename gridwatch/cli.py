"""The command line. Everything heavy is imported by the command that needs it, so that `--help` is quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from gridwatch.cli_options import (
    BrokerOption,
    ConfigArgument,
    ConfigOption,
    JsonOption,
    Language,
    LanguageOption,
    PhotoOption,
    RateOption,
    SiteOption,
    TargetOption,
    UserOption,
    WindowOption,
    WithParentOption,
)
from gridwatch.cli_tickets import add_commands
from gridwatch.logs import configure_logging
from pipeline.exceptions import ConfigError, GridwatchError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gridwatch",
    help="Community cameras in, disposed safety tickets out.\n\n"
    "Start with `gridwatch demo`. Then copy cameras.yaml, point it at your cameras and broker, "
    "`gridwatch check cameras.yaml`, and `gridwatch run cameras.yaml`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
tickets_app = typer.Typer(no_args_is_help=True)
app.add_typer(tickets_app, name="tickets")
add_commands(tickets_app)
models_app = typer.Typer(help="The registered weights.", no_args_is_help=True)
app.add_typer(models_app, name="models")


class BenchmarkGroup(TyperGroup):
    """`gridwatch benchmark CLIPS…` is `gridwatch benchmark run CLIPS…`."""

    default = "run"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the default before anything that names no command of its own."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


benchmark_app = typer.Typer(
    cls=BenchmarkGroup,
    help="Does the alarm accuracy hold? `gridwatch benchmark CLIPS…` runs labelled clips.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(benchmark_app, name="benchmark")


class OutcomeChoice(StrEnum):
    """How a ticket may end."""

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false_alarm"
    DUPLICATE = "duplicate"
    TEST = "test"


@app.command()
def check(
    config: ConfigArgument,
    out: Annotated[
        Path, typer.Option(help="Folder for one picture per camera with its zones drawn.")
    ] = Path("gridwatch-check"),
    seconds: Annotated[
        float, typer.Option(help="How long to listen to each camera.", min=1.0)
    ] = 6.0,
) -> None:
    """Validate cameras.yaml, open every camera, look at models and broker, draw the zones.

    Ends with status 0 when all is well, 1 when a camera, model, contact or the broker is not, 2 when the file is wrong.
    """
    from gridwatch.check import check_site
    from gridwatch.config import load_config

    configure_logging("human", "ERROR")  # the report says what is wrong
    raise typer.Exit(0 if check_site(load_config(config), out, seconds) else 1)


@app.command()
def run(
    config: ConfigArgument,
    once: Annotated[
        bool, typer.Option("--once", help="End when all file sources have ended.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set broker.port=1884"),
    ] = None,
    with_parent: WithParentOption = False,
) -> None:
    """Run the daemon: cameras in, tickets out, until SIGTERM.

    A supervisor keeps the engine alive: a crash in a decoder costs seconds, no ticket and no dwell.
    """
    from gridwatch.config import load_config
    from gridwatch.daemon import become_daemon

    chosen = overrides or []
    settings = load_config(config, overrides=chosen)
    become_daemon(config, settings, once=once, overrides=chosen, with_parent=with_parent)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when all four clips have been played.")
    ] = False,
    lang: LanguageOption = None,
    port: Annotated[
        int, typer.Option(help="Port of the embedded broker; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    config: Annotated[
        Path | None, typer.Option(help="Another configuration than the shipped one.")
    ] = None,
) -> None:
    """See it work: embedded broker, four clips, the daemon and the operators' live feed. Works offline.

    The clips are simulated (rendered by benchmarks/scenes) and their tickets say so.
    """
    from gridwatch.demo import run_demo

    raise typer.Exit(run_demo(config, once=once, language=lang.value if lang else None, port=port))


@app.command()
def watch(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
    lang: LanguageOption = None,
) -> None:
    """The live feed of tickets and cameras from any broker, in colour. Ctrl-C ends it."""
    from gridwatch.watch import feed_settings, watch_feed

    watch_feed(feed_settings(config, broker, site, user), lang.value if lang else None)


@tickets_app.callback()
def tickets() -> None:
    """List, show, acknowledge and dispose of tickets, through any broker that gridwatch feeds."""
    configure_logging("human", "ERROR")  # a command that fails says why itself


@tickets_app.command("list")
def tickets_list(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
    lang: LanguageOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """The tickets that nobody has disposed of yet."""
    from gridwatch.watch import feed_settings, print_tickets

    print_tickets(
        feed_settings(config, broker, site, user), lang.value if lang else None, as_json=as_json
    )


@tickets_app.command("show")
def tickets_show(
    ticket: Annotated[str, typer.Argument(help="The ticket's id or its unambiguous end.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
    lang: LanguageOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole ticket as JSON.")] = False,
) -> None:
    """One ticket: its four sections, why it was raised, and what has been done."""
    from gridwatch.watch import feed_settings, show_ticket

    show_ticket(
        feed_settings(config, broker, site, user),
        ticket,
        lang.value if lang else None,
        as_json=as_json,
    )


@tickets_app.command("ack")
def tickets_ack(
    ticket: Annotated[str, typer.Argument(help="The ticket's id or its unambiguous end.")],
    note: Annotated[str, typer.Option(help="What the next one should know.")] = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Acknowledge a ticket: somebody has seen it."""
    from gridwatch.watch import command_ticket, feed_settings

    command_ticket(feed_settings(config, broker, site, user), ticket, "acknowledge", note=note)


@tickets_app.command("dispose")
def tickets_dispose(
    ticket: Annotated[str, typer.Argument(help="The ticket's id or its unambiguous end.")],
    outcome: Annotated[OutcomeChoice, typer.Option(help="What it turned out to be.")],
    note: Annotated[str, typer.Option(help="What was found and done.")] = "",
    photo: PhotoOption = None,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    user: UserOption = None,
) -> None:
    """Dispose of a ticket with an outcome; the outcomes are what alarm accuracy is counted from."""
    from gridwatch.watch import command_ticket, feed_settings

    command_ticket(
        feed_settings(config, broker, site, user),
        ticket,
        "dispose",
        outcome=outcome.value,
        note=note,
        photos=photo or (),
    )


@tickets_app.command("export")
def tickets_export(
    config: ConfigArgument,
    yolo: Annotated[
        Path, typer.Option("--yolo", metavar="FOLDER", help="New folder for the training sets.")
    ],
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE|DURATION", help="Tickets raised since 2026-11-01, or in 30d."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model's; may be given several times.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Take the tickets of simulated pictures instead.")
    ] = False,
) -> None:
    """Confirmed and false alarms and reported misses, as YOLO training sets of the models that raised them.

    Runs on the host, which has the pictures. Look through needs_review.csv before training on them.
    """
    from gridwatch.training_export import print_export

    print_export(config, yolo, since=since, models=model or (), simulated=simulated)


@tickets_app.command("miss")
def tickets_miss(
    config: ConfigArgument,
    camera: Annotated[str, typer.Option(help="The camera that should have seen it.")],
    scenario: Annotated[str, typer.Option(help="What it was.")],
    when: Annotated[
        str, typer.Option("--time", metavar="MOMENT", help="Local, such as 2026-11-01T18:30:05.")
    ],
    note: Annotated[str, typer.Option(help="What was seen.")] = "",
    user: Annotated[
        str, typer.Option("--user", "-u", help="Who reports it; by default the system's user.")
    ] = "",
) -> None:
    """Report an event for which no ticket was raised: it counts against the recall in `accuracy`.

    Runs on the host, beside the daemon.
    """
    from gridwatch.misses import run_miss

    run_miss(config, camera=camera, scenario=scenario, when=when, note=note, by=user)


class DecisionChoice(StrEnum):
    """What may come of a candidate."""

    RAISED = "raised"
    SUPPRESSED = "suppressed"
    CLEARED = "cleared"


@app.command("decisions")
def decisions_command(
    config: ConfigArgument,
    camera: Annotated[str | None, typer.Option(help="Only this camera's.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario's.")] = None,
    outcome: Annotated[
        DecisionChoice | None, typer.Option(help="Only these; suppressed are alarms that were not.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE|DURATION", help="Decided since 2026-11-01, or in 2h."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    lang: LanguageOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Why did this become an alarm, and that not? The decision records of this host's rules.

    Reads the store of the host on which it is run, beside the daemon.
    """
    from gridwatch.decisions import print_decisions

    print_decisions(
        config,
        camera=camera,
        scenario=scenario,
        outcome=outcome.value if outcome else None,
        since=since,
        limit=limit,
        language=lang.value if lang else None,
        as_json=as_json,
    )


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def console(context: typer.Context) -> None:
    """The operators' page in a browser; `gridwatch console --help` says more. Needs the extra `console`."""
    try:
        from console.command import app as console_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"console: {error.name} is not installed; expected the extra: pip install 'gridwatch[console]'"
        ) from None
    console_app(context.args, prog_name="gridwatch console")


RegistryOption = Annotated[
    Path | None, typer.Option(help="A further registry.yaml that overrides the shipped one.")
]


@models_app.command("list")
def models_list(registry: RegistryOption = None) -> None:
    """The registered models with classes, input size, operating points and licence."""
    from gridwatch.models_view import list_models

    list_models(registry)


@models_app.command("show")
def models_show(name: str, registry: RegistryOption = None) -> None:
    """One model: classes, input, operating points, sha256, licence, and its card with the measured figures."""
    from gridwatch.models_view import show_model

    show_model(name, registry)


@models_app.command("train")
def models_train(
    name: Annotated[str, typer.Argument(help="vehicles, fire or water.")],
    data: Annotated[Path, typer.Option(help="Folder with the labelled sources.")],
    out: Annotated[Path, typer.Option(help="Registry folder to write into.")],
    work: Annotated[Path, typer.Option(help="Data sets and runs.")] = Path("training"),
    start: Annotated[
        Path,
        typer.Option(help="Start weights: a checkpoint, or a registered ONNX file to go on from."),
    ] = Path("yolo11n.pt"),
    renders: Annotated[Path | None, typer.Option(help="Folder of rendered pictures.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the last run stopped.")] = False,
    int8: Annotated[bool, typer.Option(help="Make an 8-bit variant too.")] = False,
    stage: Annotated[str, typer.Option(help="How far the model has come.")] = "trial",
    options: Annotated[
        list[str] | None, typer.Option("--set", help="Training option KEY=VALUE.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="GROUP=train or GROUP=val, over what the data's lists say."),
    ] = None,
) -> None:
    """Assemble the data set, train, measure and register a model (needs the extra `train`)."""
    from gridwatch.models_view import train_command

    train_command(
        name, data, work, out, start, renders, resume=resume, int8=int8, stage=stage,
        options=options or [], splits=split or [],
    )  # fmt: skip


@models_app.command("register")
def models_register(
    name: Annotated[str, typer.Argument(help="vehicles, fire or water.")],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of any epoch (.pt).")],
    dataset: Annotated[Path, typer.Option(help="Assembled data set to measure on.")],
    out: Annotated[Path, typer.Option(help="Registry folder to write into.")],
    int8: Annotated[bool, typer.Option(help="Make an 8-bit variant too.")] = False,
    stage: Annotated[str, typer.Option(help="How far the model has come.")] = "trial",
) -> None:
    """Export a checkpoint, measure it and register it (needs the extra `train`)."""
    from gridwatch.models_view import register_command

    register_command(name, checkpoint, dataset, out, int8=int8, stage=stage)


@models_app.command("verify")
def models_verify(registry: RegistryOption = None) -> None:
    """Check every weight file: sha256, and that its inputs and outputs fit the registry."""
    from gridwatch.models_view import verify_models

    raise typer.Exit(0 if verify_models(registry) else 1)


class GateChoice(StrEnum):
    """Which verdict a gate asks for."""

    PROVEN = "proven"
    MET = "met"


@benchmark_app.command("run")
def benchmark(
    clips: Annotated[
        list[Path],
        typer.Argument(help="Labelled video files, and folders of them.", show_default=False),
    ],
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="CAMERAS_YAML",
            help="Camera settings for clips that bring none, by default cameras.yaml in the folder; "
            "a camera's url is a clip or a pattern such as fire/*.mp4.",
        ),
    ] = None,
    target: TargetOption = 0.988,
    window: WindowOption = 10.0,
    rate: RateOption = None,
    workers: Annotated[
        int, typer.Option(help="Processes; 0 for one per core.", min=0, show_default=False)
    ] = 0,
    json_file: JsonOption = None,
    gate: Annotated[
        GateChoice | None,
        typer.Option(
            help="End with status 1 unless all clips are scored and the verdict is at least this."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep results and detection logs here, by default in the user's cache; a run that was "
            "stopped goes on from them.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Analyse every clip again, whatever is kept.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write index.html (one offline page with pictures of every error), results.json, "
            "alarms.csv, clips.csv and junit.xml.",
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write alarms and misses as a table."),
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML for CI.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Compare with an earlier run's results.json."),
    ] = None,
    lang: Annotated[
        Language, typer.Option("--lang", "-l", help="Language of the report.")
    ] = Language.EN,
) -> None:
    """What share of our alarms is true, and how sure are we? Labelled clips through the daemon's engine.

    Labels: labels.csv in the folder, or a YAML file beside the clip; see docs/benchmark.md.
    """
    from benchmarks.command import run_benchmark
    from benchmarks.work import default_folder

    raise typer.Exit(
        run_benchmark(
            clips,
            settings=settings,
            target=target,
            window_s=window,
            rate_per_hour=rate,
            workers=workers,
            json_file=json_file,
            gate=gate.value if gate else None,
            work=work or default_folder(),
            fresh=fresh,
            report=report,
            csv_file=csv_file,
            junit_file=junit_file,
            baseline=baseline,
            language=lang.value,
        )
    )


@benchmark_app.command("label")
def benchmark_label(
    clips: Annotated[
        list[Path], typer.Argument(help="Video files, and folders of them.", show_default=False)
    ],
) -> None:
    """A label file to fill in and a contact sheet to look at, beside every clip that has no label."""
    from benchmarks.skeleton import make_skeletons

    for made in make_skeletons(clips):
        if made.label is not None:
            typer.echo(f"{made.label}  {made.sheet}")
        else:
            typer.echo(f"{made.clip}: {made.problem or 'is labelled already'}")


@benchmark_app.command("import")
def benchmark_import(
    file: Annotated[
        Path, typer.Argument(help="The export of the labelling tool.", show_default=False)
    ],
    clips: Annotated[
        Path, typer.Option(help="Folder of the clips; gets labels.csv.", file_okay=False)
    ] = Path(),
    words: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="LABEL=OURS", help="flame=fire, cat=ignore, ..."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frame rate of all clips; by default each clip's time stamps.", min=0.1),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace labels.csv.")] = False,
) -> None:
    """Labels from CVAT (for video 1.1), i-LIDS-like XML or Label Studio's video JSON into labels.csv."""
    from benchmarks.importers import import_labels, write_csv

    pairs = (word.partition("=") for word in words or ())
    events = import_labels(file, clips, {theirs: ours for theirs, _, ours in pairs}, fps=fps)
    typer.echo(write_csv(events, clips, replace_file=replace))


@benchmark_app.command("replay")
def benchmark_replay(
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="LOG",
            help="The work folder of a run (by default the last one in the user's cache), or a "
            "daemon's detection logs.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Try a value: --set fire.raise_after=3s"),
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=VALUE,VALUE,...",
            help="Try each; several make a grid: --sweep fire.raise_after=1s,2s,3s",
        ),
    ] = None,
    target: TargetOption = 0.988,
    window: WindowOption = 10.0,
    rate: RateOption = None,
    json_file: JsonOption = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a sweep as SVG: accuracy over delay.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="How good is the best of a sweep on clips that it was not chosen on? Choose on all folds but "
            "one, score on that one, each in turn. Groups of clips stay whole.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Scenarios and rules again with other parameters, from the detection log: no video, no models, seconds.

    The best of a sweep looks better than it is on the clips that chose it; with --folds it is scored on others:

        gridwatch benchmark replay --sweep fire.raise_after=1s,2s,3s --folds 2

    Parameters that steer what is measured in the pictures are refused by name; see docs/benchmark.md.
    """
    from benchmarks.evaluation import Options
    from benchmarks.replay_command import run_replay

    options = Options(target, window, rate, 1)
    raise typer.Exit(
        run_replay(
            log,
            settings=settings or (),
            sweeps=sweeps or (),
            options=options,
            json_file=json_file,
            chart=chart,
            folds=folds,
        )
    )


class ByChoice(StrEnum):
    """What `accuracy` tells apart."""

    SCENARIO = "scenario"
    CAMERA = "camera"
    GRID = "grid"
    WEEK = "week"


@app.command("accuracy")
def accuracy_command(
    config: ConfigArgument,
    by: Annotated[ByChoice, typer.Option(help="What the rows tell apart.")] = ByChoice.SCENARIO,
    level: Annotated[
        int | None,
        typer.Option(help="With --by grid: 1 for the total grids, 2 for the general ones.", min=1),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE|DURATION", help="Tickets raised since 2026-11-01, or in 30d."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Instead of the configured target.", min=0.0, max=0.9999),
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Count the tickets of simulated pictures instead.")
    ] = False,
    lang: LanguageOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The rows as CSV.")] = False,
    gate: Annotated[
        GateChoice | None,
        typer.Option(help="End with status 1 unless the verdict on all is at least this."),
    ] = None,
) -> None:
    """What share of this host's alarms was true? From the outcomes that people gave, with its bound.

    Reads the store of the host on which it is run, beside the daemon.
    """
    from gridwatch.accuracy_view import run_accuracy

    if as_json and as_csv:
        raise typer.BadParameter("expected --json or --csv, found both")
    raise typer.Exit(
        run_accuracy(
            config,
            by=by.value,
            level=level,
            since=since,
            target=target,
            simulated=simulated,
            language=lang.value if lang else None,
            form="json" if as_json else "csv" if as_csv else "table",
            gate=gate.value if gate else None,
        )
    )


def main() -> None:
    """Entry point: errors that gridwatch foresees become their lines on stderr and status 2."""
    configure_logging("human", "WARNING")  # the daemon sets up its own
    try:
        app()
    except GridwatchError as error:
        for line in str(error).splitlines():
            typer.secho(f"error: {line}", fg="red", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
