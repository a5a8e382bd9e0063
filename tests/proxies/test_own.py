"""Proxies of one's own: a plain function, and a file with a function or with options and a proxy."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.errors import InputError, NasError
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import FunctionProxy, Proxy, Score, ScoringFailed, attempt, build_proxies, differing

TINY = SearchSpace.find("tiny")
NETWORK, OTHER = TINY.references["tiny_a"], TINY.sample(random_choice(seed=1))

IN_MODULE_FORM = """
from __future__ import annotations

from nas.files import Record
from nas.proxies import Score

VARIANT = "effort"

class Options(Record):
    effort: str = "quick"
    factor: float = 1.0

class Deep:
    def __init__(self, options, inputs):
        self.options, self.inputs = options, inputs

    def settings(self):
        return {"proxy": "deep", "seed": self.inputs.seed, "sizes": (1, 2)}

    def estimate_seconds(self, architecture):
        return 0.25

    def score(self, architecture):
        value = self.options.factor * sum(len(stage.blocks) for stage in architecture.stages)
        return Score(value=value, seconds=0.5, details={"effort": self.options.effort})

def build(options, inputs):
    return Deep(options, inputs)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; what files there leave in Python is gone after the test."""
    monkeypatch.chdir(tmp_path)
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def _build(name: str, text: str | None = None, **further: Any) -> Proxy:
    if text is not None:
        Path(name.partition(":")[0]).write_text(text)
    return build_proxies(name, data="synthetic", seed=0, **further)[name]


def _blocks(network: Architecture) -> int:
    return sum(len(stage.blocks) for stage in network.stages)


class Scorer:
    def __call__(self, network: Architecture) -> float:
        return 1.5


class TestFunction:
    def test_value_is_what_the_function_gives(self) -> None:
        proxy = FunctionProxy(_blocks)

        assert [_blocks(NETWORK), _blocks(OTHER)] == [proxy.score(one).value for one in (NETWORK, OTHER)]

    @pytest.mark.parametrize(
        "given",
        [
            2,
            2.0,
            np.float32(2),
            np.int64(2),
            np.array([2.0]),
            torch.tensor(2),
            torch.tensor([[2.0]], requires_grad=True),
            Decimal(2),
            Fraction(2),
        ],
        ids=lambda given: type(given).__name__,
    )
    def test_scalars_of_any_library_are_numbers(self, given: Any) -> None:
        value = FunctionProxy(lambda network: given).score(NETWORK).value

        assert (2.0, float) == (value, type(value))

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (None, r"score is None, which is no number \(does the function return its result\?\)"),
            (float("nan"), "score is nan, which is no finite number"),
            (np.float64("inf"), "score is inf, which is no finite number"),
            (torch.tensor(float("-inf")), "score is -inf, which is no finite number"),
            ("2", "score is a str, which is no number"),
            (True, "score is a bool, which is no number"),
            (1j, "score is a complex, which is no number"),
            ([2.0], "score is a list, which is no number"),
            (np.zeros(2), r"score is a ndarray, which is no number \(can only convert an array of size 1"),
            (torch.zeros(2), r"score is a Tensor, which is no number \(a Tensor with 2 elements"),
            (10**400, r"score is an int, which is no number \(int too large"),
            (Score(value=float("nan"), seconds=0.0, details={}), "value is nan, which is no finite number"),
            (Score(value=1.0, seconds=0.0, details={"x": float("inf")}), r"details\['x'\] is inf"),
        ],
    )
    def test_anything_else_is_a_failed_candidate(self, given: Any, reason: str) -> None:
        with pytest.raises(ScoringFailed, match=reason):
            FunctionProxy(lambda network: given).score(NETWORK)

    def test_a_score_keeps_its_details_and_weights(self) -> None:
        weights = {"x": torch.zeros(1)}
        given = Score(value=np.float32(2), seconds=3.0, details={"a": np.float32(0.5), "b": "c"}, weights=weights)

        score = FunctionProxy(lambda network: given).score(NETWORK)

        assert (2.0, 3.0, {"a": 0.5, "b": "c"}, weights) == (score.value, score.seconds, score.details, score.weights)
        assert json.dumps(score.details)

    def test_estimate_is_the_time_of_the_first_score_and_no_network_is_scored_twice(self) -> None:
        seen = []

        def score(network: Architecture) -> float:
            seen.append(network.id)
            time.sleep(0.02)
            return 1.0

        proxy = FunctionProxy(score)
        estimates = [proxy.estimate_seconds(one) for one in (NETWORK, OTHER)]
        first = proxy.score(NETWORK)
        proxy.score(OTHER)

        assert [NETWORK.id, OTHER.id] == seen
        assert [first.seconds] * 2 == estimates
        assert first.seconds >= 0.02

    def test_scoring_failed_is_a_failed_candidate(self) -> None:
        def score(network: Architecture) -> float:
            raise ScoringFailed("too deep")

        assert attempt(FunctionProxy(score), NETWORK).failure == "too deep"

    def test_another_error_names_file_line_function_and_network_and_keeps_its_traceback(self) -> None:
        def score(network: Architecture) -> float:
            return {}["blocks"]  # type: ignore[no-any-return]

        with pytest.raises(NasError) as caught:
            FunctionProxy(score).score(NETWORK)
        line = score.__code__.co_firstlineno + 1
        expected = f"{__file__}, line {line}, in score: KeyError: 'blocks', for network {NETWORK.id}; "
        assert str(caught.value).startswith(expected)
        assert (NasError, KeyError) == (type(caught.value), type(caught.value.__cause__))

    def test_an_error_inside_a_library_is_shown_where_the_function_calls_it(self) -> None:
        with pytest.raises(NasError, match=r"test_own.py, line \d+, in <lambda>: JSONDecodeError: Expecting"):
            FunctionProxy(lambda network: json.loads("")).score(NETWORK)

    def test_an_error_of_this_package_in_the_function_is_an_error_of_the_function(self) -> None:
        with pytest.raises(NasError, match=r"in <lambda>: InputError: no search space named") as caught:
            FunctionProxy(lambda network: SearchSpace.find("none")).score(NETWORK)
        assert type(caught.value) is NasError

    def test_what_ends_python_ends_the_search_with_an_error(self) -> None:
        with pytest.raises(NasError, match="in <lambda>: SystemExit: 0"):
            FunctionProxy(lambda network: sys.exit(0)).score(NETWORK)

    def test_ctrl_c_is_passed_on(self) -> None:
        def score(network: Architecture) -> float:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            FunctionProxy(score).score(NETWORK)

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (_blocks, "_blocks"),
            (functools.partial(_blocks), "_blocks"),
            (Scorer(), "Scorer"),
            (lambda network: 1, "TestFunction.<lambda>"),
            (len, "len"),
        ],
    )
    def test_function_is_known_by_its_name(self, function: Any, name: str) -> None:
        settings = FunctionProxy(function).settings()

        assert settings["proxy"] == "function"
        assert settings["function"].endswith(f".{name}")
        assert differing(settings, FunctionProxy(abs).settings()) == ["function"]

    @pytest.mark.parametrize("function", [3, lambda: 1, lambda one, two: 1, lambda *, network: 1])
    def test_what_does_not_take_one_network_is_refused(self, function: Any) -> None:
        with pytest.raises(InputError, match=r"score must be a function of one network, score\(network\), got "):
            FunctionProxy(function)


class TestFile:
    def test_function_in_a_file_scores(self, folder: Path) -> None:
        proxy = _build("./mine.py", "def score(network):\n    return len(network.stages)\n")

        assert proxy.score(NETWORK).value == 4
        assert proxy.settings() == {"proxy": "file", "file": "./mine.py", "code": proxy.settings()["code"]}

    def test_name_that_ends_in_py_needs_no_slash(self, folder: Path) -> None:
        assert _build("mine.py", "score = len\n").settings()["file"] == "mine.py"

    def test_changed_file_is_another_scorer_and_another_path_is_not(self, folder: Path) -> None:
        before = _build("./mine.py", "def score(network): return 1\n").settings()
        same = _build(str(folder / "mine.py")).settings()
        changed = _build("./mine.py", "def score(network): return 2\n")

        assert differing(before, same) == []
        assert differing(before, changed.settings()) == ["code"]
        assert changed.score(NETWORK).value == 2

    def test_file_with_a_version_is_known_by_it(self, folder: Path) -> None:
        before = _build("./mine.py", "VERSION = 1\ndef score(network): return 1\n").settings()
        mended = _build("./mine.py", "VERSION = 1\ndef score(network): return 1.0\n").settings()
        other = _build("./mine.py", "VERSION = 2\ndef score(network): return 3\n").settings()

        assert differing(before, mended) == []
        assert differing(before, other) == ["version"]

    def test_its_folder_is_importable_while_it_is_loaded_and_used_and_not_afterwards(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "beside_early.py").write_text("ONE = 1\n")
        (folder / "sub" / "beside_late.py").write_text("TWO = 2\n")
        text = (
            "from beside_early import ONE\ndef score(network):\n from beside_late import TWO\n return 10 * ONE + TWO\n"
        )

        proxy = _build("sub/mine.py", text)

        assert proxy.score(NETWORK).value == 12
        assert str(folder / "sub") not in sys.path

    def test_classes_in_it_are_found_by_their_module(self, folder: Path) -> None:
        text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n x: int\n"
        _build("./own_name.py", f"{text}def score(network): return A(1).x\n")

        assert sys.modules["own_name"].A.__module__ == "own_name"

    def test_file_that_cannot_be_loaded_leaves_no_module(self, folder: Path) -> None:
        with pytest.raises(InputError):
            _build("./half_loaded.py", "1 / 0\n")
        assert "half_loaded" not in sys.modules

    def test_name_of_a_module_that_exists_takes_nothing_from_it(self, folder: Path) -> None:
        text = "def score(network): return 1\n"

        assert [_build(name, text).score(NETWORK).value for name in ("./json.py", "./torch.py")] == [1.0, 1.0]
        assert sys.modules["json"] is json
        assert sys.modules["torch"] is torch

    def test_error_names_the_file_as_it_was_given(self, folder: Path) -> None:
        proxy = _build("./mine.py", "def helper(x):\n    return 1 / x\n\ndef score(network):\n    return helper(0)\n")

        with pytest.raises(NasError, match=r"^\./mine.py, line 2, in helper: ZeroDivisionError: division by zero, for"):
            proxy.score(NETWORK)

    @pytest.mark.parametrize("name", ["a,b.py", "a+b.py", "c++/mine.py", "a:b.py", "my proxy.py"])
    def test_separators_may_be_in_the_path_of_a_file(self, folder: Path, name: str) -> None:
        (folder / "c++").mkdir()
        proxy = _build(f"{folder}/{name}", None) if (folder / name).write_text("score = lambda network: 7\n") else None

        assert proxy is not None
        assert proxy.score(NETWORK).value == 7

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("./none.py", None, "--proxy ./none.py: no such file"),
            ("./sub", None, "--proxy ./sub: is a folder; name the .py file in it"),
            ("./mine.txt", "x", "--proxy ./mine.txt: a proxy of one's own is a file whose name ends in .py"),
            ("./mine.py", "def score(network):\n  return (\n", "--proxy ./mine.py, line 2: '.' was never closed$"),
            ("./mine.py", "a\0", r"--proxy ./mine.py.*null bytes"),
            ("./mine.py", b"# \xff\n", "mine.py, line 1: is not text in UTF-8"),
            (
                "./mine.py",
                "import no_such_module.x\n",
                "--proxy ./mine.py, line 1: ModuleNotFoundError: No module named 'no_such_module'; install it where "
                "nas is installed, or put no_such_module.py beside the file",
            ),
            ("./mine.py", "from nas import x\n", "--proxy ./mine.py, line 1: ImportError: cannot import name 'x'"),
            ("./mine.py", "\n1 / 0\n", "--proxy ./mine.py, line 2: ZeroDivisionError: division by zero$"),
            ("./mine.py", "def f():\n    exit(3)\nf()\n", "--proxy ./mine.py, line 2, in f: SystemExit: 3$"),
            ("./mine.py", "", "has neither a function score.network. nor Options and build"),
            ("./mine.py", "def build(options, inputs): ...\n", "has neither a function score.network. nor Options"),
            ("./mine.py", "score = 3\n", "--proxy ./mine.py: score must be a function of one network, score.network."),
            ("./mine.py", "def score(a, b): ...\n", "--proxy ./mine.py: score must be a function of one network"),
            (
                "./mine.py",
                "VERSION = 1.5\nscore = len\n",
                "--proxy ./mine.py: VERSION must be a text or a whole number",
            ),
            ("./mine.py:deep", "score = len\n", "--proxy ./mine.py:deep: ./mine.py has no variants"),
            ("./mine.py", "class Options: ...\ndef build(a, b): ...\n", "Options must be a class of nas.files.Record"),
            (
                "./mine.py",
                IN_MODULE_FORM.replace("build(options, inputs)", "build(x)"),
                "build must be a function of two, build.options, inputs.",
            ),
            (
                "./mine.py",
                IN_MODULE_FORM.replace('VARIANT = "effort"', 'VARIANT = "speed"'),
                "VARIANT must be the name of one of its Options, got 'speed'",
            ),
            (
                "./mine.py",
                IN_MODULE_FORM.replace("def estimate_seconds", "def estimate"),
                "what build gives must have a method estimate_seconds; see nas.proxies.Proxy",
            ),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_line(
        self, folder: Path, name: str, text: str | bytes | None, message: str
    ) -> None:
        (folder / "sub").mkdir()
        if text is not None:
            (folder / name.partition(":")[0]).write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(InputError, match=message) as caught:
            _build(name)
        assert "\n" not in str(caught.value)


class TestModuleForm:
    def test_options_variant_and_inputs_reach_it(self, folder: Path) -> None:
        proxy = _build("./deep.py:thorough", IN_MODULE_FORM, options={"factor": "2"})
        score = proxy.score(NETWORK)

        assert (2.0 * _blocks(NETWORK), 0.5, {"effort": "thorough"}) == (score.value, score.seconds, score.details)
        assert proxy.estimate_seconds(NETWORK) == 0.25

    def test_settings_are_its_own_with_its_file_and_options_as_they_are_read_again(self, folder: Path) -> None:
        settings = _build("./deep.py", IN_MODULE_FORM).settings()

        assert settings == json.loads(json.dumps(settings))
        expected = {"proxy": "deep", "seed": 0, "sizes": [1, 2], "file": "./deep.py", "code": settings["code"]}
        assert settings == expected | {"options": {"effort": "quick", "factor": 1.0}}
        assert differing(settings, _build("./deep.py:slow").settings()) == ["options"]

    def test_funnel_and_panel(self, folder: Path) -> None:
        (folder / "deep.py").write_text(IN_MODULE_FORM)
        (folder / "wide.py").write_text("def score(network): return int(network.id, 16) % 1000\n")

        built = build_proxies(
            "./wide.py,./deep.py:x+./wide.py", data="synthetic", seed=0, options={"factor": "3"}, band=(NETWORK, OTHER)
        )

        assert list(built) == ["./wide.py", "./deep.py:x+./wide.py"]
        panel = built["./deep.py:x+./wide.py"]
        assert panel.score(NETWORK).details["./deep.py:x"] == 3.0 * _blocks(NETWORK)
        settings = panel.settings()
        assert {"./deep.py:x code", "./wide.py code", "./deep.py:x options"} <= set(settings)
        assert differing(settings, {**settings, "./wide.py file": "/elsewhere/wide.py"}) == []
        assert differing(settings, {**settings, "./wide.py code": "0"}) == ["./wide.py code"]

    def test_same_file_twice_in_a_panel_is_refused(self, folder: Path) -> None:
        (folder / "deep.py").write_text(IN_MODULE_FORM)

        with pytest.raises(InputError, match=r"\./deep.py and deep.py:quick are the same proxy; leave out one"):
            build_proxies("./deep.py+deep.py:quick", data="synthetic", seed=0, band=(NETWORK, OTHER))

    def test_unknown_option_lists_those_of_the_file(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"--proxy ./deep.py does not take speed: its options are effort, factor"):
            _build("./deep.py", IN_MODULE_FORM, options={"speed": "1"})

    def test_error_in_build_is_one_line(self, folder: Path) -> None:
        text = IN_MODULE_FORM.replace("return Deep(options, inputs)", "raise OSError('no weights')")

        with pytest.raises(NasError, match=r"^\./deep.py, line \d+, in build: OSError: no weights"):
            _build("./deep.py", text)

    @pytest.mark.parametrize("settings", ["{'x': object()}", "{'x': float('nan')}", "None"])
    def test_settings_that_are_no_json_are_refused(self, folder: Path, settings: str) -> None:
        proxy = _build("./deep.py", IN_MODULE_FORM.replace("(1, 2)}", f"(1, 2)}} and {settings}"))

        with pytest.raises(NasError, match=r"^\./deep.py: (Type|Value)Error: "):
            proxy.settings()

    def test_one_that_scores_many_at_once_does_so_here(self, folder: Path) -> None:
        many = "def score_all(self, architectures):\n        return [self.score(one) for one in architectures]\n"
        proxy: Any = _build("./deep.py", IN_MODULE_FORM.replace("    def score(", f"    {many}\n    def score(", 1))
        without: Any = _build("./plain.py", IN_MODULE_FORM)

        assert [_blocks(NETWORK), _blocks(OTHER)] == [one.value for one in proxy.score_all([NETWORK, OTHER])]
        assert not hasattr(without, "score_all")
