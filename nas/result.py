"""What a search leaves behind: candidates, the run they belong to, and the results folder that holds both.

::

    results/RUN/
      run.json             what was asked, with which versions, seed, table and data; written first
      candidates.jsonl     one finished candidate a line, appended and flushed as it comes
      screened.jsonl       one screening a line, in the same way (only with several proxies)
      study.journal        Optuna's own record of the search (absent with --storage)
      weights/ID.safetensors   weights of the best candidate so far and of the references, from their proxy training
      winner.json          the winner's architecture                    -+
      winner.safetensors   and its weights                               | written at the end, and again by
      front.csv            the undominated candidates                    | every --resume
      pareto.html, report.md                                            -+
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from nas.architecture import Architecture
from nas.errors import InputError
from nas.files import Record, append_record, digest_of, drop_half_line, read_records, write_beside
from nas.operations import count
from nas.pareto import undominated

if TYPE_CHECKING:
    from nas.model import Network

__all__ = [
    "CIRCUMSTANCES",
    "Candidate",
    "ResultsFolder",
    "Run",
    "Screening",
    "SearchResult",
    "SpaceUsed",
    "Spending",
    "TableUsed",
    "score_of",
]

# Settings of a proxy that may change when a run goes on elsewhere.
CIRCUMSTANCES = ("device", "threads", "torch", "precision")


class SpaceUsed(Record):
    """Which space was searched: its name, a digest of its content, and how many networks it has."""

    name: str
    digest: str
    networks: int


class TableUsed(Record):
    """Which table gave the latencies: its name, a digest of its content, and how far its numbers go."""

    name: str
    digest: str
    origin: str
    trust: str = ""


class Run(Record):
    """What a search was asked to do; with it the search can be repeated.

    Attributes:
        command: the command line, or how the library was called.
        started: date and time, ISO 8601, UTC.
        versions: of this package, Python and the libraries that shape the result.
        space: the search space.
        table: the latency table.
        budget_ms: upper limit of the predicted latency.
        confidence: share of networks whose interval must end inside the budget; None where the prediction must.
        proxy: name and settings of the proxy that decides, data included; with several proxies `screens` has the same
            of those that screen, in their order, and `screen` how many networks these score for each one passed on.
        seed: of the sampler, the data and the training.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    command: str
    started: str
    versions: dict[str, str]
    space: SpaceUsed
    table: TableUsed
    budget_ms: float
    confidence: float | None = None
    proxy: dict[str, Any]
    seed: int

    def differences(self, other: Run) -> list[str]:
        """What would make a continued search another search, as `setting (value, not value)`."""
        mine, theirs = self._identity(), other._identity()
        return [
            f"{name} ({mine.get(name)}, not {theirs.get(name)})"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]

    @property
    def screens(self) -> list[str]:
        """Names of the proxies that screen, cheapest first."""
        return [settings["name"] for settings in self.proxy.get("screens", ())]

    @property
    def digest(self) -> str:
        """Equal for runs that may go on with each other."""
        return digest_of(json.dumps(self._identity(), sort_keys=True))

    def _identity(self) -> dict[str, Any]:
        """The settings that decide what is searched; where and how fast it runs may change."""
        proxies = {"proxy": {name: value for name, value in self.proxy.items() if name != "screens"}}
        proxies |= {f"screen {number}": own for number, own in enumerate(self.proxy.get("screens", ()), start=1)}
        own: dict[str, Any] = {
            "space": self.space.digest,
            "table": self.table.digest,
            "budget_ms": self.budget_ms,
            "seed": self.seed,
        }
        if self.confidence is not None:
            own["confidence"] = self.confidence
        for proxy, settings in proxies.items():
            own |= {f"{proxy} {name}": value for name, value in settings.items() if name not in CIRCUMSTANCES}
        return own


class Candidate(Record):
    """A network that the search looked at, with its predicted latency and its score or the reason why it has none.

    Attributes:
        kind: `searched` by the sampler, or a known `reference` scored for comparison.
        name: of the reference.
        trial: number of the Optuna trial.
        latency_ms: predicted by the table, with the interval from `low_ms` to `high_ms`.
        score: by the proxy, higher is better; None for a failed candidate.
        failure: why there is no score.
        seconds: time spent on the score.
        details: what else the proxy tells.
    """

    id: str
    kind: Literal["searched", "reference"]
    name: str | None = None
    trial: int | None = None
    latency_ms: float
    low_ms: float
    high_ms: float
    score: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    architecture: Architecture

    @property
    def label(self) -> str:
        """The name of a reference, the id of any other network."""
        return self.name or self.id


class Screening(Record):
    """What a proxy that screens said about a network; it has no part in the front.

    Attributes:
        proxy: its name.
        kind: as of a candidate; only the `searched` ones compete to be passed on.
        trial: number of the Optuna trial.
        round: whose best is passed on, counted from 0 for each proxy; None for a reference.
        value: higher is better, on the proxy's own scale; None where it failed.
        failure: why there is no value.
        seconds: time spent on it.
        details: what else the proxy tells.
    """

    id: str
    proxy: str
    kind: Literal["searched", "reference"]
    trial: int | None = None
    round: int | None = None
    value: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    architecture: Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a search spent on one of its proxies, references left out: `networks` scored or failed in `seconds`."""

    proxy: str
    networks: int
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """A finished, interrupted or running search, as read from its folder.

    Attributes:
        path: the results folder.
        run: what was asked.
        candidates: everything finished so far, in order.
    """

    path: Path
    run: Run
    candidates: tuple[Candidate, ...]

    @classmethod
    def load(cls, path: Path) -> SearchResult:
        """Read a results folder.

        Raises:
            InputError: not a results folder, or a broken file in it.
        """
        if not (path / "run.json").is_file():
            raise InputError(f"{path}: not a results folder (it has no run.json)")
        try:
            run = Run.model_validate_json((path / "run.json").read_bytes())
        except ValidationError as error:
            raise InputError.from_validation(str(path / "run.json"), error) from error
        return cls(path=path, run=run, candidates=tuple(read_records(path / "candidates.jsonl", Candidate)))

    @cached_property
    def screenings(self) -> tuple[Screening, ...]:
        """What the proxies that screen said, in order.

        Raises:
            InputError: a broken file.
        """
        return tuple(read_records(self.path / "screened.jsonl", Screening))

    @cached_property
    def screened(self) -> dict[str, dict[str, float]]:
        """Value by proxy that screens, by network id."""
        values: dict[str, dict[str, float]] = {}
        for screening in self.screenings:
            if screening.value is not None:
                values.setdefault(screening.id, {})[screening.proxy] = screening.value
        return values

    @cached_property
    def spending(self) -> tuple[Spending, ...]:
        """What each proxy took, those that screen first, the one that decides last."""

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
        """The known networks that have a score."""
        return tuple(c for c in self.candidates if c.kind == "reference" and c.score is not None)

    @property
    def winner(self) -> Candidate | None:
        """The best searched candidate inside the budget, of equals the faster; None before the first score."""
        return self.best_under(self.run.budget_ms)

    def best_under(self, budget_ms: float) -> Candidate | None:
        """The best searched candidate of at most `budget_ms`."""
        inside = [c for c in self.scored if c.latency_ms <= budget_ms]
        return max(inside, key=lambda c: (score_of(c), -c.latency_ms), default=None)

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """The searched candidates that no other beats in both latency and score, fastest first."""
        return tuple(undominated(self.scored, latency=lambda c: c.latency_ms, score=score_of))

    def build_winner(self) -> Network:
        """The winner as a torch network with the weights of its proxy training, for as many classes as these have.

        Raises:
            InputError: the run has no winner yet, or the weights of the winner are not in the folder.
        """
        from nas.model import load_model

        if self.winner is None:
            raise InputError(f"{self.path}: the run has no winner yet")
        weights = _weights_file(self.path, self.winner)
        if not weights.exists():
            raise InputError(f"{weights}: not there; get the architecture with nas front, and export that instead")
        return load_model(_trained(self.winner), weights)

    def front_csv(self) -> str:
        """The front as comma-separated values, one network a row."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "latency_ms", "low_ms", "high_ms", "score", "params", "macs", "network"])
        for c in self.front:
            counts = count(c.architecture)
            latencies = (f"{value:.4f}" for value in (c.latency_ms, c.low_ms, c.high_ms))
            writer.writerow(
                [c.id, *latencies, f"{score_of(c):.4f}", counts.params, counts.macs, c.architecture.summary]
            )
        return text.getvalue()


class ResultsFolder:
    """The results folder of a running search: what is finished is on disk before the search goes on.

    Args:
        path: the folder; made where it does not exist.
        run: what is asked.
        resume: go on with what the folder holds.
    Raises:
        InputError: the folder holds a run and `resume` is not set, or holds none or another and it is, or cannot be
            written.
    """

    def __init__(self, path: Path, run: Run, *, resume: bool) -> None:
        self.path = path
        begun = (path / "run.json").exists()
        if begun and not resume:
            raise InputError(f"{path} holds a run already: go on with it (--resume), or choose another --out")
        if resume and not begun:
            raise InputError(f"{path} holds no run to go on with: leave --resume out to begin one")
        try:
            (path / "weights").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        if begun:
            different = SearchResult.load(path).run.differences(run)
            if different:
                raise InputError(
                    f"{path} was begun with another {', '.join(different)}: repeat its options (run.json has them), "
                    "or choose another --out"
                )
        else:
            write_beside(path / "run.json", run.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
        for journal in ("candidates.jsonl", "screened.jsonl", "study.journal"):
            drop_half_line(path / journal)

    def load(self) -> SearchResult:
        """Everything finished so far."""
        return SearchResult.load(self.path)

    def add_screening(self, screening: Screening) -> None:
        """Keep a finished screening."""
        append_record(self.path / "screened.jsonl", screening)

    def add(self, candidate: Candidate, weights: Mapping[str, Any] | None) -> SearchResult:
        """Keep a finished candidate; its weights are kept while it is the best inside the budget, or a reference.

        Args:
            candidate: scored or failed.
            weights: tensors by parameter name, or None where the proxy has none.
        Returns:
            Everything finished so far.
        """
        if weights is not None:
            from safetensors.torch import save

            # The form that nas.model.save_weights gives its files.
            origin = f"proxy training in {self.path.name}"
            metadata = {"architecture": _trained(candidate).to_json(), "origin": origin}
            write_beside(_weights_file(self.path, candidate), save(dict(weights), metadata=metadata))
        append_record(self.path / "candidates.jsonl", candidate)
        result = self.load()
        # A reference may still become the winner, when the sampler finds it by itself.
        kept = {_weights_file(self.path, c) for c in (result.winner, *result.references) if c}
        for other in set(self.path.glob("weights/*.safetensors")) - kept:
            other.unlink()
        return result

    def finish(self) -> SearchResult:
        """Write the winner's files and the front."""
        result = self.load()
        write_beside(self.path / "front.csv", result.front_csv().encode())
        if result.winner:
            write_beside(self.path / "winner.json", result.winner.architecture.to_json().encode())
            weights = _weights_file(self.path, result.winner)
            if weights.exists():
                write_beside(self.path / "winner.safetensors", weights.read_bytes())
            else:
                (self.path / "winner.safetensors").unlink(missing_ok=True)
        return result


def _weights_file(folder: Path, candidate: Candidate) -> Path:
    return folder / "weights" / f"{candidate.id}.safetensors"


def _trained(candidate: Candidate) -> Architecture:
    """The network that the weights belong to: the proxy's data have classes of their own."""
    return candidate.architecture.at(num_classes=int(candidate.details.get("classes", 0)) or None)


def score_of(candidate: Candidate) -> float:
    """The score of a candidate that has one."""
    assert candidate.score is not None
    return candidate.score
