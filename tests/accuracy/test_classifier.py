from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nas.accuracy import AccuracyTable, classifier_of, classifier_words
from nas.accuracy.classifier import classifier_layer, classifier_px
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.encoding import Encoding

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.find("iformer-512")


@pytest.fixture(scope="module")
def drawn(space: SearchSpace) -> list[Architecture]:
    return [space.sample(random_choice(seed)) for seed in range(20)]


def test_a_backbone_is_judged_as_the_same_network_at_224_px(space: SearchSpace) -> None:
    usual = SearchSpace.find("iformer").references["iformer_m"]
    table, _ = AccuracyTable.find("iformer")

    assert usual.id == classifier_of(space.references["iformer_m_512"]).id
    assert table.predict([usual]) == table.predict([space.references["iformer_m_512"]])


def test_a_network_for_images_as_large_as_published_ones_is_judged_as_it_is() -> None:
    usual = SearchSpace.find("iformer").references["iformer_m"]

    for resolution in (64, 224, 256):
        assert usual.at(resolution=resolution).id == classifier_of(usual.at(resolution=resolution)).id
    assert [classifier_px(px) for px in (64, 256, 260, 288, 512)] == [64, 256, 260, 224, 224]


def test_the_bound_is_that_of_the_published_networks() -> None:
    lines = (ROOT / "accuracy_tables" / "imagenet.results.csv").read_text().splitlines()
    largest = max(int(line.split(",")[2]) for line in lines[2:])

    assert classifier_px(largest) == largest
    assert classifier_px(largest + 1) == 224


def test_its_layers_are_those_of_the_classifier(drawn: list[Architecture]) -> None:
    for network in drawn:
        layers = [classifier_layer(layer, network.resolution) for layer in network.at(num_classes=7).layers()]

        assert list(classifier_of(network).layers()) == layers


def test_rows_are_predicted_as_networks_are(space: SearchSpace, drawn: list[Architecture]) -> None:
    table, _ = AccuracyTable.find("iformer")
    encoding = Encoding(space)
    by_row = table.of_rows(encoding)(encoding.encode(drawn))

    assert [one.top1 for one in table.predict(drawn)] == pytest.approx(np.asarray([one.top1 for one in by_row]))


def test_words_say_so_only_where_it_is_so() -> None:
    assert classifier_words([224, 512]) == " as a classifier at 224 px"
    assert classifier_words([224, 256]) == classifier_words([]) == ""
