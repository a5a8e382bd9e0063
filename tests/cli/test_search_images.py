"""`nas search --data`: finds or trains the supernet of these images, scores with it, and settles the last few.

In this process, so that the supernet, the settling and the survey can be made small.
"""

from __future__ import annotations

import functools
import json
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import nas.search
from nas.cli import main
from nas.networks import Architecture
from nas.proxies import short_training
from nas.search import Candidate, SearchResult
from nas.training import SupernetRecipe, load_supernet

Command = Callable[..., int]
CLASSES = ("blue", "green", "red")
IMAGES = 96  # that the supernet is trained on
SMALL = ["--budget-ms", "0.3", "--space", "tiny"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve PNG files of 40 px, each with a colour of its own."""
    folder, draw = tmp_path_factory.mktemp("photos") / "photos", random.Random(0)
    for channel, name in enumerate(reversed(CLASSES)):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            colour = [draw.randrange(100) for _ in range(3)]
            colour[channel] += 150
            Image.new("RGB", (40, 40), tuple(colour)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def command(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run `nas search` in a folder with the photos, with everything that takes long made small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # as the command sets it; monkeypatch restores it
    shutil.copytree(photos, "photos")
    recipe = functools.partial(SupernetRecipe, images=IMAGES, batch_size=16, until=None)
    monkeypatch.setattr("nas.training.SupernetRecipe", recipe)
    monkeypatch.setattr("nas.search.images._RESOLUTION", 32)
    monkeypatch.setattr("nas.training.sandwich._TIMED_S", 1e-9)  # one step
    monkeypatch.setattr("nas.proxies.supernet._CALIBRATION_IMAGES", 64)
    monkeypatch.setitem(short_training._PRESETS, "standard", short_training._Preset(images=64))
    for module in ("nas.training.sandwich", "nas.proxies.supernet", "nas.proxies.short_training"):
        monkeypatch.setattr(f"{module}.faster_precision", lambda device: "fp32")
    monkeypatch.setattr("nas.search.plan_survey", functools.partial(nas.search.plan_survey, networks=40))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["nas", "search", *SMALL, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _supernets() -> list[Path]:
    return sorted(Path("cache").glob("supernets/*.safetensors"))


def test_a_search_on_photos_trains_their_supernet_once_and_settles_with_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command("--data", "photos", "--trials", "4", "--out", "run")
    shown, words = capsys.readouterr()
    (supernet,) = _supernets()
    trained_at = supernet.stat().st_mtime_ns
    shutil.copytree("photos", "elsewhere/copy")
    shutil.rmtree("photos")
    second = command("--data", "elsewhere/copy", "--trials", "2", "--out", "again", "--json")
    document, again = capsys.readouterr()
    result = SearchResult.load(Path("run"))

    assert (first, second) == (0, 0), words + again
    # The plan, with its times, before anything is scored.
    for expected in (
        r"space: 2\.24e\+02 networks, the cheapest in 0\.2\d\d ms\n",
        r"accuracy: predicted ImageNet-1k top-1; ",
        r"data: photos: 33 train and 3 val images of 3 classes at 32 px\n",
        r"supernet: trained on these images now, once, at most about \d+ s; sees 96 images at most, fewer if its "
        r"training ends sooner; kept in the cache\n",
        r"survey: 40 networks inside 0\.3 ms by tables alone, about \d+ s\n",
        r"scoring: 5 networks, the best of every latency, by the supernet, about \d+ s\n",
        r"settling: the best 3 and a reference are trained from the supernet, about \d+ s\n",
        r"results: run\ntiny_a ",
    ):
        assert re.search(expected, words), expected
    assert len(re.findall(r"settled by short-training:standard: score 0\.\d+", words)) == len(result.settled) >= 3
    assert load_supernet(supernet).class_names == CLASSES

    assert f"supernet: of these images, {supernet.absolute()}" in again
    assert "trained on these images now" not in again
    assert _supernets() == [supernet]
    assert supernet.stat().st_mtime_ns == trained_at
    assert json.loads(document)["winner"]["latency_ms"] <= 0.3

    assert result.run.proxy["name"] == "supernet"
    assert result.run.screens == ["accuracy-table"]
    assert result.run.proxy["settles"]["name"] == "short-training:standard"
    assert result.run.proxy["settles"]["init"] == result.run.proxy["supernet"] == str(supernet.absolute())
    assert len({c.id for c in result.candidates}) == 5  # four, and the reference
    assert result.winner is not None
    assert result.winner.id in result.settled
    assert result.build_winner().architecture.num_classes == 3
    assert f"winner {result.winner.id}: " in shown
    assert "settled by short-training:standard from the supernet: " in shown
    files = {path.name for path in result.path.iterdir()}
    assert {"screened.jsonl", "settled.jsonl", "front.csv", "winner.safetensors", "report.md", "report.html"} <= files


@pytest.fixture
def city(command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pictures with masks, each half of one class; and a supernet of masks that is as small as the others here."""
    for name, value in (("_MASK_IMAGES", IMAGES), ("_MASK_BATCH", 16), ("_MASK_RESOLUTION", 32)):
        monkeypatch.setattr(f"nas.search.images.{name}", value)
    for kind in ("images", "masks"):
        Path("city", kind).mkdir(parents=True)
    for index in range(10):
        mask = Image.new("L", (48, 40))
        mask.paste(1, (0, 0, 20 + index, 40))
        Image.merge("RGB", (mask.point(lambda value: 200 * value), mask, mask)).save(f"city/images/{index}.png")
        mask.save(f"city/masks/{index}.png")
    return Path("city")


def test_a_search_on_masks_trains_their_supernet_once_and_its_scores_decide(
    command: Command, city: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenting = ["--task", "segment", "--data", str(city)]
    first = command(*segmenting, "--trials", "4", "--out", "run")
    shown, words = capsys.readouterr()
    second = command(*segmenting, "--trials", "5", "--out", "run", "--resume")
    again = capsys.readouterr().err
    result = SearchResult.load(Path("run"))

    assert (first, second) == (0, 0), words + again
    assert "data: city: 9 train and 1 val pictures with masks of 2 classes, squares of 32 px" in words
    assert "the scores of the supernet decide" in words
    assert "settl" not in words
    assert "  nas train run --data city --task segment --from run/trained/winner  # then as a segmenter" in words
    assert "(held-out likelihood of pixels)" in shown
    (supernet,) = _supernets()
    assert f"supernet: of this run, {supernet.absolute()}" in again
    assert load_supernet(supernet, task="segment").class_names == ("0", "1")
    assert len(result.scored) == 5
    assert result.run.proxy["task"] == "segment"
    for one in result.scored:
        assert 0 <= float(one.details["miou"]) <= 1
    assert "held-out mIoU" in Path("run/report.html").read_text()


def test_a_search_on_masks_is_refused_what_is_of_classes(
    command: Command, city: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--data", "city"], "city: has folders of images and masks, and none of classes: --task segment scores on it"),
        (["--task", "segment"], "--task segment scores on pictures with masks: give their folder with --data"),
        (["--task", "segment", "--data", "photos"], "photos: must have the folders images and masks"),
        (
            ["--task", "segment", "--data", "city", "--proxy", "short-training"],
            "--task segment scores by a supernet of",
        ),
        (["--task", "detect", "--data", "city"], "--task must be one of classify, segment, got detect"),
        (["--resolution", "512"], "--resolution 512: the space tiny is of 64 px; nas space list names others"),
    ):
        assert command(*arguments) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_goes_on_with_the_same_images_in_any_folder_and_with_no_others(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--proxy", "zero-cost:naswot", "--option", "batch_size=8", "--option", "resolution=32", "--out", "run"]
    first = command("--data", "photos", "--trials", "2", *options)
    shutil.copytree("photos", "elsewhere/copy")
    # The decoded images of the first run are gone, and with them how it spelt their path.
    shutil.rmtree("cache")
    resumed = command("--data", "./elsewhere/../elsewhere/copy/", "--trials", "3", *options, "--resume")
    words = capsys.readouterr().err
    again = command("--data", "photos", "--trials", "2", *options, "--resume")
    (Path("elsewhere/copy") / "red").rename("elsewhere/copy/crimson")
    refused = command("--data", "elsewhere/copy", "--trials", "4", *options, "--resume")
    *_, line = capsys.readouterr().err.splitlines()

    assert (first, resumed, again, refused) == (0, 0, 0, 2), words
    assert len(SearchResult.load(Path("run")).scored) == 3
    assert line == (
        "error: run: the images differ from those that it was begun with (photos: 8 train and 1 val images of 3 "
        "classes at 32 px): class 'red' is called 'crimson'; give the same images, in whatever folder, or choose "
        "another --out"
    )


def test_a_run_on_photos_goes_on_with_its_own_supernet_and_its_own_images_only(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command("--data", "photos", "--trials", "2", "--out", "run")
    (supernet,) = _supernets()
    shutil.move("cache", "old")
    settings = json.loads(Path("run/run.json").read_text())
    settings["proxy"]["supernet"] = str(Path("old", "supernets", supernet.name))
    Path("run/run.json").write_text(json.dumps(settings))
    resumed = command("--data", "photos", "--trials", "3", "--out", "run", "--resume")
    words = capsys.readouterr().err
    Path("photos/red").rename("photos/crimson")
    refused = command("--data", "photos", "--trials", "3", "--out", "run", "--resume")
    *_, line = capsys.readouterr().err.splitlines()

    assert (first, resumed, refused) == (0, 0, 2), words
    assert f"supernet: of this run, old/supernets/{supernet.name}" in words
    assert _supernets() == []  # None is trained, neither for the run nor for other images.
    assert "class 'red' is called 'crimson'" in line


def test_scores_of_another_supernet_are_not_added_to_a_run(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command("--data", "photos", "--trials", "2", "--out", "run")
    (supernet,) = _supernets()
    shutil.move(supernet, "copy.safetensors")
    resume = ["--data", "photos", "--trials", "3", "--out", "run", "--resume"]
    gone = command(*resume)
    *_, line = capsys.readouterr().err.splitlines()
    trained = _supernets()
    supernet.write_bytes(b"another")
    changed = command(*resume)
    *_, other_line = capsys.readouterr().err.splitlines()
    given = command(*resume, "--supernet", "copy.safetensors")

    assert (first, gone, changed, given) == (0, 2, 2, 0), capsys.readouterr().err
    assert trained == []
    assert line == (
        f"error: {supernet.absolute()}: the supernet of run is gone, and another one's scores cannot be compared with "
        "those it has: give a copy of it (--supernet FILE), or choose another --out"
    )
    assert "the supernet of run is another now, and " in other_line
    assert len(SearchResult.load(Path("run")).scored) == 3


def test_a_stopped_search_on_photos_says_how_to_go_on_and_does(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", "photos", "--trials", "2", "--out", "my $run"]
    with monkeypatch.context() as patched:
        patched.setattr("nas.cli.surveyed.say_candidate", _stop)
        stopped = command(*options)
    words = capsys.readouterr().err
    left = SearchResult.load(Path("my $run"))
    report = Path("my $run/report.md").read_text()
    resumed = command(*options, "--resume")
    again = capsys.readouterr().err
    result = SearchResult.load(Path("my $run"))

    assert (stopped, resumed) == (130, 0), again
    assert "stopped; go on with: nas search --resume 'my $run'" in words
    assert "everything finished so far is saved" in words
    assert [c.name for c in left.candidates] == ["tiny_a"]
    assert "no network inside 0.3 ms is scored yet" in report
    assert "trained on these images now" not in again
    assert left.candidates == result.candidates[:1]
    assert result.winner is not None
    assert f"winner {result.winner.id}: " in Path("my $run/report.md").read_text()


def _stop(candidate: Candidate) -> None:
    raise KeyboardInterrupt


def test_without_time_for_a_supernet_the_accuracy_table_decides_and_says_so_and_goes_on_so(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command("--data", "photos", "--time-limit", "5s", "--out", "run")
    shown, words = capsys.readouterr()
    result = SearchResult.load(Path("run"))
    resumed = command("--data", "photos", "--out", "run", "--resume")  # and all the time there is
    again = capsys.readouterr().err

    assert (code, resumed) == (0, 0), words + again
    assert "supernet: none, as in the run to go on with; the accuracy table alone decides\n" in again
    assert re.search(
        r"supernet: its training would take about [\d.]+ (s|min), which does not fit into --time-limit; the accuracy "
        r"table alone decides, and your images are not used\n",
        words,
    )
    assert _supernets() == []
    assert result.run.proxy["name"] == "accuracy-table"
    assert "settles" not in result.run.proxy
    assert result.winner is not None
    assert float(result.winner.details["looked_at"]) > 1
    assert "predicted ImageNet top-1" in shown
    assert not (result.path / "settled.jsonl").exists()


def test_a_supernet_sees_as_many_images_as_the_time_allows(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.training.supernet._LEAST_IMAGES", IMAGES // 2)
    monkeypatch.setattr("nas.training.kept.step_seconds", lambda *_, **__: 60.0)  # three and six minutes
    options = ["--data", "photos", "--trials", "2", "--out"]
    code = command(*options, "run", "--time-limit", "7m")
    words = capsys.readouterr().err
    again = command(*options, "again", "--time-limit", "1h")
    found = capsys.readouterr().err

    assert (code, again) == (0, 0), words + found
    assert "at most about 3.0 min; sees 48 images at most, as --time-limit allows, fewer if its" in words
    assert f"supernet: of these images, {_supernets()[0].absolute()}" in found
    assert len(_supernets()) == 1


def test_a_search_on_images_has_no_use_for_a_storage(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code = command("--data", "photos", "--storage", "sqlite:///x.db", "--out", "run")
    words = capsys.readouterr().err

    assert code == 2
    assert words.splitlines()[-1].startswith("error: --storage is for searches by --proxy that train")
    assert not Path("run").exists()
    assert not Path("cache").exists()


def test_a_given_supernet_is_used_and_none_is_trained(
    command: Command, capsys: pytest.CaptureFixture[str], tiny_supernet: Path
) -> None:
    """A supernet of four classes does not fit these photos, which shows that it was asked."""
    code = command("--data", "photos", "--supernet", str(tiny_supernet), "--out", "run")
    words = capsys.readouterr().err

    assert code == 2
    assert words.splitlines()[-1].startswith(f"error: {tiny_supernet} was trained for 4 classes, photos has 3: ")
    assert _supernets() == []


def test_an_option_without_a_proxy_is_one_of_short_training(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--option", "images=64", "--option", "resolution=32"]
    code = command("--data", "photos", *quick, "--trials", "1", "--out", "run")
    words = capsys.readouterr().err
    result = SearchResult.load(Path("run"))

    assert code == 0, words
    assert result.run.proxy["name"] == "short-training"
    assert (result.run.proxy["images"], result.run.proxy["resolution"]) == (64, 32)
    assert (result.run.screens, "settles" in result.run.proxy) == ([], False)
    assert _supernets() == []
    assert Architecture.load(Path("run/winner.json")).resolution == 64
