"""`nas validate`: how far latencies and scores can be trusted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options
from nas.cli.live import search_watch
from nas.cli.next_steps import say_next
from nas.cli.status import watching
from nas.cli.terminal import end_like_ctrl_c, print_data, print_json, print_table, say
from nas.errors import InputError, finishing

if TYPE_CHECKING:
    from nas.validate import Validation

__all__ = ["print_validation", "validate"]

_FORETELLS = "accuracy-table"
_PANEL_NETWORKS = 24  # random networks that the members of a panel are compared on


def validate(
    data: options.SearchData = None,
    proxy: Annotated[
        str,
        typer.Option(
            help="What to validate: one proxy, or A,B, each by itself (in nas search, A would screen for B). The "
            "searches use the first one that takes images."
        ),
    ] = "accuracy-table",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxies or the data; may be repeated.", show_default=False),
    ] = None,
    effort: options.Effort = None,
    supernet: options.Supernet = None,
    table: options.Table = "iphone13",
    space: options.Space = "iformer",
    seeds: Annotated[int, typer.Option(help="Scores of each network; the first is that of the searches.")] = 3,
    rows: Annotated[
        Path | None, typer.Option(help="Further published networks, in the form of .points.csv.", show_default=False)
    ] = None,
    band_networks: Annotated[
        int,
        typer.Option(
            min=0,
            help="Random networks of 0.95 to 1.20 ms, scored once each: do widths explain the scores? 0 for none.",
        ),
    ] = 24,
    budgets: Annotated[str, typer.Option(help="Budgets in ms of one search each, or none.")] = "0.60,0.85,1.10,1.60",
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates of each search.", show_default=False)] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="End each search after this long.", show_default="10m without --trials")
    ] = None,
    survey: Annotated[
        int, typer.Option(min=0, help="Networks that the accuracy table evaluates; 0 for none.")
    ] = 20_000,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/validation"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say how far latencies and scores can be trusted, by published figures; leaves a page and a JSON document.

    Example: nas validate

    Example: nas validate --proxy supernet,zero-cost --data photos/ --supernet photos.supernet.safetensors
    """
    from nas.accuracy import AccuracyTable
    from nas.networks import Architecture, SearchSpace
    from nas.proxies import Proxy, build_proxies
    from nas.report import write_validation
    from nas.validate import Request, Validation, accuracy_part, published_points, read_budgets
    from nas.validate.accuracy import AccuracyPart
    from nas.validate.agreement import NEAR_MS
    from nas.validate.run import run_validation
    from nas.validate.widths import draw_networks

    end_like_ctrl_c()
    if "," in proxy:
        say(f"proxies: {proxy.replace(',', ', ')}; each is validated by itself, none screens for another")
    latency_table, table_path = options.find_table(table)
    points, further = published_points(table_path, rows)
    source, option = options.read_data(data, option)
    asked = proxy.split(",")
    settings = options.read_settings(option, effort=effort, supernet=supernet)
    table_name = settings.pop("accuracy_table", "iformer") if _FORETELLS in asked else "iformer"
    # An accuracy table has seen the published rows, so it does not score them like other proxies: each is left out.
    scoring = [name for name in asked if name != _FORETELLS]
    if not scoring and (data is not None or settings):
        what = "--data" if data is not None else f"--option {next(iter(settings))}"
        raise InputError(f"{what} is for proxies that score images, such as --proxy supernet: name one")
    request = Request(
        space=SearchSpace.find(space),
        table=latency_table,
        points=tuple(points),
        further=tuple(further),
        proxies=tuple(scoring),
        seeds=tuple(range(seeds)),
        band_networks=band_networks,
        budgets_ms=read_budgets(budgets) if scoring else (),
        trials=trials,
        time_limit_s=options.read_seconds(time_limit) if time_limit else None if trials else 600.0,
        names={
            "space": space,
            "table": table_path.name.removesuffix(".json"),
            "data": data or ("synthetic" if scoring else "none"),
        },
        command=options.command_line(),
    )

    band: tuple[Architecture, ...] = ()
    if "+" in proxy:
        band = tuple(draw_networks(request.space, request.latency_ms, NEAR_MS, _PANEL_NETWORKS).values())

    def build(seed: int) -> dict[str, Proxy]:
        if not scoring:
            return {}
        with watching() as watch:
            return build_proxies(
                ",".join(scoring), data=source or "synthetic", seed=seed, options=settings, progress=watch, band=band
            )

    def foretell() -> AccuracyPart:
        accuracies, path = AccuracyTable.find(table_name)
        name = path.name.removesuffix(".json")
        with watching() as watch:
            return accuracy_part(
                request,
                accuracies,
                name=name,
                networks=survey,
                on_progress=lambda done, total: watch("evaluating networks", done, total),
            )

    refused = (out / "validation.json").exists() and not resume

    def write_page() -> None:
        if (out / "validation.json").exists() and not refused:
            write_validation(Validation.load(out), out / "validation.html")

    with finishing(write_page), search_watch() as watch:
        try:
            validation = run_validation(
                request,
                build,
                out=out,
                foretell=foretell if _FORETELLS in asked else None,
                resume=resume,
                say=say,
                on_search=watch,
            )
        except KeyboardInterrupt:
            if (out / "validation.json").exists():
                print_validation(Validation.load(out), as_json=as_json)
                say(f"stopped; go on with: nas validate --resume --out {shlex.quote(str(out))} and the same options")
            raise
    print_validation(validation, as_json=as_json)
    say(f"written to {out / 'validation.json'} and {out / 'validation.html'}")
    if not as_json:
        say_next([(["show", str(out)], "this again")], page=out / "validation.html")


def print_validation(validation: Validation, *, as_json: bool) -> None:
    """Print a validation in words and tables, or as JSON."""
    from nas.report import validation_sections

    if as_json:
        print_json(validation.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    for section in validation_sections(validation):
        print_data("")
        print_data(section.title)
        for note in section.notes:
            print_data(f"  {note}")
        if section.rows:
            print_table(section.header, section.rows)
