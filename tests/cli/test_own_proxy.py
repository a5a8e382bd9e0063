"""`nas search --proxy ./my_proxy.py`, as a user types it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Nas = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[["subprocess.CompletedProcess[str]"], str]

SEARCH = ("search", "--space", "tiny", "--budget-ms", "0.7", "--trials", "4", "--out", "run", "--proxy")
COUNTS = "def score(network):\n    return sum(len(stage.blocks) for stage in network.stages)\n"


def test_function_in_a_file_searches_and_a_changed_one_is_refused_on_resume(
    nas: Nas, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(COUNTS)
    done = nas(*SEARCH, "./mine.py", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    winner = json.loads(done.stdout)["winner"]
    (tmp_path / "mine.py").write_text(COUNTS + "# another\n")
    changed = nas(*SEARCH, "./mine.py", "--resume", cwd=tmp_path)

    assert sum(len(stage["blocks"]) for stage in winner["architecture"]["stages"]) == winner["score"]
    assert changed.returncode == 2
    assert refused(changed).startswith("error: run was begun with another proxy code (")


def test_error_in_it_ends_the_search_in_one_line_and_what_is_finished_is_saved(
    nas: Nas, refused: Refused, tmp_path: Path
) -> None:
    lines = [
        "from pathlib import Path",
        "def score(network):",
        "    with Path('scored').open('a') as file:",
        "        file.write(network.id + '\\n')",
        "    if len(Path('scored').read_text().split()) == 4:",
        "        raise KeyError('blocks')",
        "    return 1",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines) + "\n")
    done = nas(*SEARCH, "./mine.py", cwd=tmp_path)
    *_, last = (tmp_path / "scored").read_text().split()

    assert done.returncode == 1
    assert refused(done).startswith(f"error: ./mine.py, line 6, in score: KeyError: 'blocks', for network {last}; what")
    assert len((tmp_path / "run" / "candidates.jsonl").read_text().splitlines()) == 3
    again = nas(*SEARCH, "./mine.py", "--resume", "--traceback", cwd=tmp_path)
    assert again.returncode == 0, again.stderr  # The file counts on, and does not come to four again.


def test_traceback_shows_where_in_the_file(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(network):\n    return network.depth\n")
    done = nas(*SEARCH, "mine.py", "--traceback", cwd=tmp_path)

    assert done.returncode == 1
    assert "mine.py" in done.stderr and "return network.depth" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: mine.py, line 2, in score: AttributeError: ")


def test_options_variants_and_screens(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from nas.files import Record\n"
        "from nas.proxies import FunctionProxy\n"
        "VARIANT = 'sign'\n"
        "class Options(Record):\n    sign: int = 1\n    factor: float = 1.0\n"
        "def build(options, inputs):\n"
        "    return FunctionProxy(lambda network: options.sign * options.factor * len(network.stages))\n"
    )
    given = ("accuracy-table,./mine.py:-1", "--option", "factor=2", "--screen", "2", "--json")
    done = nas(*SEARCH, *given, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())["proxy"]
    assert json.loads(done.stdout)["winner"]["score"] == -8
    assert (run["name"], run["options"]) == ("./mine.py:-1", {"sign": -1, "factor": 2.0})
    assert [screen["name"] for screen in run["screens"]] == ["accuracy-table"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "error: --proxy ./mine.py: no such file"),
        ("def score(network:\n", "error: --proxy ./mine.py, line 1: "),
        ("import nowhere\n", "error: --proxy ./mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'; "),
    ],
)
def test_file_that_cannot_be_used_is_bad_input(
    nas: Nas, refused: Refused, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    done = nas(*SEARCH, "./mine.py", cwd=tmp_path)

    assert done.returncode == 2
    assert refused(done).startswith(message)
    assert not (tmp_path / "run").exists()
