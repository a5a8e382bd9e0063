from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence

from nas.search.jobs import Entry
from nas.search.rungs import Rungs, is_without


def entry(number: int, value: float | None, *, rung: int = 0, latency_ms: float = 1.0, **changes: object) -> Entry:
    facts = {"kind": "searched", "name": None, "worker": "main", "state": "finished", "record": {"seconds": 1.0}}
    return Entry(
        trial=number, id=f"n{number}", rung=rung, latency_ms=latency_ms, value=value, **facts | changes,  # type: ignore[arg-type]
    )  # fmt: skip


def rungs(
    entries: Iterable[Entry], *, number: int = 2, share: int = 4, budgets_ms: Sequence[float] = (math.inf,)
) -> Rungs:
    made = Rungs(number, share=share, budgets_ms=budgets_ms)
    made.update(entries)
    return made


def promoted(state: Rungs, *, early: bool = False) -> tuple[str, int] | None:
    found = state.promoted(early=early)
    return None if found is None else (found[0].id, found[1])


def test_of_four_networks_the_best_goes_on_and_no_other() -> None:
    four = [entry(number, value) for number, value in enumerate((0.1, 0.4, 0.3, 0.2))]

    assert promoted(rungs(four[:3])) is None
    assert promoted(rungs(four)) == ("n1", 1)
    assert promoted(rungs([*four, entry(1, 0.9, rung=1)])) is None


def test_a_network_competes_with_those_of_similar_latency() -> None:
    slow = [entry(number, 0.9, latency_ms=2.0) for number in range(3)]
    fast = [entry(3 + number, 0.1 * number, latency_ms=1.0 + 0.02 * number) for number in range(4)]

    assert promoted(rungs([*slow, *fast])) == ("n6", 1)


def test_what_is_scored_on_the_next_rung_is_counted_although_better_ones_come_later() -> None:
    early = [entry(number, 0.1 * number) for number in range(4)]
    gone_on = entry(3, None, rung=1, state="running")
    later = [entry(4 + number, 0.9) for number in range(3)]

    assert promoted(rungs([*early, gone_on, *later])) is None
    assert promoted(rungs([*early, gone_on, *later, entry(7, 0.8)])) == ("n4", 1)


def test_the_highest_rung_goes_first() -> None:
    low = [entry(number, 0.1 * number) for number in range(8)]
    high = [entry(number, 0.1 * number, rung=1) for number in range(4)]

    assert promoted(rungs([*low, *high], number=3)) == ("n3", 2)


def test_where_all_have_failed_the_first_goes_on_and_early_the_best_of_a_few() -> None:
    assert promoted(rungs([entry(number, None) for number in range(4)])) == ("n0", 1)
    assert promoted(rungs([entry(0, 0.1), entry(1, 0.2)]), early=True) == ("n1", 1)
    assert promoted(rungs([]), early=True) is None


def test_references_are_no_competition() -> None:
    references = [entry(number, 0.9, kind="reference", name="r") for number in range(4)]

    assert promoted(rungs([*references, *(entry(4 + number, 0.1) for number in range(3))])) is None
    assert rungs(references).has("n0") is False
    assert rungs([entry(0, None, kind="reference", name="r", state="running")]).has("n0") is True


def test_a_job_is_abandoned_until_another_worker_has_it() -> None:
    lost = entry(0, None, state="abandoned", record=None)
    again = dataclasses.replace(lost, trial=1, state="running", worker="other")

    assert list(rungs([lost]).abandoned) == [lost]
    assert list(rungs([lost, again]).abandoned) == []
    assert rungs([lost, again]).is_idle is False
    assert rungs([lost]).begun == 0


def test_a_job_that_ends_three_workers_is_hopeless_but_not_one_that_was_interrupted() -> None:
    lost = [entry(0, None, state="abandoned", record=None) for _ in range(3)]
    interrupted = [dataclasses.replace(one, worker="") for one in lost]

    assert rungs(lost).is_hopeless(lost[0])
    assert not rungs(interrupted).is_hopeless(interrupted[0])


def test_about_one_in_the_share_goes_on_whatever_the_order() -> None:
    draw = random.Random(0)
    entries, on = list[Entry](), 0
    for number in range(400):
        entries.append(entry(number, draw.random(), latency_ms=draw.uniform(0.4, 1.6)))
        while (found := rungs(entries, share=8).promoted()) is not None:
            entries.append(dataclasses.replace(found[0], rung=1, trial=1000 + on))
            on += 1

    assert 400 / 8 * 0.6 < on < 400 / 8 * 1.5


def test_a_full_band_of_latency_does_not_keep_another_back() -> None:
    good = [entry(number, 0.5 + 0.001 * number) for number in range(80)]
    gone_on = [entry(number, None, rung=1, state="running") for number in range(60, 80)]
    fast = [entry(100 + number, 0.1 + 0.01 * number, latency_ms=0.5) for number in range(4)]

    assert promoted(rungs([*good, *gone_on, *fast])) == ("n103", 1)


def test_networks_inside_a_smaller_budget_compete_apart_from_slower_ones() -> None:
    slower = [entry(number, 0.8, latency_ms=1.04) for number in range(3)]
    gone_on = entry(0, 0.9, rung=1, latency_ms=1.04)
    inside = [entry(10 + number, 0.1 * number, latency_ms=0.99) for number in range(4)]
    one, two = {"budgets_ms": (1.05,)}, {"budgets_ms": (1.0, 1.05)}

    assert promoted(rungs([*slower, gone_on, *inside], **one)) is None
    assert promoted(rungs([*slower, gone_on, *inside[:3]], **two)) is None
    assert promoted(rungs([*slower, gone_on, *inside], **two)) == ("n13", 1)
    assert promoted(rungs([*slower, gone_on, *inside, entry(13, 0.5, rung=1, latency_ms=0.99)], **two)) is None


def test_a_budget_has_none_while_its_candidates_are_slower_or_have_failed() -> None:
    failed, slower = entry(0, None, latency_ms=0.9), entry(1, 0.5, latency_ms=1.1)

    assert is_without(1.0, [failed, slower])
    assert not is_without(1.0, [failed, entry(2, None, latency_ms=0.9, state="running")])
    assert not is_without(1.1, [slower])


def test_what_is_over_a_budget_of_now_does_not_go_on() -> None:
    four = [entry(number, value) for number, value in enumerate((0.1, 0.4, 0.3, 0.2))]
    found = rungs([*four, entry(4, 0.0)]).promoted(is_inside=lambda one: one.id != "n1")

    assert found is not None
    assert found[0].id == "n2"
