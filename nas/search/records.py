"""The records of a search: what was asked (run.json), and a line for each candidate and each screening."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from nas.data import Contents, Normalisation
from nas.files import Milliseconds, Record, digest_of
from nas.latency import LatencyTable
from nas.masking import masked
from nas.networks import MustFit, SearchSpace
from nas.proxies import CIRCUMSTANCES, NO_IMAGES, Proxy, differing, identity
from nas.search.budget import Budgets
from nas.search.candidates import Candidate, Kind, Screening

__all__ = [
    "Candidate",
    "Kind",
    "Run",
    "Screening",
    "SpaceUsed",
    "Spending",
    "TableUsed",
    "run_of",
    "versions",
]

_OTHER_PROXIES = ("screens", "settles")  # settings of further proxies among those of the one that decides


class SpaceUsed(Record):
    """The searched space: its name, a digest, its number of networks, and the tool that they all fit, if any."""

    name: str
    digest: str
    networks: int
    must_fit: MustFit | None = None


class TableUsed(Record):
    """The table of the latencies: its name, a digest of its content, its source, and how far it can be trusted."""

    name: str
    digest: str
    origin: str
    trust: str = ""

    @classmethod
    def of(cls, table: LatencyTable, *, name: str) -> Self:
        """The record of a table.

        Args:
            table: the table.
            name: the name by which it was found.
        """
        return cls(name=name, digest=table.digest(), origin=table.provenance.label, trust=table.trust)


def _with_names(proxy: dict[str, Any]) -> dict[str, Any]:
    """The settings of the proxies, each of which must have its name."""
    screens = proxy.get("screens", [])
    if not isinstance(screens, list | tuple):
        raise ValueError("screens must be a list of proxies")
    each = {"": proxy, **{f"screens[{number}]": own for number, own in enumerate(screens)}}
    each |= {"settles": proxy["settles"]} if "settles" in proxy else {}
    for where, own in each.items():
        if not isinstance(own, Mapping) or not isinstance(own.get("name"), str):
            raise ValueError(f"{where}{' ' if where else ''}lacks the name of a proxy")
    return proxy


class Run(Record):
    """What a search was asked to do. It is enough to repeat the search.

    Attributes:
        command: the command line, or how the library was called.
        started: date and time, ISO 8601, UTC.
        versions: of this package, of Python, and of the libraries that affect the result.
        space: the search space.
        table: the latency table.
        further_tables: those that a limit or an objective is about, now or before a resume changed them. Empty in a run
            of an earlier version.
        budget_ms: upper limit of the predicted latency; of several budgets the largest.
        budgets_ms: all budgets, ascending; empty if there is one.
        whole_front: whether the search looked for the whole front up to the budget.
        earlier_budgets_ms: those that it was asked for before a resume changed them; what they found is kept.
        limits: further upper limits of a network, by the name of what they limit.
        objectives: names of what the front shows besides latency and score; lower is better.
        band_ms: the budget that the run was begun with: panels compare their members on networks just below it.
        confidence: coverage of the interval that must end inside the budget. None if the budget limits the prediction.
        proxy: name and settings of the proxy that decides, data included. With several proxies, `screens` has the
            names and settings of the screening proxies in order, and `screen` the number of networks of which one goes
            on.
        seed: random seed of the sampler, the data and the training.
        storage: URL of the Optuna storage, without passwords. None for a journal in the folder.
        sampler: what proposes the networks. None in a run of an earlier version, or without a study.
        contents: all images of the source that the proxies use. None if they use none, in a run of an earlier version,
            or if there is no source.
        normalisation: of the images that the winner's weights are trained on. None under the same conditions.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    command: str
    started: str
    versions: dict[str, str]
    space: SpaceUsed
    table: TableUsed
    further_tables: tuple[TableUsed, ...] = ()
    budget_ms: Milliseconds
    budgets_ms: tuple[Milliseconds, ...] = ()
    whole_front: bool = False
    earlier_budgets_ms: tuple[Milliseconds, ...] = ()
    limits: dict[str, Milliseconds] = Field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    band_ms: Milliseconds | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    proxy: Annotated[dict[str, Any], AfterValidator(_with_names)]
    seed: int
    storage: str | None = None
    sampler: str | None = None
    contents: Contents | None = None
    normalisation: Normalisation | None = None

    def differences(self, other: Run) -> list[str]:
        """Settings that differ so that a run cannot be resumed, as `setting (value, not value)`; images left out."""
        mine, theirs = self._parts(), other._parts()
        before = {table.name: table.digest for table in self.further_tables}
        tables = [
            f"table {table.name} ({before[table.name]}, not {table.digest})"
            for table in other.further_tables
            if before.get(table.name, table.digest) != table.digest
        ]
        return tables + [
            f"{part} {name} ({mine.get(part, {}).get(name)}, not {theirs.get(part, {}).get(name)})".lstrip()
            for part in {**mine, **theirs}
            for name in differing(mine.get(part, {}), theirs.get(part, {}))
            if name != "fingerprint"
        ]

    def image_differences(self, other: Run) -> str:
        """What differs in the images of another run, in words; empty if nothing does, or if a run does not say."""
        mine, theirs = self._parts(), other._parts()
        shared = mine.keys() & theirs.keys()
        known = [(mine[part].get("fingerprint"), theirs[part].get("fingerprint")) for part in shared]
        unknown = (None, NO_IMAGES)
        if all(one == other or one in unknown or other in unknown for one, other in known):
            return ""
        words = self.contents.difference(other.contents) if self.contents and other.contents else ""
        return words or "other content"

    def continued_by(self, other: Run) -> Run:
        """This run, with what a resume may change: command, budgets, limits, objectives, sampler, storage."""
        names = ("command", "budget_ms", "budgets_ms", "whole_front", "limits", "objectives", "sampler", "storage")
        earlier = {*self.earlier_budgets_ms, *self.budgets} - set(other.budgets)
        tables = {table.name: table for table in (*self.further_tables, *other.further_tables)}
        changes = {name: getattr(other, name) for name in names}
        changes |= {"earlier_budgets_ms": tuple(sorted(earlier)), "further_tables": tuple(tables.values())}
        return self.model_copy(update=changes)

    def limited_ms(self, candidate: Candidate) -> float:
        """The latency of a candidate that a budget limits: the upper end of its interval with a confidence."""
        return candidate.latency_ms if self.confidence is None else candidate.high_ms

    def allows(self, candidate: Candidate) -> bool:
        """Whether a candidate is inside the limits; the budget is left out."""
        return self.keeps_limits(candidate.quantities)

    def keeps_limits(self, quantities: Mapping[str, float]) -> bool:
        """Whether quantities of a candidate are inside the limits; one that is not known is."""
        return all(quantities.get(name, 0.0) <= limit for name, limit in self.limits.items())

    @property
    def screens(self) -> list[str]:
        """Names of the screening proxies, cheapest first."""
        return [settings["name"] for settings in self.proxy.get("screens", ())]

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets in ms, ascending."""
        return self.budgets_ms or (self.budget_ms,)

    @property
    def digest(self) -> str:
        """Equal for runs that can resume each other. Budgets and limits do not matter: they change no score."""
        return digest_of(json.dumps([identity(settings) for settings in self._parts().values()], sort_keys=True))

    @property
    def earlier_digests(self) -> tuple[str, str]:
        """What earlier versions have in place of `digest`: those with one budget, and those that knew files by name."""
        parts = {**self._parts(), "": {**self._parts()[""], "budget_ms": self.budget_ms}}
        new = (*CIRCUMSTANCES, "fingerprint", "train_images", "val_images")
        own = {
            f"{part} {name}".lstrip(): value
            for part, settings in parts.items()
            for name, value in settings.items()
            if not part or name.rpartition(" ")[2] not in new
        }
        one_budget = digest_of(json.dumps([identity(settings) for settings in parts.values()], sort_keys=True))
        return one_budget, digest_of(json.dumps(own, sort_keys=True))

    def _parts(self) -> dict[str, dict[str, Any]]:
        """The settings of the search itself, and of each of its proxies. Where and how fast it runs does not matter."""
        own: dict[str, Any] = {"space": self.space.digest, "table": self.table.digest, "seed": self.seed}
        if self.space.must_fit is not None:
            own["must-fit"] = self.space.must_fit
        if self.confidence is not None:
            own["confidence"] = self.confidence
        parts = {"": own, "proxy": {key: value for key, value in self.proxy.items() if key not in _OTHER_PROXIES}}
        parts |= {f"screen {number}": screen for number, screen in enumerate(self.proxy.get("screens", ()), start=1)}
        if settles := self.proxy.get("settles"):
            parts["settling"] = settles
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Time that one proxy of a search took: `networks` scored or failed in `seconds`, references not counted."""

    proxy: str
    networks: int
    seconds: float


def versions(*libraries: str) -> dict[str, str]:
    """The versions of Python and of some installed distributions, by name."""
    found = {"python": platform.python_version()}
    for name in libraries:
        with suppress(importlib.metadata.PackageNotFoundError):  # of an extra
            found[name] = importlib.metadata.version(name)
    return found


def run_of(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    *,
    further_tables: Mapping[str, LatencyTable] | None = None,
    budgets: Budgets,
    limits: Mapping[str, float] | None = None,
    objectives: Sequence[str] = (),
    seed: int,
    names: Mapping[str, str],
    command: Sequence[str],
    screens: Mapping[str, Proxy] | None = None,
    screen: int | None = None,
    settles: tuple[str, Proxy] | None = None,
    storage: str | None = None,
    sampler: str | None = None,
) -> Run:
    """The record of what is asked.

    Args:
        space: the networks to choose from.
        table: predicts the latency.
        proxy: decides.
        further_tables: those that a limit or an objective is about, by name.
        budgets: upper limits of the predicted latency.
        limits: further upper limits, by the name of what they limit.
        objectives: names of what the front shows besides latency and score.
        seed: random seed.
        names: names of `space`, `table` and `proxy`.
        command: the command line; that of this process if it is empty.
        screens: screening proxies by name, in order.
        screen: networks of which one goes on to the next proxy.
        settles: name and proxy of the last comparison, between the best candidates.
        storage: an Optuna storage URL. Its passwords are left out, as they are from `command`.
        sampler: what proposes the networks of a study.
    """
    settings = {"name": names["proxy"], **proxy.settings()}
    further = [{"name": name, **cheap.settings()} for name, cheap in (screens or {}).items()]
    if further:
        settings |= {"screens": list(further)} | ({"screen": screen} if screen is not None else {})
    if settles:
        name, proxy = settles
        own_settings = {key: value for key, value in proxy.settings().items() if key not in CIRCUMSTANCES}
        further.append({"name": name, **own_settings})
        settings |= {"settles": further[-1]}
    # All proxies use the images of one source, so what they are is kept once; the proxy that decides comes first.
    contents, normalisations = (
        [own.pop(name, None) for own in (settings, *further)] for name in ("contents", "normalisation")
    )
    return Run(
        command=shlex.join(masked(argument, alone=True) for argument in command or sys.argv),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions("nas", "torch", "optuna", "datasets", "numpy"),
        space=SpaceUsed(name=names["space"], digest=space.digest, networks=space.count(), must_fit=space.must_fit),
        table=TableUsed.of(table, name=names["table"]),
        further_tables=tuple(TableUsed.of(own, name=name) for name, own in (further_tables or {}).items()),
        budget_ms=budgets.largest_ms,
        budgets_ms=budgets.limits_ms if len(budgets.limits_ms) > 1 else (),
        whole_front=budgets.whole_front,
        limits=dict(limits or {}),
        objectives=tuple(objectives),
        band_ms=budgets.largest_ms,
        confidence=budgets.confidence,
        proxy=settings,
        seed=seed,
        storage=masked(storage, alone=True) if storage else None,
        sampler=sampler,
        contents=next((Contents.model_validate(one) for one in contents if one is not None), None),
        normalisation=next((Normalisation.model_validate(one) for one in normalisations if one is not None), None),
    )
