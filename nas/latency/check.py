"""How far a latency table can be trusted: whole networks are timed and compared with the sums of their layers.

The networks are random networks of the search space, and the reference networks of the space. They are timed in several
rounds, each round in another order, with the reference layer in between. So a change in the device's speed affects all
networks alike. The correction is learned from some of the random networks. All other networks are the held-out set,
which shows how good the correction is.
"""

from __future__ import annotations

import datetime
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError
from scipy.optimize import nnls

from nas.devices import Device
from nas.errors import InputError, NasError
from nas.files import Record, write_beside
from nas.latency.drift import interleaved, latest_levels
from nas.latency.entries import Agreement, Check, CheckRow, Correction, ReferenceTime
from nas.latency.measure import Progress, ignore_progress, measured_provenance
from nas.latency.table import LatencyTable, drift, weights_mb
from nas.latency.timing import TimingProtocol, read_run
from nas.networks import Architecture, SearchSpace, count, random_choice

__all__ = ["NETWORK_PROTOCOL", "check_networks", "check_table", "learn_correction"]

# A network takes as long as tens of layers, so it gets fewer runs. The rounds make up for that.
NETWORK_PROTOCOL = TimingProtocol(duration_ms=500.0, minimum_runs=12, maximum_runs=200, visits=1)

_SEED = 2025  # random seed of the networks; a search draws other networks


class _Times(Record):
    """The times of an unfinished check, kept beside the table so that the check can be resumed.

    Attributes:
        table: digest of the table that is checked.
        protocol: how the times were taken.
        visits: architecture id -> one pair for each round: the fastest steady run in ms, and the time of the reference
            layer around it in ms.
    """

    table: str
    protocol: str
    visits: dict[str, list[tuple[float, float]]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    name: str
    role: Literal["held-out", "calibration"]
    architecture: Architecture


def check_table(
    table: LatencyTable,
    path: Path,
    space: SearchSpace,
    device: Device,
    *,
    networks: int = 40,
    calibrate: int = 0,
    rounds: int = 5,
    protocol: TimingProtocol = NETWORK_PROTOCOL,
    on_progress: Callable[[Progress], None] = ignore_progress,
) -> LatencyTable:
    """Time whole networks on the device, compare them with the table, and store the result in the table.

    A check that was stopped is resumed. For this, a file beside the table keeps the times until the check is done.

    Args:
        table: the table to check.
        path: the table's file, rewritten at the end.
        space: source of the random networks. Its references are checked too if they lie inside the space.
        device: the device that the table was measured on.
        networks: number of random networks to hold out.
        calibrate: number of further random networks to learn a correction from. 0 leaves the sums as they are.
        rounds: how often each network is timed.
        protocol: how a network is timed in one round.
        on_progress: called before the first network and after every network.
    Returns:
        The table with its check, and with a correction if `calibrate` is not 0.
    Raises:
        InputError: the table was measured on another device, or was not measured at all.
        MissingLatencyError: the table lacks a layer of the space.
        DeviceError: the device is gone.
    """
    _require_same_device(table, device, path)
    if networks < 4 or rounds < 2 or (calibrate and calibrate < 3):
        raise InputError(
            f"a check takes at least 4 networks and 2 rounds, and a correction 3 networks; got {networks} networks, "
            f"{rounds} rounds and {calibrate} to calibrate"
        )
    plain = table.model_copy(update={"correction": None, "check": None})
    chosen = _networks(plain, space, networks=networks, calibrate=calibrate)
    times = _time_rounds(plain, path, chosen, space, device, rounds=rounds, protocol=protocol, on_progress=on_progress)
    usual = _reference(plain, path).latency_ms
    visits = {each.architecture.id: times[each.architecture.id][:rounds] for each in chosen}
    repetitions = {key: [ms / drift(reference, usual) for ms, reference in each] for key, each in visits.items()}
    # Other programs only slow a run down, so the fastest round counts. Its time is divided by the drift in that round.
    fastest = {key: min(each) for key, each in visits.items()}
    measured = {key: ms / drift(reference, usual) for key, (ms, reference) in fastest.items()}
    learnt = [each.architecture for each in chosen if each.role == "calibration"]
    correction = learn_correction(plain, {a: measured[a.id] for a in learnt}) if learnt else None
    corrected = plain.model_copy(update={"correction": correction})
    rows = tuple(
        CheckRow(
            name=each.name,
            id=each.architecture.id,
            role=each.role,
            measured_ms=round(measured[each.architecture.id], 6),
            raw_ms=fastest[each.architecture.id][0],
            predicted_ms=round(corrected.latency_ms(each.architecture), 6),
            sum_ms=round(plain.latency_ms(each.architecture), 6),
            spread=round(_spread(repetitions[each.architecture.id]), 6),
        )
        for each in chosen
    )
    held_out = [row for row in rows if row.role == "held-out"]
    truth = [row.measured_ms for row in held_out]
    check = Check(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        protocol=f"{rounds} rounds in random order, each network {protocol.describe()}; the fastest round counts",
        agreement=Agreement.of([row.predicted_ms for row in held_out], truth),
        uncorrected=Agreement.of([row.sum_ms for row in held_out], truth),
        noise_floor=round(statistics.mean(row.spread for row in held_out), 6),
        half_noise=round(statistics.mean(_spread(_halves(visits[row.id])) for row in held_out), 6),
        drift=round(statistics.median(reference for each in visits.values() for _, reference in each) / usual, 4),
        baselines=_baselines([each.architecture for each in chosen if each.role == "held-out"], truth),
        rows=rows,
    )
    checked = corrected.model_copy(update={"check": check})
    checked.save(path)
    _journal(path).unlink(missing_ok=True)
    return checked


def check_networks(table: LatencyTable, space: SearchSpace) -> dict[str, Architecture]:
    """The networks of a table's check by id, drawn again from the space."""
    assert table.check is not None
    held_out = sum(row.role == "held-out" for row in table.check.rows)
    references = sum(architecture in space for architecture in space.references.values())
    chosen = _networks(table, space, networks=held_out - references, calibrate=len(table.check.rows) - held_out)
    return {each.architecture.id: each.architecture for each in chosen}


def learn_correction(table: LatencyTable, measured_ms: Mapping[Architecture, float]) -> Correction:
    """Fit the correction that brings the sums closest to the measured times.

    The correction has two coefficients: a factor on the sum of the layers, and a time per MB of weights. The method is
    least squares on relative errors, with both coefficients at least 0. The fixed cost of a call is not corrected.

    Args:
        table: a table without correction.
        measured_ms: end-to-end times of at least three networks.
    """
    rows = []
    for network, time_ms in measured_ms.items():
        weights = sum(weights_mb(layer, table.provenance.precision) for layer in network.layers())
        rows.append([(table.latency_ms(network) - table.call_ms) / time_ms, weights / time_ms])
    targets = np.array([1 - table.call_ms / time_ms for time_ms in measured_ms.values()])
    (scale, weights_ms_per_mb), _ = nnls(np.array(rows), targets)
    if not 0.2 < scale < 5:
        raise NasError(
            f"whole networks take {scale:.2g} times the sum of their layers: no correction can mend that; "
            "build the table again, and look at what else runs on the device"
        )
    return Correction(
        scale=round(float(scale), 6), weights_ms_per_mb=round(float(weights_ms_per_mb), 6), networks=len(rows)
    )


def _networks(table: LatencyTable, space: SearchSpace, *, networks: int, calibrate: int) -> list[_Network]:
    """Choose the networks of a check, all different.

    First come the references inside the space and the random held-out networks, then the calibration networks. A
    network with a layer that failed on the device cannot be predicted and is skipped.
    """
    chosen: dict[str, _Network] = {}
    references = {name: network for name, network in space.references.items() if network in space}
    for name, network in references.items():
        chosen[network.id] = _Network(name=name, role="held-out", architecture=network)
    wanted = len(chosen) + networks + calibrate
    choose = random_choice(seed=_SEED)
    for network in (space.sample(choose) for _ in range(20 * wanted)):
        role: Literal["held-out", "calibration"] = "held-out" if len(chosen) < wanted - calibrate else "calibration"
        if len(chosen) < wanted and math.isfinite(table.latency_ms(network)):
            chosen.setdefault(network.id, _Network(name=network.id, role=role, architecture=network))
    if len(chosen) < wanted:
        raise InputError(
            f"the space has too few networks for a check of {networks} and {calibrate} to calibrate; ask for fewer"
        )
    return [each for each in chosen.values() if math.isfinite(table.latency_ms(each.architecture))]


def _time_rounds(
    table: LatencyTable,
    path: Path,
    chosen: Sequence[_Network],
    space: SearchSpace,
    device: Device,
    *,
    rounds: int,
    protocol: TimingProtocol,
    on_progress: Callable[[Progress], None],
) -> dict[str, list[tuple[float, float]]]:
    """Time every network once a round, and save each time at once. The times of an interrupted check are reused."""
    state = _resumed(_journal(path), _Times(table=table.digest(), protocol=protocol.describe()))
    visits = {each.architecture.id: state.visits.setdefault(each.architecture.id, []) for each in chosen}
    key = _reference(table, path).key
    layer = next((layer for layer in space.layers if layer.key == key), None)
    if layer is None:
        raise InputError(f"{path} was measured for another space: its reference layer {key} is not in this one")
    reference, levels = TimingProtocol().job(layer), latest_levels()

    def tell(key: str) -> None:
        done = sum(min(len(each), rounds) for each in visits.values())
        on_progress(Progress(done=done, total=rounds * len(visits), key=key))

    tell("")
    for number in range(rounds):
        todo = [each.architecture for each in chosen if len(visits[each.architecture.id]) <= number]
        random.Random(f"{_SEED} {number}").shuffle(todo)
        for visit in interleaved(device, todo, lambda architecture: [protocol.job(architecture)], reference, levels):
            (run,), architecture = visit.runs, visit.subject
            if run.failure is not None:
                raise NasError(f"{architecture.key} ({architecture.summary}) could not be timed: {run.failure}")
            visits[architecture.id].append((read_run(run).minimum_ms, visit.reference_ms))
            write_beside(_journal(path), state.model_dump_json().encode())
            tell(f"round {number + 1}: {architecture.summary}")
    return visits


def _resumed(journal: Path, fresh: _Times) -> _Times:
    """The times of an interrupted check of the same table by the same protocol, otherwise `fresh`."""
    try:
        state = _Times.model_validate_json(journal.read_bytes())
    except (OSError, ValidationError):
        return fresh
    return state if (state.table, state.protocol) == (fresh.table, fresh.protocol) else fresh


def _reference(table: LatencyTable, path: Path) -> ReferenceTime:
    if table.reference is None:
        raise InputError(f"{path} was not measured layer by layer ({table.provenance.label}): nothing to check it on")
    return table.reference


def _halves(visits: Sequence[tuple[float, float]]) -> list[float]:
    """The fastest time of the even rounds, and the fastest time of the odd rounds."""
    return [min(visits[start::2])[0] for start in (0, 1)]


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.check")


def _require_same_device(table: LatencyTable, device: Device, path: Path) -> None:
    _reference(table, path)
    here = measured_provenance(device.describe(), table.provenance.protocol)
    if difference := table.provenance.difference(here):
        raise InputError(f"{path} was measured on another device ({difference}): check it there")


def _spread(times: Sequence[float]) -> float:
    """Mean relative difference between two repetitions, over all pairs."""
    return statistics.mean(2 * abs(a - b) / (a + b) for a, b in combinations(times, 2))


def _baselines(networks: Sequence[Architecture], times: Sequence[float]) -> dict[str, Agreement]:
    """How well two baselines predict the times: a line in MACs, and a line in parameters.

    Each line is fitted on every second network and evaluated on the others.
    """
    counts = [count(network) for network in networks]
    sizes = {"macs": [each.macs for each in counts], "params": [each.params for each in counts]}
    found = {}
    for name, values in sizes.items():
        known = [[value / time, 1 / time] for value, time in zip(values[::2], times[::2], strict=True)]
        (slope, constant), *_ = np.linalg.lstsq(np.array(known), np.ones(len(known)), rcond=None)
        predicted = [max(float(slope * value + constant), 1e-9) for value in values[1::2]]
        found[name] = Agreement.of(predicted, list(times[1::2]))
    return found
