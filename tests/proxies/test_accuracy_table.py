from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.accuracy import AccuracyTable
from nas.errors import InputError
from nas.networks import Architecture, SearchSpace
from nas.proxies import build_proxies
from nas.proxies.accuracy_table import PredictedAccuracy

REFERENCES = SearchSpace.find("iformer").references
NETWORKS = [REFERENCES[f"iformer_{size}"] for size in "tsml"]


def _build(**options: str) -> PredictedAccuracy:
    (proxy,) = build_proxies("accuracy-table", data="no such folder", seed=0, options=options).values()
    assert isinstance(proxy, PredictedAccuracy)
    return proxy


def test_a_score_is_the_predicted_accuracy_with_its_interval() -> None:
    table, _ = AccuracyTable.find("iformer")

    for network, predicted, score in zip(NETWORKS, table.predict(NETWORKS), _build().score_all(NETWORKS), strict=True):
        assert score.value == predicted.top1
        assert (score.details["low"], score.details["high"]) == (predicted.low, predicted.high)
        for name, part in predicted.parts.items():
            ends = [score.details[f"{name}{end}"] for end in (" low", "", " high")]
            assert ends == [part.low, part.top1, part.high]
        assert score.weights is None
        assert _build().score(network).value == pytest.approx(predicted.top1)


def test_larger_published_networks_score_higher() -> None:
    values = [score.value for score in _build().score_all(NETWORKS)]

    assert sorted(values) == values
    assert len(set(values)) == 4


def test_scores_say_how_long_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = _build()
    clock = iter([5.0, 5.0, 6.0, 8.0, 9.0, 9.25])
    monkeypatch.setattr("nas.proxies.accuracy_table.time", SimpleNamespace(perf_counter=lambda: next(clock)))

    assert proxy.score_all([]) == []
    assert [score.seconds for score in proxy.score_all(NETWORKS)] == [0.5] * 4
    assert proxy.estimate_seconds(NETWORKS[0]) == 0.25


def test_settings_name_the_table_its_content_and_its_trust() -> None:
    table, _ = AccuracyTable.find("iformer")

    assert _build().settings() == {
        "proxy": "accuracy-table",
        "accuracy_table": "iformer.imagenet",
        "digest": table.digest(),
        "trust": table.trust,
    }


def test_another_table_is_another_setting(tmp_path: Path) -> None:
    table, _ = AccuracyTable.find("iformer")
    wider = table.published.model_copy(update={"widening": 2.0})
    path = tmp_path / "mine.json"
    table.model_copy(update={"published": wider}).save(path)
    proxy, shipped = _build(accuracy_table=str(path)), _build()
    (mine, usual) = (one.score(NETWORKS[2]).details for one in (proxy, shipped))

    assert proxy.settings()["accuracy_table"] == str(path)
    assert proxy.settings()["digest"] != shipped.settings()["digest"]
    assert float(mine["low"]) < float(usual["low"])


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no accuracy table named 'nothing': .*iformer\.imagenet"):
        _build(accuracy_table="nothing")
    with pytest.raises(InputError, match="--proxy accuracy-table does not take effort: its options are accuracy_table"):
        _build(effort="quick")


def test_no_torch_is_loaded_and_no_image_is_read() -> None:
    code = (
        "import sys\n"
        "from nas.networks import SearchSpace\n"
        "from nas.proxies import build_proxies\n"
        "(proxy,) = build_proxies('accuracy-table', data='no such folder', seed=0).values()\n"
        "proxy.score(SearchSpace.find('tiny').references['tiny_a'])\n"
        "print(sorted({'torch', 'optuna', 'PIL', 'pyarrow', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_the_same_accuracy_is_foretold_at_any_number_of_classes() -> None:
    network: Architecture = REFERENCES["iformer_m"]

    assert _build().score(network).value == _build().score(network.at(num_classes=20)).value
