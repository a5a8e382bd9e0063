"""The command line: arguments, one library call, print. Data goes to stdout, words and progress to stderr.

Modules that load pydantic, torch or Optuna are imported inside the commands, so that `nas --help` stays quick.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.errors import InputError, NasError

if TYPE_CHECKING:
    from nas.devices import Device
    from nas.latency import LatencyTable
    from nas.latency.measure import Progress as BuildProgress
    from nas.search import Candidate, SearchResult
    from nas.search.run import Progress as SearchProgress
    from nas.training import TrainingProgress
    from nas.validate.records import Validation

__all__ = ["app", "main"]

app = typer.Typer(
    help="Latency-aware neural architecture search over the iFormer family of mobile vision networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
table_app = typer.Typer(help="Latency tables: build, list and show them.", no_args_is_help=True)
space_app = typer.Typer(help="Search spaces.", no_args_is_help=True)
app.add_typer(table_app, name="table")
app.add_typer(space_app, name="space")
supernet_app = typer.Typer(help="Supernets: one network that scores thousands.", no_args_is_help=True)
app.add_typer(supernet_app, name="supernet")
_LOG_EVERY_S = 60.0

SpaceOption = Annotated[str, typer.Option("--space", help="Search space: a name or a .toml file.")]
TableOption = Annotated[str, typer.Option("--table", help="Latency table: a name, its beginning, or a .json file.")]
DataOption = Annotated[
    str, typer.Option("--data", help="synthetic, a folder of class folders, Parquet files, or a hub data set.")
]
EffortOption = Annotated[
    str | None,
    typer.Option("--effort", help="Of short training: quick, standard or thorough.", show_default="quick"),
]
SupernetOption = Annotated[
    Path | None,
    typer.Option("--supernet", help="File for --proxy supernet; {seed} in its name is the seed.", show_default=False),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="NAME or NAME://ADDRESS, such as ssh://user@host:22; nas devices lists them.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of the runtime.", show_default="1")
]
RunnerOption = Annotated[
    Path | None, typer.Option("--runner", help="Program to run on the device (android).", show_default=False)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE of the device; may be repeated.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
ResultsArgument = Annotated[Path, typer.Argument(help="A results folder.", show_default=False)]


def main() -> None:
    """Run the command line; every expected error ends in one line and its exit code."""
    # Threads that wait by spinning for long slow training down tenfold and more when another program takes a core:
    # 9 to 10 s a step against 0.6 to 2.6 s, two cores, and no difference on an idle machine. Read when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except NasError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # A name too long, a full disk, ...: what no module can say better.
        _say(f"error: {error.filename or 'output'}: {error.strerror}")
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # Typer has made this of Ctrl-C.
            _say("interrupted; everything finished so far is saved")
        raise


@app.command()
def search(
    budget_ms: Annotated[float, typer.Option(help="Upper limit of the predicted latency in ms.", show_default=False)],
    space: SpaceOption = "iformer",
    table: TableOption = "iphone13",
    proxy: Annotated[
        str, typer.Option(help="What scores a candidate; of CHEAP,DEAR the cheap one screens and the dear one decides.")
    ] = "short-training",
    screen: Annotated[
        int | None,
        typer.Option(min=2, help="Networks to screen for each one passed on.", show_default="8 with several proxies"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxy; may be repeated.", show_default=False),
    ] = None,
    effort: EffortOption = None,
    supernet: SupernetOption = None,
    data: DataOption = "synthetic",
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to score.", show_default=False)] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="End after this long: 90s, 10m, 2h.", show_default="10m without --trials")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.999, help="Keep the upper end of this interval inside the budget.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the sampler, the data and the training.")] = 0,
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL.", show_default="a journal in the results folder")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/SPACE-BUDGETms")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the results folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the best network inside a latency budget.

    Example: nas search --budget-ms 1.1
    """
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.proxies import build_proxies
    from nas.report.words import write_report
    from nas.search import SearchResult, check_budget, plan_search
    from nas.search.run import run_search

    if screen is not None and "," not in proxy:
        raise InputError(f"--screen {screen} needs a proxy that screens: --proxy CHEAP,{proxy}")
    # What `kill` sends ends a search as Ctrl-C does: with the files of what is finished.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limit_s = _seconds(time_limit) if time_limit else None if trials else 600.0
    search_space = SearchSpace.find(space)
    latency_table, table_path = LatencyTable.find(table)
    folder = out or _default_out(space, budget_ms, resume=resume)
    # A budget that cannot be met is refused before any image is made or read.
    check_budget(search_space, latency_table, budget_ms, confidence)
    with _data_watch() as watch:
        built = build_proxies(
            proxy, data=data, seed=seed, options=_settings(option, effort=effort, supernet=supernet), progress=watch
        )
    decides, last = built.popitem()
    planned = plan_search(
        search_space,
        latency_table,
        last,
        screens=built,
        screen=8 if screen is None else screen,
        budget_ms=budget_ms,
        confidence=confidence,
        trials=trials,
        time_limit_s=limit_s,
    )
    for line in planned.describe():
        _say(line)
    _say(f"results: {folder}")
    try:
        result = run_search(
            search_space,
            latency_table,
            last,
            screens=built,
            plan=planned,
            seed=seed,
            out=folder,
            names={"space": space, "table": table_path.name.removesuffix(".json"), "proxy": decides},
            time_limit_s=limit_s,
            storage=storage,
            resume=resume,
            command=["nas", *sys.argv[1:]],
            on_progress=_say_progress,
        )
    except KeyboardInterrupt:
        write_report(SearchResult.load(folder))
        _say(f"\nstopped; go on with: nas search --resume --out {folder} and the same options")
        raise
    write_report(result)
    if result.winner is None:
        raise NasError(f"{folder}: no network has a score yet; see its report.md for the reasons")
    if as_json:
        _print_json(_result_json(result))
    else:
        _print_result(result)


@app.command()
def latency(
    network: Annotated[str, typer.Argument(help="A reference (iformer_m), an architecture file, or - for stdin.")],
    table: TableOption = "iphone13",
    as_json: JsonOption = False,
) -> None:
    """Predict the latency of a network, layer by layer.

    Example: nas latency iformer_m
    """
    from nas.latency import LatencyTable
    from nas.networks import count, find_network

    name, architecture = find_network(network, stdin=sys.stdin.buffer)
    latency_table, path = LatencyTable.find(table)
    found = latency_table.latency(architecture)
    published = latency_table.published.get(architecture.id)
    counts = count(architecture)
    if as_json:
        _print_json(
            {
                "id": architecture.id,
                "latency_ms": round(found.latency_ms, 6),
                "interval_ms": [round(found.low_ms, 6), round(found.high_ms, 6)],
                "source": found.source,
                "table": path.name.removesuffix(".json"),
                "params": counts.params,
                "macs": counts.macs,
                "published_ms": published.latency_ms if published else None,
                "layers": [
                    {"key": part.key, "latency_ms": round(part.latency_ms, 6), "source": part.source}
                    for part in found.layers
                ],
            }
        )
        return
    from collections import Counter

    from rich.table import Table

    _print(f"{name}  {architecture.summary}")
    _print(f"{counts.params / 1e6:.3f} M parameters, {counts.macs / 1e9:.3f} GMACs at {architecture.resolution} px")
    _print(f"{found.latency_ms:.3f} ms  [{found.low_ms:.3f}, {found.high_ms:.3f}]  {latency_table.provenance.label}")
    _print(f"interval: {latency_table.interval_meaning}; {latency_table.trust}")
    if published:
        difference = found.latency_ms / published.latency_ms - 1
        _print(f"published: {published.latency_ms:.2f} ms ({published.source}); predicted {difference:+.1%}")
    shown = Table("layer", "count", "ms each", "ms", "share", "source", box=None)
    parts = {part.key: part for part in found.layers}
    for key, times in Counter(part.key for part in found.layers).items():
        total = times * parts[key].latency_ms
        share = f"{total / found.latency_ms:.1%}"
        shown.add_row(key, str(times), f"{parts[key].latency_ms:.4f}", f"{total:.4f}", share, parts[key].source)
    _print_table(shown)


@table_app.command("build")
def table_build(
    device: DeviceOption = "onnxruntime",
    space: SpaceOption = "iformer",
    threads: ThreadsOption = None,
    runner: RunnerOption = None,
    option: SettingsOption = None,
    sample: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="Share of the layers to measure; the rest is filled in and marked.",
            show_default="all, with --until-error 0.1",
        ),
    ] = None,
    until_error: Annotated[
        str | None,
        typer.Option(help="Measure on until filled values are known to this, such as 2%.", show_default=False),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Take up layers that failed before.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Table file.", show_default="latency_tables/DEVICE.RUNTIME.PRECISION.json")
    ] = None,
) -> None:
    """Measure every distinct layer of a space on a device; a build that was stopped goes on where it was.

    Example: nas table build --device onnxruntime --space tiny --out tiny.json
    """
    from nas.latency import Failed
    from nas.latency.measure import build_table, default_path
    from nas.networks import SearchSpace

    search_space = SearchSpace.find(space)
    error = _fraction("--until-error", until_error) if until_error else None
    if out is not None and out.suffix != ".json":
        raise InputError(f"{out}: a table is a .json file")
    with _opened(device, threads=threads, runner=runner, settings=option) as opened:
        path = out or default_path(opened)
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _build_watch() as watch:
            built = build_table(
                search_space.layers,
                opened,
                path,
                sample=sample,
                until_error=error,
                retry_failed=retry_failed,
                on_progress=watch,
            )
    for line in built.describe():
        _say(line)
    if failures := sum(isinstance(entry, Failed) for entry in built.entries.values()):
        _say(f"{failures} layers failed: mend the cause, then the same command with --retry-failed")
    given = ["--device", device, "--space", space]
    given += ["--threads", str(threads)] if threads else []
    given += ["--runner", str(runner)] if runner else []
    given += [word for setting in option or [] for word in ("--option", setting)]
    _say(f"how far to trust its sums: nas table check {shlex.join([str(path), *given])} --calibrate 10")
    _print(str(path))


@table_app.command("check")
def table_check(
    table: Annotated[str, typer.Argument(help="A table name or file.", show_default=False)],
    device: Annotated[
        str | None,
        typer.Option(help="NAME or NAME://ADDRESS.", show_default="the kind that measured the table"),
    ] = None,
    space: SpaceOption = "iformer",
    threads: ThreadsOption = None,
    runner: RunnerOption = None,
    option: SettingsOption = None,
    networks: Annotated[int, typer.Option(min=4, help="Random networks to compare, beside the references.")] = 40,
    calibrate: Annotated[
        int, typer.Option(min=0, help="Further random networks to learn a correction from; it stays in the table.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=2, help="How often each network is timed.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Time whole networks on the device of a table, and store in the table how far its sums can be trusted.

    Example: nas table check amd-epyc --calibrate 10
    """
    from nas.latency import LatencyTable
    from nas.latency.check import check_table
    from nas.networks import SearchSpace

    search_space = SearchSpace.find(space)
    found, path = LatencyTable.find(table)
    threads = threads or found.provenance.threads
    name = device or found.provenance.kind
    if name is None:
        raise InputError(f"{path} was not measured by a device of this project ({found.provenance.label})")
    with _opened(name, threads=threads, runner=runner, settings=option) as opened, _build_watch() as watch:
        checked = check_table(
            found,
            path,
            search_space,
            opened,
            networks=networks,
            calibrate=calibrate,
            rounds=rounds,
            on_progress=watch,
        )
    assert checked.check is not None
    if as_json:
        _print_json(_check_json(checked))
        return
    from rich.table import Table

    shown = Table("network", "measured ms", "predicted", "error", "sum of layers", "spread", "", box=None)
    for row in checked.check.rows:
        error = f"{row.predicted_ms / row.measured_ms - 1:+.1%}"
        values = (f"{row.measured_ms:.3f}", f"{row.predicted_ms:.3f}", error, f"{row.sum_ms:.3f}", f"{row.spread:.1%}")
        shown.add_row(row.name, *values, row.role)
    _print_table(shown)
    for line in checked.describe():
        _print(line)


@table_app.command("list")
def table_list() -> None:
    """List the latency tables that --table finds.

    Example: nas table list
    """
    from rich.table import Table

    from nas import catalog
    from nas.latency import LatencyTable

    shown = Table("table", "entries", "origin", "trust", box=None)
    for name, path in catalog.files("latency_tables", ".json").items():
        try:
            table = LatencyTable.load(path)
        except InputError as error:  # One broken file must not hide the others.
            shown.add_row(name, "-", str(error), "-")
            continue
        shown.add_row(name, str(len(table.entries) or "model"), table.provenance.label, table.trust)
    _print_table(shown)


@table_app.command("show")
def table_show(table: Annotated[str, typer.Argument(help="A table name or file.")]) -> None:
    """Show where a table comes from, how far it can be trusted, and its dearest layers.

    Example: nas table show iphone13
    """
    from rich.table import Table

    from nas.latency import LatencyTable, Timing

    found, path = LatencyTable.find(table)
    _print(str(path))
    for line in found.describe():
        _print(line)
    timings = {key: entry for key, entry in found.entries.items() if isinstance(entry, Timing)}
    if timings:
        shown = Table("dearest layers", "fastest ms", "median", "p90", "slowest", "runs", box=None)
        for key, timing in sorted(timings.items(), key=lambda item: -item[1].minimum_ms)[:10]:
            values = (timing.minimum_ms, timing.median_ms, timing.p90_ms, timing.maximum_ms)
            shown.add_row(key, *(f"{value:.4f}" for value in values), str(timing.runs))
        _print_table(shown)


@table_app.command("calibrate")
def table_calibrate(
    points: Annotated[Path, typer.Argument(help="Published end-to-end times, a .points.csv file.")],
    out: Annotated[Path, typer.Option(help="Table file to write.")],
    baselines: Annotated[
        bool,
        typer.Option(help="Let networks of other authors help: those of the .baselines.csv beside the points, if any."),
    ] = True,
) -> None:
    """Fit the per-layer cost model of the iPhone 13 to published end-to-end times.

    Example: nas table calibrate latency_tables/iphone13.points.csv --out iphone13.coreml.fp16.json
    """
    from nas.latency.calibrate import iphone13_table
    from nas.latency.published import baselines_beside

    table = iphone13_table(points, baselines_beside(points) if baselines else None)
    table.save(out)
    assert table.model is not None
    for line in table.model.describe():
        _print(line)
    _say(f"written to {out}")


@supernet_app.command("train")
def supernet_train(
    space: SpaceOption = "iformer",
    data: DataOption = "synthetic",
    images: Annotated[
        int, typer.Option(min=1, help="Images that each network of a step sees, with repetition.")
    ] = 32_000,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step, on each GPU.")] = 64,
    resolution: Annotated[int, typer.Option(help="Height and width of the images, a multiple of 32.")] = 64,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Train only networks of this latency, a fraction of the work.", show_default=False),
    ] = None,
    table: TableOption = "iphone13",
    init: Annotated[
        Path | None,
        typer.Option(help="Begin with the weights of an iFormer (.safetensors, .pth).", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights, networks and images.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="SPACE.supernet.safetensors")] = None,
) -> None:
    """Train one network for a whole space; the same command goes on where a training was stopped.

    Example: nas supernet train --space tiny --images 2000

    Several GPUs: torchrun --nproc-per-node 4 --no-python nas supernet train --data photos/
    """
    from nas.data import load_images
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.search import check_budget
    from nas.training import Limit, SupernetRecipe, train_supernet

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    search_space = SearchSpace.find(space)
    path = out or Path(f"{Path(space).stem}.supernet.safetensors")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a supernet is a .safetensors file")
    if resolution < 32 or resolution % 32:
        raise InputError(f"--resolution must be a multiple of 32, got {resolution}")
    limit = None
    if budget_ms is not None:
        latency_table, table_path = LatencyTable.find(table)
        check_budget(search_space, latency_table, budget_ms)
        name = table_path.name.removesuffix(".json")
        limit = Limit(
            admits=lambda network: latency_table.latency_ms(network) <= budget_ms,
            words=f"at most {budget_ms:g} ms under {name} ({latency_table.digest()})",
        )
    with _data_watch() as watch:
        image_set = load_images(data, resolution=resolution, seed=seed, progress=watch)
    recipe = SupernetRecipe(images=images, batch_size=batch_size)
    with _supernet_watch() as watch_training:
        train_supernet(
            search_space, image_set, path, recipe=recipe, seed=seed, init=init, limit=limit, on_progress=watch_training
        )
    if os.environ.get("RANK", "0") == "0":  # Under torchrun one process speaks.
        given = {"budget-ms": budget_ms or 1.1, "space": space, "data": data, "table": table}
        words = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items())
        _say(f"score with it: nas search {words} --proxy supernet --supernet {shlex.quote(str(path))}")
        _print(str(path))


@app.command()
def devices() -> None:
    """List what latency can be measured on from here, and why not on the others.

    Example: nas devices
    """
    from rich.table import Table

    from nas.catalog import load_plugin, plugins

    shown = Table("device", "available", "what it is, or why not and what to do", "options", box=None)
    for name in plugins("devices"):
        module = load_plugin("device", "devices", name)
        reason = module.unavailable()
        about = (module.__doc__ or "").splitlines()[0]
        shown.add_row(name, "no" if reason else "yes", reason or about, ", ".join(module.Options.model_fields))
    _print_table(shown)


@app.command()
def plot(
    results: Annotated[list[Path], typer.Argument(help="One or more results folders.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Picture or page to write: .html, .png or .svg.")] = Path("pareto.html"),
) -> None:
    """Plot the candidates and Pareto fronts of one or more runs, with the published iFormer points.

    Of a validation, write its page again.

    Example: nas plot results/iformer-1.1ms --out front.png
    """
    from nas.report.words import write_plot, write_validation
    from nas.search import SearchResult
    from nas.validate.records import Validation

    if len(results) == 1 and (results[0] / "validation.json").exists():
        if out.suffix != ".html":
            raise InputError(f"{out}: a validation is written as a page, .html")
        write_validation(Validation.load(results[0]), out)
    else:
        write_plot([SearchResult.load(path) for path in results], out)
    _say(f"written to {out}")


@app.command()
def show(results: ResultsArgument, as_json: JsonOption = False) -> None:
    """Show the winner, the front and the references of a run, or what a validation says.

    Example: nas show results/iformer-1.1ms
    """
    from nas.search import SearchResult
    from nas.validate.records import Validation

    if (results / "validation.json").exists():
        _print_validation(Validation.load(results), as_json=as_json)
        return
    result = SearchResult.load(results)
    if as_json:
        _print_json(_result_json(result))
    else:
        _print_result(result)


@app.command()
def front(
    results: ResultsArgument,
    budget_ms: Annotated[float, typer.Option(help="Latency budget in ms.", show_default=False)],
) -> None:
    """Print the architecture of the best network of a run inside another budget, as JSON.

    Example: nas front results/iformer-1.1ms --budget-ms 0.9
    """
    from nas.errors import BudgetError
    from nas.search import SearchResult

    result = SearchResult.load(results)
    best = result.best_under(budget_ms)
    if best is None:
        fastest = min((c.latency_ms for c in result.scored), default=None)
        raise BudgetError(
            f"{results} has no network of at most {budget_ms:g} ms"
            + (f"; its fastest is {fastest:.3f} ms" if fastest else "; nothing is scored yet")
        )
    _say(f"{best.label}: {best.latency_ms:.3f} ms ({result.run.table.origin}), score {best.score:.4f}")
    _print(best.architecture.to_json(), end="")


@app.command()
def validate(
    data: DataOption = "synthetic",
    proxy: Annotated[str, typer.Option(help="What to validate: proxies, each alone; the first searches.")] = (
        "short-training"
    ),
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxies; may be repeated.", show_default=False),
    ] = None,
    effort: EffortOption = None,
    supernet: SupernetOption = None,
    table: TableOption = "iphone13",
    space: SpaceOption = "iformer",
    seeds: Annotated[int, typer.Option(help="Scores of each network; the first is that of the searches.")] = 3,
    rows: Annotated[
        Path | None, typer.Option(help="Further published networks, in the form of .points.csv.", show_default=False)
    ] = None,
    budgets: Annotated[str, typer.Option(help="Budgets in ms of one search each, or none.")] = "0.60,0.85,1.10,1.60",
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates of each search.", show_default=False)] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="End each search after this long.", show_default="10m without --trials")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/validation"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far latencies and scores can be trusted, by published figures; leaves a page and a JSON document.

    Example: nas validate --proxy zero-cost --option measure=params --budgets none
    """
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.proxies import Proxy, build_proxies
    from nas.report.words import write_validation
    from nas.validate import Request, published_points, read_budgets, run_validation
    from nas.validate.records import Validation

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    latency_table, table_path = LatencyTable.find(table)
    points, further = published_points(table_path, rows)
    request = Request(
        space=SearchSpace.find(space),
        table=latency_table,
        points=tuple(points),
        further=tuple(further),
        proxies=tuple(proxy.split(",")),
        seeds=tuple(range(seeds)),
        budgets_ms=read_budgets(budgets),
        trials=trials,
        time_limit_s=_seconds(time_limit) if time_limit else None if trials else 600.0,
        names={"space": space, "table": table_path.name.removesuffix(".json"), "data": data},
        command=["nas", *sys.argv[1:]],
    )
    settings = _settings(option, effort=effort, supernet=supernet)

    def build(seed: int) -> dict[str, Proxy]:
        with _data_watch() as watch:
            return build_proxies(proxy, data=data, seed=seed, options=settings, progress=watch)

    refused = (out / "validation.json").exists() and not resume
    try:
        validation = run_validation(request, build, out=out, resume=resume, say=_say, on_search=_say_progress)
    except KeyboardInterrupt:
        if (out / "validation.json").exists():
            _print_validation(Validation.load(out), as_json=as_json)
            _say(f"stopped; go on with: nas validate --resume --out {out} and the same options")
        raise
    finally:
        if (out / "validation.json").exists() and not refused:
            write_validation(Validation.load(out), out / "validation.html")
    _print_validation(validation, as_json=as_json)
    _say(f"written to {out / 'validation.json'} and {out / 'validation.html'}")


@app.command()
def export(
    network: Annotated[
        str, typer.Argument(help="A reference, an architecture file, - for stdin, or a results folder.")
    ],
    format: Annotated[str, typer.Option("--format", help="onnx, coreml or timm.")],  # noqa: A002 - the option's name
    weights: Annotated[Path | None, typer.Option(help="Checkpoint to load first.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="NETWORK with the suffix")] = None,
) -> None:
    """Write a network, or the winner of a run with its weights, for another tool.

    Example: nas export iformer_m --format onnx --out iformer_m.onnx
    """
    from nas.catalog import load_plugin
    from nas.networks import find_network
    from nas.networks.modules import build_model, load_model
    from nas.search import SearchResult

    exporter = load_plugin("export format", "export", format)
    run = SearchResult.load(Path(network)) if (Path(network) / "run.json").exists() else None
    if run and weights:
        raise InputError(f"{network} is a run and has its own weights: export its winner.json to use other --weights")
    if run:
        name = run.path.resolve().name
    else:
        name, architecture = find_network(network, stdin=sys.stdin.buffer)
    path = out or Path(f"{name}{exporter.SUFFIX}")
    if path.suffix != exporter.SUFFIX:
        raise InputError(f"{path}: --format {format} writes a {exporter.SUFFIX} file")
    if run:
        module = run.build_winner()
    elif weights:
        module = load_model(architecture, weights)
    else:
        _say("no --weights: the file gets random weights, good for timing only")
        module = build_model(architecture)
    for written in exporter.export(module, path):
        _print(str(written))


@space_app.command("show")
def space_show(
    space: Annotated[str, typer.Argument(help="A space name or file.")] = "iformer",
    table: TableOption = "iphone13",
    as_json: JsonOption = False,
) -> None:
    """Show the size of a space, its cheapest and dearest networks, its references and latency quantiles.

    Example: nas space show iformer
    """
    from rich.table import Table

    from nas.latency import LatencyTable
    from nas.networks import SearchSpace, count, random_choice

    found = SearchSpace.find(space)
    latency_table, path = LatencyTable.find(table)
    rows = {
        "cheapest": found.extreme(latency_table.layer_ms),
        "dearest": found.extreme(latency_table.layer_ms, dearest=True),
        **found.references,
    }
    choose = random_choice(seed=0)
    quantiles = latency_table.quantiles(found.sample(choose) for _ in range(1000))
    if as_json:
        networks = [
            {
                "name": name,
                "id": network.id,
                "latency_ms": round(latency_table.latency_ms(network), 6),
                "params": count(network).params,
                "macs": count(network).macs,
                "inside": network in found,
            }
            for name, network in rows.items()
        ]
        document = {
            "space": space,
            "networks": found.count(),
            "layers": len(found.layers),
            "table": path.name.removesuffix(".json"),
            "latency_quantiles_ms": {name: round(value, 6) for name, value in quantiles.items()},
            "references": networks,
        }
        _print_json(document)
        return
    if found.description:
        _print(found.description)
    _print(f"{found.count():,} networks ({found.count():.2e}) of {len(found.layers):,} distinct layers")
    _print(f"latency under {path.name.removesuffix('.json')} ({latency_table.provenance.label}); {latency_table.trust}")
    _print("1000 random networks: " + ", ".join(f"{name} {value:.3f} ms" for name, value in quantiles.items()))
    shown = Table("network", "ms", "M params", "GMACs", "in the space", "blocks", box=None)
    for name, network in rows.items():
        counts = count(network)
        ms = f"{latency_table.latency_ms(network):.3f}"
        sizes = (f"{counts.params / 1e6:.2f}", f"{counts.macs / 1e9:.2f}")
        shown.add_row(name, ms, *sizes, "yes" if network in found else "no", network.summary)
    _print_table(shown)


def _print(text: str, *, end: str = "\n") -> None:
    """Data, to stdout."""
    sys.stdout.write(text + end)


def _say(text: str) -> None:
    """Words, to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Wide enough that rows are never folded where stdout is a file or a pipe.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    console.print(table)


def _print_json(document: object) -> None:
    _print(json.dumps(document))


def _seconds(text: str) -> float:
    """`90s`, `10m` or `2h` in seconds; a bare number is seconds."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--time-limit must be a time such as 90s, 10m or 2h, got {text!r}")
    return value


def _fraction(name: str, text: str) -> float:
    """`2%` or `0.02` as a fraction."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"{name} must be a share such as 2% or 0.02, got {text!r}")
    return value


def _settings(options: list[str] | None, **shorthands: object) -> dict[str, str]:
    """What --option NAME=VALUE said, and the options that have a name of their own."""
    settings = {name: str(value) for name, value in shorthands.items() if value is not None}
    for text in options or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"--option must be NAME=VALUE, got {text!r}")
        if settings.setdefault(name, value) != value:
            raise InputError(f"--option {text}: {name} is {settings[name]} already: give it once")
    return settings


@contextmanager
def _opened(device: str, *, threads: int | None, runner: Path | None, settings: list[str] | None) -> Iterator[Device]:
    """A device with its options, closed at the end however it comes."""
    from nas.devices import open_device

    options = _settings(settings, threads=threads, runner=runner)
    # What `kill` sends, or a terminal that is closed, must close the device, too.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    opened = open_device(device, options)
    try:
        yield opened
    finally:
        opened.close()


def _print_validation(validation: Validation, *, as_json: bool) -> None:
    """Print what the page says."""
    from rich.table import Table

    from nas.report.words import validation_sections

    if as_json:
        _print_json(validation.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    for section in validation_sections(validation):
        _print(f"\n{section.title}")
        for note in section.notes:
            _print(f"  {note}")
        if section.rows:
            shown = Table(*section.header, box=None)
            for row in section.rows:
                shown.add_row(*row)
            _print_table(shown)


def _check_json(table: LatencyTable) -> dict[str, Any]:
    check = table.check
    assert check is not None
    return {
        **check.agreement.model_dump(),
        "noise_floor": check.noise_floor,
        "baselines": {name: agreement.model_dump() for name, agreement in check.baselines.items()},
        "uncorrected": check.uncorrected.model_dump(),
        "correction": table.correction.model_dump() if table.correction else None,
        "drift": check.drift,
        "rows": [row.model_dump() for row in check.rows],
    }


def _default_out(space: str, budget_ms: float, *, resume: bool) -> Path:
    """results/SPACE-BUDGETms, numbered on while taken; with --resume the last one there is."""
    first = Path("results") / f"{Path(space).stem}-{budget_ms:g}ms"
    path, number, last = first, 1, first
    while (path / "run.json").exists():
        number, last = number + 1, path
        path = first.with_name(f"{first.name}-{number}")
    return last if resume else path


def _say_progress(progress: SearchProgress) -> None:
    """One line a finished candidate, and one at the end."""
    last = progress.last
    if last is None:
        _say(f"ended: {progress.ended}")
        return
    outcome = f"score {last.score:.4f}" if last.score is not None else f"failed: {last.failure}"
    best = f"best {progress.best.score:.4f} at {progress.best.latency_ms:.3f} ms" if progress.best else "no best yet"
    turned = f"{progress.over_budget} of {progress.proposed} proposals over budget"
    turned += f", {progress.screened} networks screened" if progress.screened else ""
    this = f"{progress.scored:4d}  {last.label:12s}  {last.latency_ms:.3f} ms  {outcome}  {last.seconds:.0f} s"
    _say(f"{this}  | {best}; {turned}")


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar with the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


@contextmanager
def _build_watch() -> Iterator[Callable[[BuildProgress], None]]:
    with _bar() as bar:
        task = bar.add_task("", total=None)
        yield lambda progress: bar.update(task, total=progress.total, completed=progress.done, description=progress.key)


@contextmanager
def _supernet_watch() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on a terminal; elsewhere, such as in the log of a night, a line a minute."""
    with _bar() as bar:
        task, said = bar.add_task("", total=None), time.monotonic()

        def show(progress: TrainingProgress) -> None:
            nonlocal said
            losses = f"loss {progress.largest:.2f} largest, {progress.smallest:.2f} smallest"
            bar.update(task, total=progress.steps, completed=progress.done, description=losses)
            if not sys.stderr.isatty() and time.monotonic() - said > _LOG_EVERY_S:
                _say(f"step {progress.done} of {progress.steps}: {losses}")
                said = time.monotonic()

        yield show


@contextmanager
def _data_watch() -> Iterator[Callable[[str, int, int], None]]:
    with _bar() as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, total=total, completed=done, description=what)


def _result_json(result: SearchResult) -> dict[str, Any]:
    winner = result.winner
    return {
        "results": str(result.path),
        "winner": _candidate_json(winner) if winner else None,
        "front": [_candidate_json(candidate) for candidate in result.front],
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "latency_ms": round(candidate.latency_ms, 6),
        "score": candidate.score,
        "architecture": candidate.architecture.to_dict(),
    }


def _print_result(result: SearchResult) -> None:
    from rich.table import Table

    from nas.report.words import screening_values, summary

    for line in summary(result):
        _print(line)
    shown = Table("network", "ms", *result.run.screens, "score", "blocks", box=None)
    for candidate in sorted([*result.front, *result.references], key=lambda c: c.latency_ms):
        values = (f"{candidate.latency_ms:.3f}", *screening_values(result, candidate), f"{candidate.score:.4f}")
        shown.add_row(candidate.label, *values, candidate.architecture.summary)
    _print_table(shown)
