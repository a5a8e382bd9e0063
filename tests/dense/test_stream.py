from collections import Counter

import pytest
import torch

from nas.dense.stream import Stream
from nas.errors import InputError


def drawn(index: int) -> tuple[int, float]:
    return index, float(torch.rand(()))


def stream(**changes: int) -> Stream[tuple[int, float]]:
    options = {"images": 10, "batch_size": 4, "steps": 5, "seed": 3} | changes
    return Stream(read=drawn, **options)


def test_every_image_comes_once_a_pass() -> None:
    row = [index for batch in stream().batches(0, done=0) for index, _ in batch]

    assert Counter(row[:10]) == Counter(range(10)) == Counter(row[10:])
    assert row[:10] != row[10:]


def test_what_is_resumed_is_the_same() -> None:
    whole = list(stream().batches(1, done=0))

    torch.manual_seed(99)
    assert whole[3:] == list(stream().batches(1, done=3))


def test_epochs_seeds_and_images_differ() -> None:
    first, second = list(stream().batches(0, done=0)), list(stream().batches(1, done=0))

    assert first != second
    assert first != list(stream(seed=4).batches(0, done=0))
    assert len({value for batch in (*first, *second) for _, value in batch}) == 40


def test_workers_read_the_same() -> None:
    assert list(stream().batches(0, done=0)) == list(stream(workers=2).batches(0, done=0))


def broken(index: int) -> int:
    if index == 4:
        raise InputError("4.png: cannot be read")
    return index


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_one_line(workers: int) -> None:
    made = Stream(read=broken, images=10, batch_size=2, steps=5, seed=3, workers=workers)

    with pytest.raises(InputError) as caught:
        list(made.batches(0, done=0))

    assert str(caught.value) == "4.png: cannot be read"


def test_parts_of_a_batch() -> None:
    whole, parts = list(stream().batches(0, done=0)), list(stream(accumulate=2).batches(0, done=0))

    assert [[batch[:2], batch[2:]] for batch in whole] == parts


def test_processes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(stream().batches(0, done=0))
    shares = []
    monkeypatch.setattr("nas.dense.stream.processes", lambda: 2)
    for number in range(2):
        monkeypatch.setattr("nas.dense.stream.rank", lambda number=number: number)
        shares.append(list(stream().batches(0, done=0)))

    assert all(len(batch) == 2 for share in shares for batch in share)
    assert [sorted(batch) for batch in whole] == [sorted(a + b) for a, b in zip(*shares, strict=True)]


def test_the_generator_of_the_process_stays_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    list(stream().batches(0, done=0))

    assert torch.equal(expected, torch.rand(3))


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        stream(accumulate=3)

    assert str(caught.value) == "batch_size 4 is not divisible by 3: 1 processes, 3 parts each"
