"""The page of a search in a real browser: clicks, keys, hover, sorting, light and dark, phone-sized screens."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.networks import Architecture, why_not_timm
from nas.report import write_plot, write_validation
from nas.search import Candidate, SearchResult
from nas.validate import Validation
from tests.report.browser import PROGRAM, Page

KEPT = Path(__file__).parents[2] / "results"
SURVEY = SearchResult.load(KEPT / "survey-1.1ms")
HOSTILE = "</script><img src=x onerror=errors.push('run')><b>"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs a Chrome or Chromium browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as page:
        yield page


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real run."""
    file = tmp_path_factory.mktemp("page") / "survey.html"
    write_plot([SURVEY], file)
    return file


@pytest.fixture
def page(browser: Page, survey: Path) -> Iterator[Page]:
    """The page of a real run, light and wide; at the end it has met no error and asked for nothing elsewhere."""
    browser.set_window(width=1280)
    browser.set_dark(False)
    browser.open(survey)
    yield browser
    assert browser.ask("errors") == []


def names(page: Page) -> list[str]:
    """The two networks that are open."""
    return list(page.ask("[...document.querySelectorAll('#cards [data-name]')].map(one => one.textContent)"))


def column(page: Page, number: int) -> list[str]:
    """A column of the table of candidates."""
    return list(
        page.ask(f"[...document.querySelectorAll('#candidates tbody tr')].map(row => row.cells[{number}].textContent)")
    )


def test_at_first_the_winner_stands_beside_iformer_m(page: Page) -> None:
    assert SURVEY.winner is not None
    assert names(page) == [SURVEY.winner.id, "iformer_m"]
    assert "slower than iformer_m by prediction" in page.ask("document.getElementById('comparison').textContent")


def test_the_layers_that_differ_add_up_to_the_difference(page: Page) -> None:
    differences = page.ask(
        "[...document.querySelectorAll('#differences tbody td:nth-child(2)')].map(one => one.textContent)"
    )
    total = sum(float(one.replace("−", "-").removesuffix(" ms")) for one in differences)  # noqa: RUF001 - a minus
    winner, (medium,) = SURVEY.winner, [one for one in SURVEY.references if one.label == "iformer_m"]

    assert winner is not None
    assert total == pytest.approx(winner.latency_ms - medium.latency_ms, abs=0.003)


def test_a_point_names_its_network_on_hover_and_opens_it_on_click(page: Page) -> None:
    page.show("front-1")
    fastest = SURVEY.front[0]
    hover = page.hover("front-1", "Pareto front", 0)
    page.click_point("front-1", "Pareto front", 0)
    page.wait(f"document.querySelector('#cards [data-name]').textContent === '{fastest.id}'")
    page.click_point("front-1", "winner", 0, with_shift=True)
    page.wait("document.querySelectorAll('#cards [data-name]')[1].textContent !== 'iformer_m'")

    assert fastest.id in hover
    assert SURVEY.winner is not None
    assert names(page) == [fastest.id, SURVEY.winner.id]
    assert page.ask("document.activeElement.id") == "network-title"


def test_the_copied_json_is_the_network(page: Page) -> None:
    text = page.ask("document.querySelector('#cards [data-json]').textContent")

    assert Architecture.from_json(text).id == SURVEY.winner.id if SURVEY.winner else False


def test_the_commands_of_every_network_are_whole_and_of_formats_that_take_it(page: Page, tmp_path: Path) -> None:
    shown = page.ask(
        "Networks.all.id.map((id, n) => [Networks.role(n), Networks.architecture(n), Networks.commands(n)])"
    )
    page.ask("document.querySelector('#candidates tbody tr').click()")
    text = page.ask("document.querySelector('#cards [data-commands]').textContent")
    for role, architecture, commands in shown:
        network = Architecture.model_validate(architecture)
        formats = [one.split()[-1] for one in commands if one.startswith("nas export ")]

        assert formats == ["onnx", "coreml", "torch", "executorch", *([] if why_not_timm(network) else ["timm"])]
        if role == "winner":
            assert commands[0] == f"nas export {SURVEY.path} --format onnx"
        else:
            assert commands[-1] == "nas latency network.json --table iphone13.coreml.fp16"
    _, architecture, commands = next(one for one in shown if one[0] == "reference")
    subprocess.run(["sh", "-c", commands[0]], cwd=tmp_path, check=True)
    assert Architecture.load(tmp_path / "network.json") == Architecture.model_validate(architecture)
    assert text in ["\n".join(commands) for _, _, commands in shown]
    assert {why_not_timm(Architecture.model_validate(one)) == "" for _, one, _ in shown} == {True, False}


def test_every_candidate_has_its_own_json_and_summary(page: Page) -> None:
    """Every tenth candidate, opened one after the other."""
    shown = page.ask(
        "[...document.querySelectorAll('#candidates tbody tr')].filter((row, n) => n % 10 === 0).map(row => {"
        "row.click(); return [document.querySelector('#cards [data-json]').textContent, row.cells[0].textContent,"
        "[...document.querySelectorAll('#cards dt')].find(one => one.textContent === 'blocks').nextSibling.textContent]"
        "})"
    )
    for text, label, blocks in shown:
        network = Architecture.from_json(text)

        assert label in (network.id, *(one.label for one in SURVEY.references if one.id == network.id))
        assert blocks == network.summary


def test_the_table_sorts_by_a_click_on_its_header_and_tells_how(page: Page) -> None:
    latency = "#candidates thead th:nth-child(3)"
    page.click(f"{latency} button")
    rising = [float(cell.split()[0]) for cell in column(page, 2)]
    told = page.ask(f"document.querySelector('{latency}').ariaSort")
    page.click(f"{latency} button")
    falling = [float(cell.split()[0]) for cell in column(page, 2)]

    assert len(rising) == 50
    assert rising == sorted(rising)
    assert told == "ascending"
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > rising[-1]


def test_the_table_is_filtered_by_text_and_role_and_has_pages(page: Page) -> None:
    page.click("#later")
    second = page.ask("document.getElementById('place').textContent")
    page.ask("document.getElementById('filter').focus()")
    page.type("iformer_")
    found = column(page, 0)
    page.ask("const box = document.getElementById('role'); box.value = 'front'; box.dispatchEvent(new Event('change'))")

    assert second == "51 to 100"
    assert sorted(found) == ["iformer_m", "iformer_s", "iformer_t"]
    assert column(page, 0) == []


def test_the_keyboard_opens_a_network(page: Page) -> None:
    page.ask("document.querySelectorAll('#candidates .link')[3].focus()")
    wanted = page.ask("document.activeElement.textContent")
    page.press("Enter")

    assert names(page)[0] == wanted


def test_published_networks_are_a_layer_that_is_switched_on(page: Page) -> None:
    page.show("front-1")
    visible = "document.querySelector('[data-figure]').data.filter(one => one.name.startsWith('published'))"
    before = page.ask(f"{visible}.map(one => one.visible)")
    page.click("[data-layers='front-1'] label:last-child input")
    page.wait(f"{visible}.every(one => one.visible)")

    assert before == [True, False]


def test_dark_is_the_setting_of_the_reader_and_figures_follow(page: Page) -> None:
    page.show("front-1")
    ink = "document.querySelector('[data-figure]')._fullLayout.font.color"
    ground = "getComputedStyle(document.body).backgroundColor"
    light = [page.ask(ink), page.ask(ground)]
    page.set_dark(True)
    page.wait(f"{ink} !== {json.dumps(light[0])}")

    assert light == ["#1f2937", "rgb(255, 255, 255)"]
    assert [page.ask(ink), page.ask(ground)] == ["#e5e7eb", "rgb(20, 23, 28)"]


@pytest.mark.parametrize("name", ["survey-1.1ms", "tiny50-1.1ms"])
def test_a_phone_scrolls_down_only(name: str, browser: Page, tmp_path: Path) -> None:
    write_plot([SearchResult.load(KEPT / name)], tmp_path / "page.html")
    browser.set_window(width=360, height=740)
    browser.open(tmp_path / "page.html")
    for figure in browser.ask("[...document.querySelectorAll('[data-figure]')].map(one => one.dataset.figure)"):
        browser.show(figure)

    assert browser.ask("document.documentElement.scrollWidth") == 360
    assert browser.ask("errors") == []


def test_everything_that_is_used_has_a_name_for_screen_readers(page: Page) -> None:
    nameless = page.ask(
        "[...document.querySelectorAll('button, input, select, [role=img], [role=region]')].filter(one => !("
        "one.textContent.trim() || one.ariaLabel || one.labels?.length)).map(one => one.outerHTML)"
    )

    assert nameless == []
    assert page.ask("document.documentElement.lang") == "en"
    assert page.ask("document.querySelectorAll('h1').length") == 1


def test_hostile_names_are_shown_letter_by_letter(
    result: SearchResult, candidate: Callable[..., Candidate], browser: Page, tmp_path: Path
) -> None:
    (reference,) = result.references
    hostile = candidate(reference.architecture, 0.6, 0.45, name=HOSTILE)
    failed = result.candidates[1].model_copy(update={"score": None, "failure": HOSTILE})
    run = result.run.model_copy(update={"proxy": {"name": HOSTILE, "data": HOSTILE}, "command": HOSTILE})
    changed = SearchResult(
        path=tmp_path / "<b>run", run=run, candidates=(result.candidates[0], failed, hostile, result.candidates[2])
    )
    write_plot([changed, result], tmp_path / "page.html")
    browser.set_window(width=1280)
    browser.open(tmp_path / "page.html")
    browser.show("front-1")
    hover = browser.hover("front-1", "references, scored here", 0)
    browser.click_point("front-1", "references, scored here", 0)
    browser.wait(f"document.querySelector('#cards [data-name]').textContent === {json.dumps(HOSTILE)}")

    assert browser.ask("errors") == []
    assert browser.ask("document.querySelectorAll('main img, main b').length") == 0
    assert HOSTILE in hover


def test_a_run_without_a_score_has_a_page(result: SearchResult, browser: Page, tmp_path: Path) -> None:
    failed = result.candidates[1].model_copy(update={"score": None, "failure": "loss is not finite"})
    for name, candidates in (("none", ()), ("failed", (failed,))):
        write_plot([SearchResult(path=result.path, run=result.run, candidates=candidates)], tmp_path / f"{name}.html")
        browser.open(tmp_path / f"{name}.html")
        browser.show("front-1")

        assert browser.ask("document.querySelector('h1').textContent") == "No network inside 1 ms has a score yet."
        assert browser.ask("errors") == []


def test_the_page_of_a_validation_has_the_same_house_style(browser: Page, tmp_path: Path) -> None:
    write_validation(Validation.load(KEPT / "validation"), tmp_path / "page.html")
    browser.set_window(width=360)
    browser.open(tmp_path / "page.html")
    for figure in browser.ask("[...document.querySelectorAll('[data-figure]')].map(one => one.dataset.figure)"):
        browser.show(figure)

    assert browser.ask("errors") == []
    assert browser.ask("document.documentElement.scrollWidth") == 360
