"""The results folder of a search that runs: every result is on disk before the search continues; result.py reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.data import Contents
from nas.errors import InputError
from nas.files import append_record, drop_half_line, unwritten, write_beside
from nas.lock import LOCK_NAME, refuse_if_owned
from nas.search.records import Candidate, Run, Screening
from nas.search.result import SearchResult, trained_network, weights_file

__all__ = ["ResultsFolder", "check_folder", "check_run", "default_out", "weights_as_file"]


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
            self.before = check_run(path, run)
            run = self.before.continued_by(run)
        if run != self.before:
            write_beside(path / "run.json", run.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
        for records in ("candidates.jsonl", "screened.jsonl", "settled.jsonl"):  # others may write to the study
            drop_half_line(path / records)
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
        """Everything that is finished so far; what lies beside the candidates is read anew."""
        # The candidates are those on disk: a second time they would take as much memory as the whole search.
        return SearchResult(path=self.path, run=self._run, candidates=tuple(self._candidates))

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
            write_beside(weights_file(self.path, candidate.id), weights_as_file(candidate, weights, self.path.name))
        append_record(self.path / "settled.jsonl", settled)

    def add(self, candidate: Candidate, weights: Mapping[str, Any] | bytes | None) -> None:
        """Keep a finished candidate. Weights are kept for the best candidate of every budget and for references.

        Args:
            candidate: scored or failed.
            weights: tensors by parameter name, or the content of a file with them; None if the proxy has none.
        """
        if weights is not None:
            content = weights if isinstance(weights, bytes) else weights_as_file(candidate, weights, self.path.name)
            write_beside(weights_file(self.path, candidate.id), content)
        append_record(self.path / "candidates.jsonl", candidate)
        candidate.belong_to(self.path)
        self._candidates.append(candidate)
        if weights_file(self.path, candidate.id).exists():  # Another worker may have put it there.
            self._drop_weights()

    def replace_all(self, candidates: Sequence[Candidate]) -> None:
        """Keep these candidates, all at once, in place of any that there are."""
        lines = (candidate.model_dump_json(exclude_none=True).encode() + b"\n" for candidate in candidates)
        write_beside(self.path / "candidates.jsonl", b"".join(lines))
        self._candidates = list(candidates)
        for candidate in candidates:
            candidate.belong_to(self.path)
        self._result = SearchResult(path=self.path, run=self._run, candidates=tuple(candidates))

    def _drop_weights(self) -> None:
        """Remove the weights of candidates that are neither references nor the best of a budget, now or earlier."""
        result = self.result
        budgets = (*self._run.budgets, *self._run.earlier_budgets_ms)
        best = [result.winner_under(budget_ms) for budget_ms in budgets]
        best += [result.best_under(budget_ms) for budget_ms in budgets]
        # A reference may still become the winner, if the sampler proposes it.
        references = [candidate for candidate in result.candidates if candidate.kind == "reference"]
        kept = {candidate.id for candidate in (*best, *references) if candidate} | set(result.settled)
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
            weights = weights_file(self.path, result.winner.id)
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


def check_run(path: Path, run: Run) -> Run:
    """The run in a folder, if it can be continued by another.

    Raises:
        InputError: it was begun with other images, or something else that counts differs.
    """
    before = SearchResult.load(path).run
    _refuse_images(path, before, before.image_differences(run))
    if different := before.differences(run):
        raise InputError(
            f"{path} was begun with another {', '.join(different)}: repeat its options (run.json has them), "
            "or choose another --out"
        )
    return before


def default_out(space: str, budgets_ms: Sequence[float] | None, *, resume: bool) -> Path:
    """The folder results/SPACE-BUDGETms, with a number if it is taken; with `resume`, the last such folder.

    Examples:
        >>> default_out("iformer", (0.6, 1.1), resume=False), default_out("my/x.toml", None, resume=False)
        (PosixPath('results/iformer-0.6-1.1ms'), PosixPath('results/x-front'))
    """
    what = "front" if budgets_ms is None else "-".join(f"{budget_ms:g}" for budget_ms in budgets_ms) + "ms"
    first = Path("results") / f"{Path(space).stem}-{what}"
    path, number, last = first, 1, first
    while (path / "run.json").exists():
        number, last = number + 1, path
        path = first.with_name(f"{first.name}-{number}")
    return last if resume else path


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


def weights_as_file(candidate: Candidate, weights: Mapping[str, Any], run: str) -> bytes:
    """Weights in the form of a file of nas.networks.modules.save_weights.

    Args:
        candidate: whose weights they are.
        weights: tensors by parameter name.
        run: name of the search.
    """
    from safetensors.torch import save

    metadata = {"architecture": trained_network(candidate).to_json(), "origin": f"proxy training in {run}"}
    return save(dict(weights), metadata=metadata)
