"""`nas table`: build, check, list, show and calibrate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options
from nas.cli.next_steps import say_next
from nas.cli.status import doing, watching
from nas.cli.terminal import end_like_ctrl_c, print_data, print_json, print_table, say
from nas.errors import InputError, finishing

if TYPE_CHECKING:
    from nas.devices import Device
    from nas.latency import LatencyTable
    from nas.latency.measure import Progress

__all__ = ["app"]

app = typer.Typer(help="Latency tables: build, list and show them.", no_args_is_help=True)


@app.command("build")
def table_build(
    device: options.Device = "onnxruntime",
    space: options.Space = "iformer",
    threads: options.Threads = None,
    runner: options.Runner = None,
    option: options.Settings = None,
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
    error = options.read_fraction("--until-error", until_error) if until_error else None
    if out is not None and out.suffix != ".json":
        raise InputError(f"{out}: a table is a .json file")
    with _opened(device, threads=threads, runner=runner, settings=option) as opened:
        path = out or default_path(opened)
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _build_watch("timing layers") as watch:
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
        say(line)
    if failures := sum(isinstance(entry, Failed) for entry in built.entries.values()):
        say(f"{failures} layers failed: mend the cause, then the same command with --retry-failed")
    given = ["--device", device, "--space", space]
    given += ["--threads", str(threads)] if threads else []
    given += ["--runner", str(runner)] if runner else []
    given += [word for setting in option or [] for word in ("--option", setting)]
    print_data(str(path))
    say_next(
        [
            (["table", "check", str(path), *given, "--calibrate", "10"], "how far to trust its sums"),
            (["search", "--table", str(path), "--space", space], "the best networks on this device"),
        ]
    )


@app.command("check")
def table_check(
    table: Annotated[str, typer.Argument(help="A table name or file.", show_default=False)],
    device: Annotated[
        str | None,
        typer.Option(help="NAME or NAME://ADDRESS.", show_default="the kind that measured the table"),
    ] = None,
    space: options.Space = "iformer",
    threads: options.Threads = None,
    runner: options.Runner = None,
    option: options.Settings = None,
    networks: Annotated[int, typer.Option(min=4, help="Random networks to compare, besides the references.")] = 40,
    calibrate: Annotated[
        int, typer.Option(min=0, help="Further random networks to learn a correction from; it stays in the table.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=2, help="How often each network is timed.")] = 5,
    as_json: options.Json = False,
) -> None:
    """Time whole networks on the device of a table, and store in the table how far its sums can be trusted.

    --json: {"networks", "bias", "mean_error", "worst_error", "tau", "noise_floor", "baselines": {"macs", "params"},
    "uncorrected", "correction" or null, "drift", "rows"}; errors are fractions.

    Example: nas table check tiny.json --space tiny --calibrate 10
    """
    from nas.latency.check import check_table
    from nas.lock import beside, owned
    from nas.networks import SearchSpace

    search_space = SearchSpace.find(space)
    found, path = options.find_table(table)
    threads = threads or found.provenance.threads
    name = device or found.provenance.kind
    if name is None:
        raise InputError(f"{path} was not measured by a device of this project ({found.provenance.label})")
    with (
        owned(path, beside(path)),
        _opened(name, threads=threads, runner=runner, settings=option) as opened,
        _build_watch("timing networks") as watch,
    ):
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
        print_json(_check_json(checked))
        return
    shown = []
    for row in checked.check.rows:
        error = f"{row.predicted_ms / row.measured_ms - 1:+.1%}"
        values = (f"{row.measured_ms:.3f}", f"{row.predicted_ms:.3f}", error, f"{row.sum_ms:.3f}", f"{row.spread:.1%}")
        shown.append((row.name, row.role, *values))
    print_table(("network", "role", "measured, ms", "predicted, ms", "error", "sum of layers, ms", "spread"), shown)
    for line in checked.describe():
        print_data(line)
    say_next([(["search", "--table", str(path), "--space", space], "the best networks on this device")])


@app.command("list")
def table_list(as_json: options.Json = False) -> None:
    """List the latency tables that --table finds.

    --json: {"tables": [{"table", "file", "entries" (their number), "model" (whether it predicts layers without one),
    "source", "origin", "trust"}]}; of a file that is broken {"table", "file", "error"}.

    Example: nas table list
    """
    from nas import catalog
    from nas.latency import LatencyTable

    rows: list[tuple[str, str, str, str]] = []
    documents: list[dict[str, Any]] = []
    for name, path, table in catalog.loaded("latency_tables", ".json", LatencyTable.load):
        document: dict[str, Any] = {"table": name, "file": str(path)}
        if isinstance(table, InputError):
            rows.append((name, "-", str(table), "-"))
            documents.append(document | {"error": str(table)})
            continue
        label, trust = table.provenance.label, table.trust
        rows.append((name, str(len(table.entries) or "model"), label, trust))
        facts = {"entries": len(table.entries), "model": table.model is not None, "source": table.provenance.source}
        documents.append(document | facts | {"origin": label, "trust": trust})
    if as_json:
        print_json({"tables": documents})
    else:
        print_table(("table", "entries", "origin", "trust"), rows)


@app.command("show")
def table_show(
    table: Annotated[str, typer.Argument(help="A table name or file.")], as_json: options.Json = False
) -> None:
    """Show where a table comes from, how far it can be trusted, and its slowest layers.

    --json: {"table", "file", "provenance", "interval", "trust", "layers": {"measured", "filled", "failed"} (numbers),
    "call_ms", and "correction", "check" (as nas table check --json prints it) and "model", each or null}

    Example: nas table show iphone13
    """
    from nas.latency import Timing

    found, path = options.find_table(table)
    if as_json:
        print_json(_table_json(found, path))
        return
    print_data(str(path))
    for line in found.describe():
        print_data(line)
    timings = {key: entry for key, entry in found.entries.items() if isinstance(entry, Timing)}
    if timings:
        shown = []
        for key, timing in sorted(timings.items(), key=lambda item: -item[1].minimum_ms)[:10]:
            values = (timing.minimum_ms, timing.median_ms, timing.p90_ms, timing.maximum_ms)
            cells = ("-" if value is None else f"{value:.4f}" for value in values)
            shown.append((key, *cells, str(timing.runs)))
        print_table(("slowest layers, times in ms", "fastest", "median", "p90", "slowest", "runs"), shown)


@app.command("calibrate")
def table_calibrate(
    points: Annotated[Path, typer.Argument(help="Published end-to-end times, a .points.csv file.")],
    out: Annotated[Path, typer.Option(help="Table file to write.")],
    baselines: Annotated[
        bool,
        typer.Option(help="Let networks of other authors help: those of the .baselines.csv beside the points, if any."),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Fit the per-layer cost model of the iPhone 13 to published end-to-end times.

    --json: as nas table show --json.

    Example: nas table calibrate latency_tables/iphone13.points.csv --out iphone13.coreml.fp16.json
    """
    from nas.latency.calibrate import iphone13_table
    from nas.latency.published import baselines_beside

    table = iphone13_table(points, baselines_beside(points) if baselines else None)
    table.save(out)
    assert table.model is not None
    if as_json:
        print_json(_table_json(table, out))
    else:
        for line in table.model.describe():
            print_data(line)
    say(f"written to {out}")


@contextmanager
def _opened(device: str, *, threads: int | None, runner: Path | None, settings: list[str] | None) -> Iterator[Device]:
    """Open a device with its options. It is closed at the end, also after an error or an interruption."""
    from nas.devices import open_device

    given = options.read_settings(settings, threads=threads, runner=runner)
    end_like_ctrl_c()
    opened = open_device(device, given)
    with finishing(opened.close):
        yield opened


@contextmanager
def _build_watch(what: str) -> Iterator[Callable[[Progress], None]]:
    with watching("starting the device"):
        yield lambda progress: doing(f"{what}: {progress.key}", progress.done, progress.total)


def _table_json(table: LatencyTable, path: Path) -> dict[str, Any]:
    from nas.latency import Failed, Timing

    measured = sum(isinstance(entry, Timing) for entry in table.entries.values())
    failed = sum(isinstance(entry, Failed) for entry in table.entries.values())
    return {
        "table": path.name.removesuffix(".json"),
        "file": str(path),
        "provenance": table.provenance.model_dump(mode="json"),
        "interval": table.interval_meaning,
        "trust": table.trust,
        "layers": {"measured": measured, "filled": len(table.entries) - measured - failed, "failed": failed},
        "call_ms": table.call_ms,
        "correction": table.correction.model_dump() if table.correction else None,
        "check": _check_json(table) if table.check else None,
        "model": table.model.model_dump(mode="json") if table.model else None,
    }


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
