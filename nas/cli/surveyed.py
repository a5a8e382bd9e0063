"""`nas search` without a study: a survey by tables alone, and the search on the user's images that begins with one."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.asked import Asked
from nas.cli.results import stoppable
from nas.cli.status import watching
from nas.cli.supernet import supernet_watch
from nas.cli.terminal import say, say_candidate, say_settled
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.search import BatchProxy, SearchResult, SurveyPlan
    from nas.search.images import ScoredImages

__all__ = ["search_images", "survey_space"]

_SPACE_LINES = 3  # of the plan of a survey: those about the space and its tables
_LEAST_S = 120.0  # for scores by a supernet; with less, training one is not worth it
# What a score and a settling take, in images and steps of the supernet's training
# (results/validation: 4 and 46 s beside 3.5 s).
_SCORE_IMAGES, _SETTLE_STEPS = 1.2 * 64, 13.0


def survey_space(asked: Asked, proxy: BatchProxy, name: str, *, said: int = 0) -> SearchResult:
    """A search that trains nothing; `said` lines of its plan have been said before."""
    from nas.search import NETWORKS, plan_survey, run_survey

    asked.refuse_study()
    planned = plan_survey(
        asked.space,
        asked.table,
        proxy,
        budget_ms=asked.budgets_ms,
        confidence=asked.confidence,
        networks=asked.trials or NETWORKS,
        time_limit_s=asked.time_limit_s,
    )
    for line in (*planned.describe()[said:], f"results: {asked.out}"):
        say(line)
    with watching() as watch:
        return run_survey(
            asked.space,
            asked.table,
            proxy,
            plan=planned,
            seed=asked.seed,
            out=asked.out,
            names={**asked.names, "proxy": name},
            time_limit_s=asked.time_limit_s,
            resume=asked.resume,
            command=asked.command,
            on_progress=lambda done, total: watch("evaluating networks", done, total),
        )


def search_images(asked: Asked, supernet: Path | None) -> SearchResult:
    """A search on the user's images, with a supernet that is found or trained."""
    from nas.proxies import build_proxies
    from nas.search import BatchProxy, plan_guided, plan_survey, run_guided
    from nas.search.images import ScoredImages

    started = time.monotonic()
    asked.refuse_study()
    data = asked.data or "synthetic"
    images = ScoredImages(data, task=asked.task, seed=asked.seed)
    (predictor,) = build_proxies("accuracy-table", data=data, seed=asked.seed).values()
    assert isinstance(predictor, BatchProxy)
    survey = plan_survey(asked.space, asked.table, predictor, budget_ms=asked.budgets_ms, confidence=asked.confidence)
    for line in survey.describe()[:_SPACE_LINES]:
        say(line)
    if supernet is None:
        supernet = _supernet_of_images(asked, images, survey, started)
    if supernet is None:
        left_s = None if asked.time_limit_s is None else max(1.0, asked.time_limit_s - (time.monotonic() - started))
        fewer = replace(asked, trials=None, time_limit_s=left_s)
        return survey_space(fewer, predictor, "accuracy-table", said=_SPACE_LINES)
    with watching() as watch:
        built, settler = images.proxies(supernet, progress=watch)
    scorer = next(iter(built.values()))
    limit_s = None if asked.time_limit_s is None else max(1.0, asked.time_limit_s - (time.monotonic() - started))
    planned = plan_guided(survey, scorer, settler, trials=asked.trials, time_limit_s=limit_s)
    for line in (*planned.describe(), f"results: {asked.out}"):
        say(line)
    names = dict(zip(("scorer", "settler"), built, strict=False)) | {"foretell": "accuracy-table", **asked.names}
    with stoppable(asked.out), watching() as watch:
        return run_guided(
            asked.space,
            asked.table,
            predictor,
            scorer,
            settler,
            plan=planned,
            seed=asked.seed,
            out=asked.out,
            names=names,
            time_limit_s=limit_s,
            resume=asked.resume,
            command=asked.command,
            on_survey=lambda done, total: watch("evaluating networks", done, total),
            on_candidate=say_candidate,
            on_settled=say_settled,
        )


def _supernet_of_images(asked: Asked, scored: ScoredImages, survey: SurveyPlan, started: float) -> Path | None:
    """The supernet of the images: found, or trained now. None if there is too little time for the shortest."""
    from nas.search import check_folder, duration
    from nas.search.guided import SETTLED, scored_networks
    from nas.training import estimate_seconds, find_supernet, kept_supernet

    with watching() as watch:
        images = scored.load(watch)
    say(f"data: {images.description}")
    check_folder(asked.out, resume=asked.resume, contents=images.contents)  # before a supernet of other images
    if asked.resume:
        return _supernet_of_run(asked)
    # With a time limit, a training that sees fewer images may be all that fits in.
    recipes = scored.recipe.lengths[: None if asked.time_limit_s else 1]
    for recipe in recipes:
        if found := find_supernet(asked.space, images, recipe=recipe, seed=asked.seed):
            say(f"supernet: of these images, {found}")
            return found
    estimates = estimate_seconds(asked.space, images, recipes=recipes, seed=asked.seed)
    left_s = math.inf
    if asked.time_limit_s is not None:
        left_s = asked.time_limit_s - (time.monotonic() - started) - survey.seconds - _LEAST_S
    fitting = [(recipe, most_s) for recipe, most_s in zip(recipes, estimates, strict=True) if most_s <= left_s]
    if not fitting:
        say(
            f"supernet: its training would take about {duration(estimates[-1])}, which does not fit into "
            "--time-limit; the accuracy table alone decides, and your images are not used"
        )
        return None
    recipe, most_s = fitting[0]
    shorter = ", as --time-limit allows" if recipe is not recipes[0] else ""
    say(
        f"supernet: trained on these images now, once, at most about {duration(most_s)}; sees {recipe.images} images "
        f"at most{shorter}, fewer if its training ends sooner; kept in the cache"
    )
    step_s = most_s / recipe.steps()
    number = scored_networks(survey, asked.trials)
    steps = [
        f"survey, about {duration(survey.seconds)}",
        f"scoring of {number} networks, about {duration(number * _SCORE_IMAGES / recipe.batch_size * step_s)}",
    ]
    if asked.task == "classify":
        steps.append(f"settling of {SETTLED + 1}, about {duration((SETTLED + 1) * _SETTLE_STEPS * step_s)}")
    say(f"then: {'; '.join(steps)}")
    try:
        with supernet_watch() as watch_training:
            return kept_supernet(
                asked.space,
                images,
                recipe=recipe,
                seed=asked.seed,
                on_progress=watch_training,
                on_wait=lambda: say("another process trains this supernet: waiting for it"),
            )
    except KeyboardInterrupt:
        say("stopped; the same command goes on with the training of the supernet")
        raise


def _supernet_of_run(asked: Asked) -> Path | None:
    """The supernet that a run to go on with was begun with. None if it was begun without one.

    Raises:
        InputError: its file is gone, or is another now. Scores of two supernets cannot be compared.
    """
    from nas.files import digest
    from nas.search import SearchResult

    settings = SearchResult.load(asked.out).run.proxy
    if "supernet" not in settings:
        say("supernet: none, as in the run to go on with; the accuracy table alone decides")
        return None
    path = Path(str(settings["supernet"]))
    gone = "is gone" if not path.is_file() else "is another now" if digest(path) != settings.get("digest") else ""
    if gone:
        raise InputError(
            f"{path}: the supernet of {asked.out} {gone}, and another one's scores cannot be compared with those it "
            "has: give a copy of it (--supernet FILE), or choose another --out"
        )
    say(f"supernet: of this run, {path}")
    return path
