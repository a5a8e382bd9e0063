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
      pareto.html, report.md                                            -+
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.data import Contents
from nas.errors import InputError
from nas.files import append_record, drop_half_line, read_record, read_records, unwritten, write_beside
from nas.lock import LOCK_NAME, refuse_if_owned
from nas.networks import Architecture, count
from nas.search.pareto import undominated
from nas.search.records import Candidate, Run, Screening, Spending

if TYPE_CHECKING:
    from nas.networks.modules import Network

__all__ = [
    "ResultsFolder",
    "SearchResult",
    "check_folder",
    "order_of",
    "rank_of",
    "score_of",
    "weights_as_file",
]


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
    def load(cls, path: Path) -> SearchResult:
        """Read a results folder.

        Raises:
            InputError: it is not a results folder, or a file in it is broken.
        """
        if not (path / "run.json").is_file():
            raise InputError(f"{path}: not a results folder (it has no run.json)")
        run = read_record(path / "run.json", Run)
        return cls(path=path, run=run, candidates=tuple(read_records(path / "candidates.jsonl", Candidate)))

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
        """The known networks that have a score."""
        return tuple(c for c in self.candidates if c.kind == "reference" and c.score is not None)

    @cached_property
    def winner(self) -> Candidate | None:
        """The best searched candidate inside the largest budget. None before the first score."""
        return self.winner_under(self.run.budget_ms)

    def winner_under(self, budget_ms: float) -> Candidate | None:
        """The best searched candidate of at most `budget_ms`; of equal scores the faster. None if there is none.

        Where the best candidates were compared once more, the best of that comparison.
        """
        values = self.settled_values
        compared = [c for c in self._allowed if c.id in values and c.latency_ms <= budget_ms]
        if compared:
            return max(compared, key=lambda c: (values[c.id], -c.latency_ms))
        return self.best_under(budget_ms)

    def best_under(self, budget_ms: float) -> Candidate | None:
        """The searched candidate of at most `budget_ms` with the best score."""
        inside = [c for c in self._allowed if c.latency_ms <= budget_ms]
        return max(inside, key=_order, default=None)

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """The Pareto front: searched candidates that no other dominates in latency and rank, fastest first."""
        return tuple(undominated(self._allowed, latency=lambda c: c.latency_ms, score=rank_of))

    @cached_property
    def _allowed(self) -> tuple[Candidate, ...]:
        """The scored candidates inside the limits of the run."""
        return tuple(candidate for candidate in self.scored if self.run.allows(candidate))

    def build_winner(self) -> Network:
        """The winner as a torch network with the weights of its proxy training, and their number of classes.

        Raises:
            InputError: the run has no winner yet, or the folder lacks the weights of the winner.
        """
        from nas.networks.modules import load_model

        if self.winner is None:
            raise InputError(f"{self.path}: the run has no winner yet")
        weights = _weights_file(self.path, self.winner.id)
        if not weights.exists():
            raise InputError(f"{weights}: not there; get the architecture with nas front, and export that instead")
        return load_model(_trained(self.winner), weights)

    def front_csv(self) -> str:
        """The front as CSV, one network per row."""
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
    """The results folder of a running search. Every result is on disk before the search continues.

    The search owns the folder meanwhile (`nas.lock.owned`).

    Args:
        path: the folder; it is made if it does not exist.
        run: what is asked.
        resume: continue the run in the folder; its budgets and limits may be others.
    Raises:
        InputError: the folder has a run and `resume` is not set; or `resume` is set and the folder has no run or
            another run; or the folder cannot be written.
        NasError: the disk is full.

    Attributes:
        path: the folder.
        before: the run that is continued, as it was asked before. None for a new run.
    """

    def __init__(self, path: Path, run: Run, *, resume: bool) -> None:
        self.path, self.before = path, None
        begun = _is_begun(path, resume=resume)
        try:
            (path / "weights").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(path, error) from error
        if begun:
            self.before = before = SearchResult.load(path).run
            _refuse_images(path, before, before.image_differences(run))
            if different := before.differences(run):
                raise InputError(
                    f"{path} was begun with another {', '.join(different)}: repeat its options (run.json has them), "
                    "or choose another --out"
                )
            run = before.continued_by(run)
        if run != self.before:
            write_beside(path / "run.json", run.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
        for journal in ("candidates.jsonl", "screened.jsonl", "settled.jsonl", "study.journal"):
            drop_half_line(path / journal)
        self._candidates = list(SearchResult.load(path).candidates)
        self._run, self._result = run, SearchResult(path=path, run=run, candidates=tuple(self._candidates))
        self._drop_weights()

    @property
    def result(self) -> SearchResult:
        """Everything that is finished so far, from memory."""
        if len(self._result.candidates) != len(self._candidates):
            self._result = SearchResult(path=self.path, run=self._run, candidates=tuple(self._candidates))
        return self._result

    def load(self) -> SearchResult:
        """Everything that is finished so far, from the disk."""
        return SearchResult.load(self.path)

    def add_screening(self, screening: Screening) -> None:
        """Keep a finished screening."""
        append_record(self.path / "screened.jsonl", screening)

    def replace_screenings(self, screenings: Sequence[Screening]) -> None:
        """Keep these screenings, all at once, in place of any that there are."""
        lines = (screening.model_dump_json(exclude_none=True).encode() + b"\n" for screening in screenings)
        write_beside(self.path / "screened.jsonl", b"".join(lines))

    def add_settled(self, settled: Screening, candidate: Candidate, weights: Mapping[str, Any] | None) -> None:
        """Keep a result of the last comparison, and the weights in place of those of the candidate.

        Args:
            settled: the result.
            candidate: the candidate that was compared.
            weights: tensors by parameter name, or None if there are none.
        """
        if weights is not None:
            write_beside(_weights_file(self.path, candidate.id), weights_as_file(candidate, weights, self.path.name))
        append_record(self.path / "settled.jsonl", settled)

    def add(self, candidate: Candidate, weights: Mapping[str, Any] | bytes | None) -> None:
        """Keep a finished candidate. Weights are kept for the best candidate of every budget and for references.

        Args:
            candidate: scored or failed.
            weights: tensors by parameter name, or the content of a file with them; None if the proxy has none.
        """
        if weights is not None:
            content = weights if isinstance(weights, bytes) else weights_as_file(candidate, weights, self.path.name)
            write_beside(_weights_file(self.path, candidate.id), content)
        append_record(self.path / "candidates.jsonl", candidate)
        self._candidates.append(candidate)
        if weights is not None:
            self._drop_weights()

    def replace_all(self, candidates: Sequence[Candidate]) -> None:
        """Keep these candidates, all at once, in place of any that there are."""
        lines = (candidate.model_dump_json(exclude_none=True).encode() + b"\n" for candidate in candidates)
        write_beside(self.path / "candidates.jsonl", b"".join(lines))
        self._candidates = list(candidates)
        self._result = SearchResult(path=self.path, run=self._run, candidates=tuple(candidates))

    def _drop_weights(self) -> None:
        """Remove the weights of candidates that are neither references nor the best of a budget."""
        result = self.result
        best = [result.winner_under(budget_ms) for budget_ms in self._run.budgets]
        best += [result.best_under(budget_ms) for budget_ms in self._run.budgets]
        # A reference may still become the winner, if the sampler proposes it.
        kept = {candidate.id for candidate in (*best, *result.references) if candidate} | set(result.settled)
        if self._run.whole_front:
            kept |= {candidate.id for candidate in result.front}
        # Those of a network that is not among the candidates belong to a worker that has not told yet.
        known = {candidate.id for candidate in result.candidates}
        for other in self.path.glob("weights/*.safetensors"):
            if other.stem in known - kept:
                other.unlink(missing_ok=True)

    def finish(self) -> SearchResult:
        """Write the winner's files and the front."""
        result = self.load()
        write_beside(self.path / "front.csv", result.front_csv().encode())
        if result.winner:
            write_beside(self.path / "winner.json", result.winner.architecture.to_json().encode())
            weights = _weights_file(self.path, result.winner.id)
            if weights.exists():
                write_beside(self.path / "winner.safetensors", weights.read_bytes())
            else:
                (self.path / "winner.safetensors").unlink(missing_ok=True)
        return result


def check_folder(path: Path, *, resume: bool, contents: Contents | None = None) -> None:
    """Refuse a folder that a search cannot use, before a long preparation.

    Args:
        path: the folder.
        resume: go on with the run in it.
        contents: the images that the search will use, if they are known.
    Raises:
        InputError: it holds a run, and `resume` is not set; it holds none, and `resume` is set; it was begun with other
            images; or another process works on it.
    """
    refuse_if_owned(path, path / LOCK_NAME)
    if _is_begun(path, resume=resume) and contents is not None:
        before = SearchResult.load(path).run
        _refuse_images(path, before, before.contents.difference(contents) if before.contents else "")


def _refuse_images(path: Path, before: Run, differences: str) -> None:
    if differences:
        raise InputError(
            f"{path}: the images differ from those that it was begun with ({before.proxy.get('data')}): {differences}; "
            "give the same images, in whatever folder, or choose another --out"
        )


def _is_begun(path: Path, *, resume: bool) -> bool:
    """Whether a folder holds a run, if that is what `resume` says."""
    begun = (path / "run.json").exists()
    if begun and not resume:
        raise InputError(f"{path} holds a run already: go on with it (--resume), or choose another --out")
    if resume and not begun:
        raise InputError(f"{path} holds no run to go on with: leave --resume out to begin one")
    return begun


def _weights_file(folder: Path, network_id: str) -> Path:
    return folder / "weights" / f"{network_id}.safetensors"


def weights_as_file(candidate: Candidate, weights: Mapping[str, Any], run: str) -> bytes:
    """Weights in the form of a file of nas.networks.modules.save_weights.

    Args:
        candidate: whose weights they are.
        weights: tensors by parameter name.
        run: name of the search.
    """
    from safetensors.torch import save

    metadata = {"architecture": _trained(candidate).to_json(), "origin": f"proxy training in {run}"}
    return save(dict(weights), metadata=metadata)


def _trained(candidate: Candidate) -> Architecture:
    """The network that the weights belong to. Its number of classes is that of the proxy's data."""
    return candidate.architecture.at(num_classes=int(candidate.details.get("classes", 0)) or None)


def score_of(candidate: Candidate) -> float:
    """The score of a candidate that has one."""
    assert candidate.score is not None
    return candidate.score


def rank_of(candidate: Candidate) -> float:
    """What decides between scored candidates."""
    return order_of(score_of(candidate), candidate.details)


def _order(candidate: Candidate) -> tuple[float, float]:
    """What decides between scored candidates; of equals the faster one."""
    return rank_of(candidate), -candidate.latency_ms


def order_of(score: float, details: Mapping[str, float | int | str]) -> float:
    """What decides between scores: the lower end of an interval where a score has one, else the score.

    The best of many predictions looks better than it is, most of all where little is known. By the lower end, a network
    that is unlike everything known has to promise more.
    """
    return float(details.get("low", score))
