"""`--data` and its options from the command line: what is left out is said, and options reach the images."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.catalog import load_plugin
from nas.cli import main
from nas.data import DataSource
from nas.errors import NasError

SEARCH = ["search", "--budget-ms", "0.5", "--space", "tiny"]
TRAIN = ["supernet", "train", "--space", "tiny"]
VALIDATE = ["validate", "--proxy", "zero-cost:naswot", "--seeds", "1", "--budgets", "none", "--band-networks", "0"]
SCORE = ["--proxy", "zero-cost:naswot", "--trials", "1"]

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight cats and dogs, with a broken picture and a photo that is not read; and the same as Parquet."""
    root, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    for channel, name in enumerate(("cat", "dog")):
        (root / "pets" / name).mkdir(parents=True)
        for index in range(8):
            colour = [draw.randrange(100) for _ in range(3)]
            colour[channel] += 150
            Image.new("RGB", (40, 40), tuple(colour)).save(root / "pets" / name / f"{index}.png")
    files = sorted((root / "pets").glob("*/*.png"))
    columns = {"jpg": [file.read_bytes() for file in files], "cls": [file.parent.name for file in files]}
    pq.write_table(pa.table(columns), root / "pets.parquet")
    (root / "pets" / "cat" / "broken.png").write_bytes(b"no")
    (root / "pets" / "cat" / "IMG_1.HEIC").write_bytes(b"no")
    return root


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; return its exit code and its last line on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # as the command sets it; monkeypatch restores it
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nas", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), (capsys.readouterr().err.strip().splitlines() or [""])[-1]

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DataSource]:
    """The sources that a command asks for; it ends there."""
    sources: list[DataSource] = []

    def load_images(source: DataSource, **_: object) -> None:
        sources.append(source)
        raise NasError("far enough")

    for module in ("nas.data", "nas.proxies.zero_cost", "nas.proxies.supernet"):
        monkeypatch.setattr(f"{module}.load_images", load_images)
    return sources


def test_what_is_left_out_is_said_in_one_line_before_anything_is_trained(nas, pets: Path, tmp_path: Path) -> None:
    """In a process of its own, because pytest catches what the logging of this one would put on stderr."""
    done = nas(*SEARCH, *SCORE, "--data", str(pets / "pets"), "--option", "skip_broken=true", cwd=tmp_path)

    lines = done.stderr.splitlines()
    said = f"{pets / 'pets'}: 1 .HEIC left out: pip install pillow-heif; 1 broken image left out"
    assert done.returncode == 0, done.stderr
    assert lines.count(said) == 1
    assert lines.index(said) < next(number for number, line in enumerate(lines) if line.startswith("candidates: "))


def test_broken_images_are_refused_with_the_option(command: Command, pets: Path) -> None:
    code, line = command(*SEARCH, *SCORE, "--data", str(pets / "pets"))

    assert code == 2
    assert line.endswith("repair or remove it, or leave it out with --option skip_broken=true")


def test_a_wrong_column_is_refused_with_those_there_are(command: Command, pets: Path) -> None:
    code, line = command(*SEARCH, *SCORE, "--data", str(pets / "pets.parquet"), "--option", "label=kind")

    assert code == 2
    assert line.endswith("--option label=kind names no column; the columns are jpg, cls")


@pytest.mark.parametrize("arguments", [[*SEARCH], [*SEARCH, *SCORE], TRAIN, VALIDATE])
def test_options_reach_the_images(command: Command, asked: list[DataSource], arguments: list[str]) -> None:
    """Without --proxy, they do not ask for short training as the options of a proxy do."""
    options = [f"--option={text}" for text in ("image=jpg", "label=cls", "skip_broken=true")]

    code, line = command(*arguments, "--data", "pets", *options)

    assert (code, line) == (1, "error: far enough")
    assert asked == [DataSource(name="pets", image="jpg", label="cls", skip_broken=True)]


def test_a_supernet_says_the_options_for_what_scores_with_it(
    command: Command, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.training.train_supernet", lambda *_, **__: None)

    code, line = command(*TRAIN, "--data", str(pets / "pets.parquet"), "--option", "label=cls")

    assert code == 0
    assert "nas search " in line and " --proxy supernet --supernet " in line and " --option label=cls " in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*SEARCH, "--option", "skip_broken=true"],
            "--option skip_broken=true says how images are read: give --data a",
        ),
        ([*VALIDATE, "--option", "label=cls"], "--option label=cls says how images are read: give --data as well"),
        ([*SEARCH, "--data", "x", "--option", "skip_broken=perhaps"], "skip_broken: input should be a valid boolean"),
        (
            [*SEARCH, "--data", "x", "--option", "label=a", "--option", "label=b"],
            "--option label=b: label is a already",
        ),
        ([*TRAIN, "--option", "labels=cls"], "--option labels=cls: nas supernet train takes image, label and skip_bro"),
    ],
)
def test_options_that_do_not_fit_are_refused(command: Command, arguments: list[str], message: str) -> None:
    code, line = command(*arguments)

    assert code == 2
    assert message in line


def test_no_proxy_has_an_option_of_the_same_name_as_the_data() -> None:
    for name in ("short-training", "supernet", "zero-cost", "accuracy-table", "fake"):
        assert not set(load_plugin("proxy", "proxies", name).Options.model_fields) & set(DataSource.model_fields)
