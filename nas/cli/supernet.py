"""`nas supernet`: train a supernet, and list those that are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options
from nas.cli.next_steps import say_next
from nas.cli.status import doing, watching
from nas.cli.terminal import end_like_ctrl_c, print_data, print_json, print_table, say
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.training import TrainingProgress

__all__ = ["app", "supernet_watch"]

app = typer.Typer(help="Supernets: one network that scores thousands.", no_args_is_help=True)


@app.command("train")
def supernet_train(
    space: options.Space = "iformer",
    data: options.Data = "synthetic",
    option: options.DataOptions = None,
    images: Annotated[
        int, typer.Option(min=1, help="Images that each network of a step sees at most, with repetition.")
    ] = 64_000,
    until: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="End when the held-out cross-entropy of the largest network is this many nats below that of guessing; "
            "0 for all --images.",
        ),
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step, on each GPU.")] = 64,
    resolution: Annotated[int, typer.Option(help="Height and width of the images, a multiple of 32.")] = 64,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Train only networks of this latency, a fraction of the work.", show_default=False),
    ] = None,
    table: options.Table = "iphone13",
    init: Annotated[
        Path | None,
        typer.Option(help="Begin with the weights of an iFormer (safetensors or torch file).", show_default=False),
    ] = None,
    weights_key: options.WeightsKey = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Learn this network's labels instead, of 1000 classes: efficientnet-lite0 or efficientnet-lite2.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights, networks and images.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="SPACE.supernet.safetensors")] = None,
) -> None:
    """Train one network for a whole space; the same command goes on where a training was stopped.

    Example: nas supernet train --space tiny --images 2000

    Example: nas supernet train --data photos/ --budget-ms 1.1

    Several GPUs: torchrun --nproc-per-node 4 --no-python nas supernet train --data photos/
    """
    from nas.data import load_images
    from nas.lock import beside, owned, refuse_if_owned
    from nas.networks import SearchSpace
    from nas.search import check_budget
    from nas.training import Limit, SupernetRecipe, Teacher, train_supernet

    end_like_ctrl_c()
    source, others = options.read_data(data, option)
    if others:
        raise InputError(f"--option {others[0]}: nas supernet train takes image, label and skip_broken, of the data")
    search_space = SearchSpace.find(space)
    path = out or Path(f"{Path(space).stem}.supernet.safetensors")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a supernet is a .safetensors file")
    if resolution < 32 or resolution % 32:
        raise InputError(f"--resolution must be a multiple of 32, got {resolution}")
    is_first = os.environ.get("RANK", "0") == "0"  # Under torchrun only the first process writes and prints.
    if is_first:
        refuse_if_owned(path, beside(path))  # before images are read
    if weights_key and not init:
        raise InputError("--weights-key goes with --init FILE")
    limit = None
    if budget_ms is not None:
        latency_table, table_path = options.find_table(table)
        check_budget(search_space, latency_table, budget_ms)
        name = table_path.name.removesuffix(".json")
        limit = Limit(
            admits=lambda network: latency_table.latency_ms(network) <= budget_ms,
            words=f"at most {budget_ms:g} ms under {name} ({latency_table.digest()})",
        )
    labeller = Teacher(teacher) if teacher else None
    with watching() as watch:
        image_set = load_images(source or data, resolution=resolution, seed=seed, progress=watch)
        if labeller:
            image_set = labeller.labelled(image_set, progress=watch)
    recipe = SupernetRecipe(images=images, batch_size=batch_size, until=until or None)
    if labeller:
        recipe = recipe.model_copy(update={"label_smoothing": 0.0})  # soft already, and what is scored
    with owned(path, beside(path)) if is_first else nullcontext(), supernet_watch() as watch_training:
        train_supernet(
            search_space,
            image_set,
            path,
            recipe=recipe,
            seed=seed,
            init=init,
            weights_key=weights_key,
            limit=limit,
            on_progress=watch_training,
        )
    if is_first:
        print_data(str(path))
        given = {"--space": space, "--data": data, "--table": table, "--proxy": "supernet", "--supernet": path}
        given |= {"--budget-ms": budget_ms} if budget_ms else {}
        words = [str(word) for pair in given.items() for word in pair]
        words += [word for text in option or [] for word in ("--option", text)]
        say_next([(["search", *words], "score networks with it")])


@app.command("list")
def supernet_list(as_json: options.Json = False) -> None:
    """List the supernets that searches with --data have trained and kept; newest first.

    A search on the same images finds its own; --supernet takes any as a file.

    --json: {"supernets": [{"supernet" (its file), "space" (a name, or null if the space is not here), "data", "classes"
    (their number), "resolution", "seed", "images" (seen at most by each network)}]}; of a file that is broken
    {"supernet", "error"}.

    Example: nas supernet list
    """
    from pydantic import ValidationError

    from nas import catalog
    from nas.networks import SearchSpace
    from nas.training import kept_supernets

    spaces = {
        space.digest: name
        for name, _, space in catalog.loaded("search_spaces", ".toml", SearchSpace.load)
        if not isinstance(space, InputError)
    }
    rows: list[tuple[str, ...]] = []
    documents: list[dict[str, Any]] = []
    for path, origin in kept_supernets():
        if isinstance(origin, InputError):
            rows.append((str(path), "-", "-", str(origin)))
            documents.append({"supernet": str(path), "error": str(origin)})
            continue
        name = None
        with suppress(ValidationError):  # a space of another version
            name = spaces.get(SearchSpace.model_validate_json(origin.space).digest)
        rows.append((str(path), name or "not here", str(origin.seed), origin.data))
        facts = {"classes": origin.num_classes, "resolution": origin.resolution, "seed": origin.seed}
        documents.append(
            {"supernet": str(path), "space": name, "data": origin.data, **facts, "images": origin.recipe.images}
        )
    if as_json:
        print_json({"supernets": documents})
    elif rows:
        print_table(("supernet", "space", "seed", "images"), rows)
    else:
        say("no supernet is kept yet: nas search --budget-ms 1.1 --data IMAGES trains one")


@contextmanager
def supernet_watch() -> Iterator[Callable[[TrainingProgress], None]]:
    """The steps and losses of a training in the status line."""
    with watching("training the supernet: the first step"):

        def show(progress: TrainingProgress) -> None:
            losses = f"loss {progress.largest:.2f} largest, {progress.smallest:.2f} smallest"
            if progress.learnt_nats is not None:
                losses += f"; {progress.learnt_nats:.2f} nats learnt"
            doing(f"training the supernet, step: {losses}", progress.done, progress.steps)

        yield show
