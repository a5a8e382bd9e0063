"""The results folder of a search: written while the search runs, and read at any time.

::

    results/RUN/
      nas.lock             which process works on it (nas/lock.py); gone at its end
      run.json             what was asked, with which versions, seed, table and data; written first
      candidates.jsonl     one finished candidate a line, appended and flushed as it comes
      screened.jsonl       one screening a line, in the same way (only with several proxies)
      settled.jsonl        the best candidates, compared once more by a dearer proxy (only if a run settles)
      study.journal        Optuna's own record of the search (absent with --storage)
      weights/ID.safetensors   weights of the best candidate so far and of the references, from their proxy training
      winner.json          the winner's architecture                    -+
      winner.safetensors   and its weights                               | written at the end, and again by
      front.csv            the undominated candidates                    | every --resume
      report.html, report.md                                            -+
"""

from __future__ import annotations

import csv
import html
import importlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nas.errors import InputError, visible
from nas.files import read_record, read_records
from nas.networks import count
from nas.search.candidates import trained_network, weights_file
from nas.search.limits import QUANTITIES
from nas.search.pareto import undominated
from nas.search.records import Candidate, Run, Screening, Spending

if TYPE_CHECKING:
    import pandas

    from nas.networks.modules import Network

__all__ = [
    "SearchResult",
    "order_of",
    "rank_of",
    "score_of",
    "trained_network",
    "unit_of",
    "weights_file",
]

_COUNTED = ("params", "macs")  # of every network of front.csv
_SUFFIXES = {"B": "_bytes", "ms": "_ms", "": ""}  # of a column, by unit


@dataclass(frozen=True)
class SearchResult:
    """A finished, interrupted or running search, read from its folder.

    Attributes:
        path: the results folder.
        run: what was asked.
        candidates: all finished candidates, in order.
    """

    path: Path
    run: Run
    candidates: tuple[Candidate, ...]

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a results folder.

        Raises:
            InputError: it is not a results folder, or a file in it is broken.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            is_training = (path / "training.json").exists()
            hint = "; it is a training, and training.html is its page" if is_training else ""
            raise InputError(f"{path}: not a results folder (it has no run.json){hint}")
        run = read_record(path / "run.json", Run)
        return cls._with(path, run, read_records(path / "candidates.jsonl", Candidate))

    @classmethod
    def load_best(cls, path: Path, budget_ms: float) -> Self:
        """As `load`, with no other candidates than those that `winner_under(budget_ms)` chooses from.

        Takes a tenth of the time of `load`, as the lines of all others are not checked: 0.2 s for 10,000 candidates.
        """
        try:
            run = read_record(path / "run.json", Run)
            limited = "latency_ms" if run.confidence is None else "high_ms"
            settled = {json.loads(line)["id"] for line in _lines(path / "settled.jsonl")}
            chosen: dict[str, bytes] = {}
            best: tuple[float, float] | None = None
            for line in _lines(path / "candidates.jsonl"):
                raw = json.loads(line)
                is_scored = raw["kind"] == "searched" and raw.get("score") is not None
                if not is_scored or raw[limited] > budget_ms or not run.keeps_limits(raw.get("quantities", {})):
                    continue
                order = order_of(raw["score"], raw.get("details", {})), -raw["latency_ms"]
                if raw["id"] in settled:
                    chosen[raw["id"]] = line
                if best is None or order > best:
                    best, chosen[""] = order, line
            return cls._with(path, run, map(Candidate.model_validate_json, chosen.values()))
        except (InputError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return cls.load(path)  # which says what is wrong, or does without half a last line

    @classmethod
    def _with(cls, path: Path, run: Run, candidates: Iterable[Candidate]) -> Self:
        found = tuple(candidates)
        for one in found:
            one.belong_to(path)
        return cls(path=path, run=run, candidates=found)

    @cached_property
    def screenings(self) -> tuple[Screening, ...]:
        """The results of the screening proxies, in order.

        Raises:
            InputError: the file is broken.
        """
        return tuple(read_records(self.path / "screened.jsonl", Screening))

    @cached_property
    def screened(self) -> dict[str, dict[str, float]]:
        """Values by network id, then by screening proxy."""
        values: dict[str, dict[str, float]] = {}
        for screening in self.screenings:
            if screening.value is not None:
                values.setdefault(screening.id, {})[screening.proxy] = screening.value
        return values

    @cached_property
    def settled(self) -> dict[str, Screening]:
        """The last comparison, between the best candidates and a reference: results by network id; empty if none.

        Raises:
            InputError: the file is broken.
        """
        return {one.id: one for one in read_records(self.path / "settled.jsonl", Screening)}

    @property
    def settled_values(self) -> dict[str, float]:
        """The values of the last comparison by network id, failures left out."""
        return {one.id: one.value for one in self.settled.values() if one.value is not None}

    @cached_property
    def spending(self) -> tuple[Spending, ...]:
        """The time of each proxy: screening proxies first, the deciding proxy last."""

        def spent(proxy: str, scores: Iterable[Screening | Candidate]) -> Spending:
            seconds = [score.seconds for score in scores if score.kind == "searched"]
            return Spending(proxy=proxy, networks=len(seconds), seconds=sum(seconds))

        screens = [spent(name, [s for s in self.screenings if s.proxy == name]) for name in self.run.screens]
        return (*screens, spent(self.run.proxy["name"], self.candidates))

    @cached_property
    def scored(self) -> tuple[Candidate, ...]:
        """The searched candidates that have a score."""
        return tuple(c for c in self.candidates if c.kind == "searched" and c.score is not None)

    @cached_property
    def references(self) -> tuple[Candidate, ...]:
        """The known networks that have a score. After a resume with lower budgets, those inside the largest of them."""
        scored = tuple(c for c in self.candidates if c.kind == "reference" and c.score is not None)
        largest_ms = self.run.budget_ms
        if largest_ms >= max(self.run.earlier_budgets_ms, default=0.0):
            return scored  # one that is published as faster than it is predicted may be over the budget
        return tuple(c for c in scored if self.run.limited_ms(c) <= largest_ms)

    @cached_property
    def winners(self) -> dict[float, Candidate | None]:
        """The best searched candidate inside each budget of the run, by budget in ms, ascending."""
        return {budget_ms: self.winner_under(budget_ms) for budget_ms in self.run.budgets}

    @cached_property
    def winner(self) -> Candidate | None:
        """The best searched candidate inside the largest budget. None before the first score."""
        return self.winner_under(self.run.budget_ms)

    def winner_under(self, budget_ms: float) -> Candidate | None:
        """The best searched candidate of at most `budget_ms`; of equal scores the faster. None if there is none.

        Where the best candidates were compared once more, the best of that comparison.
        """
        best, values = self.best_under(budget_ms), self.settled_values
        # A comparison for another budget may have left out the best of this one.
        if best is None or best.id not in self.settled:
            return best
        compared = [c for c in self._inside(budget_ms) if c.id in values]
        return max(compared, key=lambda c: (values[c.id], -c.latency_ms), default=best)

    def best_under(self, budget_ms: float) -> Candidate | None:
        """The searched candidate of at most `budget_ms` with the best score."""
        return max(self._inside(budget_ms), key=_order, default=None)

    def _inside(self, budget_ms: float) -> list[Candidate]:
        return [c for c in self._allowed if self.run.limited_ms(c) <= budget_ms]

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """The Pareto front up to the largest budget, fastest first: searched candidates that no other dominates.

        What counts is latency, rank, and the objectives of the run. A resume with lower budgets shortens the front;
        `winner_under` still knows what is slower.
        """
        costs = [partial(_quantity, name=name) for name in self.run.objectives]
        inside = self._inside(self.run.budget_ms)
        return tuple(undominated(inside, latency=lambda c: c.latency_ms, score=rank_of, costs=costs))

    @cached_property
    def front_by_latency(self) -> tuple[Candidate, ...]:
        """The Pareto front in latency and rank alone, fastest first."""
        inside = self._inside(self.run.budget_ms)
        return tuple(undominated(inside, latency=lambda c: c.latency_ms, score=rank_of))

    @cached_property
    def _allowed(self) -> tuple[Candidate, ...]:
        """The scored candidates inside the limits of the run."""
        return tuple(candidate for candidate in self.scored if self.run.allows(candidate))

    def build_winner(self, budget_ms: float | None = None) -> Network:
        """The winner as a torch network with the weights of its proxy training, and their number of classes.

        Args:
            budget_ms: upper limit of its predicted latency; the largest budget of the run by default. The weights of
                the winner inside each budget of the run are kept, and those of the whole front if the run asked for it.
        Raises:
            InputError: the run has no winner yet, or the folder lacks the weights of the winner.
        """
        from nas.networks.modules import load_model

        winner = self.winner if budget_ms is None else self.winner_under(budget_ms)
        if winner is None:
            inside = "" if budget_ms is None else f" inside {budget_ms:g} ms"
            raise InputError(f"{self.path}: the run has no winner{inside} yet")
        weights = weights_file(self.path, winner.id)
        if not weights.exists():
            raise InputError(f"{weights}: not there; get the architecture with nas front, and export that instead")
        return load_model(trained_network(winner), weights)

    @property
    def settles(self) -> str:
        """Name of the proxy of the last comparison."""
        return str(self.run.proxy.get("settles", {}).get("name", "last comparison"))

    @property
    def roles(self) -> list[str]:
        """What each candidate is: `winner`, `front`, `reference`, `dominated`, `over budget` or `failed`."""
        winners = {one.id for one in self.winners.values() if one is not None}
        front = {one.id for one in self.front}

        def role(one: Candidate) -> str:
            if one.kind == "reference":
                return "reference"
            if one.score is None:
                return "failed"
            if one.id in winners:
                return "winner"
            if self.run.limited_ms(one) > self.run.budget_ms:
                return "over budget"
            return "front" if one.id in front else "dominated"

        return [role(one) for one in self.candidates]

    @cached_property
    def role_of(self) -> dict[tuple[str, str], str]:
        """The roles by kind and id of a candidate."""
        return {(one.kind, one.id): role for one, role in zip(self.candidates, self.roles, strict=True)}

    def to_dataframe(self) -> pandas.DataFrame:
        """All candidates as a pandas table, one a row.

        Columns: `id`, `name` of a reference, `kind` and `role` (`winner`, `front`, `reference` or empty), `latency_ms`,
        `low_ms` and `high_ms` in ms, `score` on the scale of the proxy, `failure`, `seconds`, `params`, `macs`, further
        quantities of the run by name, and `network` in block notation.

        Raises:
            ModuleNotFoundError: pandas is not installed; the extra `data` has it.
        """
        import pandas

        rows = []
        for c, role in zip(self.candidates, self.roles, strict=True):
            counts = count(c.architecture)
            facts: dict[str, object] = {
                "id": c.id,
                "name": c.name,
                "kind": c.kind,
                "role": role if role in ("winner", "front", "reference") else "",
            }
            facts |= {"latency_ms": c.latency_ms, "low_ms": c.low_ms, "high_ms": c.high_ms, "score": c.score}
            facts |= {"failure": c.failure, "seconds": c.seconds, **c.quantities}
            rows.append(facts | {"params": counts.params, "macs": counts.macs, "network": c.architecture.summary})
        return pandas.DataFrame(rows)

    def plot(self) -> Any:
        """Latency and score of all candidates, the front and known networks, as `nas plot` draws them.

        Returns:
            A `plotly.graph_objects.Figure`, which a notebook shows.

        Raises:
            InputError: Plotly is not installed.
        """
        # The report reads results, so its code is not known here before it is asked for.
        return importlib.import_module("nas.report.page").plot_of([self])

    def _repr_html_(self) -> str:
        """The winners and the front as a table, for notebooks."""
        winners = {one.id for one in self.winners.values() if one is not None}
        proxy, table = (html.escape(visible(text)) for text in (str(self.run.proxy["name"]), self.run.table.name))
        rows = []
        for c in self.front:
            cells = (c.label, f"{c.latency_ms:.3f}", f"{score_of(c):.4g}", c.architecture.summary)
            row = "".join(f"<td>{html.escape(visible(cell))}</td>" for cell in cells)
            rows.append(f"<tr style='font-weight:{'bold' if c.id in winners else 'normal'}'>{row}</tr>")
        head = f"<th>network</th><th>latency, ms ({table})</th><th>score ({proxy})</th><th>blocks</th>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def front_csv(self) -> str:
        """The front as CSV, one network per row. Objectives of the run besides params and macs are columns as well."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        further = [name for name in self.run.objectives if name not in _COUNTED]
        columns = [f"{name}{_SUFFIXES[unit_of(name)]}" for name in further]
        writer.writerow(["id", "latency_ms", "low_ms", "high_ms", "score", *_COUNTED, *columns, "network"])
        for c in self.front:
            counts = count(c.architecture)
            latencies = (f"{value:.4f}" for value in (c.latency_ms, c.low_ms, c.high_ms))
            others = [f"{c.quantities[name]:.10g}" if name in c.quantities else "" for name in further]
            counted = (counts.params, counts.macs)
            writer.writerow([c.id, *latencies, f"{score_of(c):.4f}", *counted, *others, c.architecture.summary])
        return text.getvalue()


def _lines(file: Path) -> Iterable[bytes]:
    """The lines of a file, none if it is not there."""
    return file.read_bytes().splitlines() if file.exists() else ()


def unit_of(quantity: str) -> str:
    """The unit of an objective or a limit by its name: `B`, `ms`, or nothing for a count."""
    return QUANTITIES[quantity].unit if quantity in QUANTITIES else "ms"  # the latency on a further table


def score_of(candidate: Candidate) -> float:
    """The score of a candidate that has one."""
    assert candidate.score is not None
    return candidate.score


def rank_of(candidate: Candidate) -> float:
    """What decides between scored candidates."""
    return order_of(score_of(candidate), candidate.details)


def _quantity(candidate: Candidate, name: str) -> float:
    """An objective of a candidate; infinite where a run that was killed just as it was resumed lacks it."""
    return candidate.quantities.get(name, math.inf)


def _order(candidate: Candidate) -> tuple[float, float]:
    """What decides between scored candidates; of equals the faster one."""
    return rank_of(candidate), -candidate.latency_ms


def order_of(score: float, details: Mapping[str, float | int | str]) -> float:
    """What decides between scores: the lower end of an interval where a score has one, else the score.

    The best of many predictions looks better than it is, most of all where little is known. By the lower end, a network
    that is unlike everything known has to promise more.
    """
    return float(details.get("low", score))
