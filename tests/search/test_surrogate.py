from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import norm

from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.surrogate import Features, Surrogate, log_improvement, log_improvement_of_front


def made(number, features=6, seed=0, noise=0.0):
    random = np.random.default_rng(seed)
    known = random.normal(size=(number, features))
    scores = np.sin(known[:, 0]) + 0.5 * known[:, 1] + noise * random.normal(size=number)
    return known, (scores - scores.mean()) / scores.std()


def test_scores_of_other_networks_are_foretold_with_honest_deviations():
    features, scores = made(120, noise=0.05)
    surrogate = Surrogate(6)
    surrogate.fit(features[:80], scores[:80])
    surrogate.know(features[:80], scores[:80])
    mean, deviation = surrogate.predict(features[80:])
    errors = scores[80:] - mean

    assert np.corrcoef(mean, scores[80:])[0, 1] > 0.95
    assert 0.5 < (errors / np.hypot(deviation, 0.06)).std() < 2


def test_a_deviation_grows_away_from_what_is_known():
    features, scores = made(40)
    surrogate = Surrogate(6)
    surrogate.know(features, scores)
    _, (near, far) = surrogate.predict(np.stack([features[0], features[0] + 10]))

    assert far > 3 * near


def test_the_gradient_is_that_of_the_loss():
    features, scores = made(25)
    surrogate = Surrogate(6)
    start = surrogate._sizes + 0.1 * np.random.default_rng(1).normal(size=9)

    def loss(values):
        return surrogate._loss(values, features, scores)[0]

    def gradient(values):
        return surrogate._loss(values, features, scores)[1]

    assert check_grad(loss, gradient, start) < 1e-3 * np.linalg.norm(gradient(start))


@pytest.mark.parametrize("scores", [np.zeros(120), np.linspace(-1, 1, 120)], ids=["equal", "in a line"])
def test_scores_without_noise_can_be_learnt(scores):
    features = np.column_stack([np.linspace(-1, 1, 120), np.random.default_rng(0).normal(size=(120, 5))])
    surrogate = Surrogate(6)
    for _ in range(5):
        surrogate.fit(features, scores)
    surrogate.know(features, scores)

    assert np.isfinite(surrogate.predict(features)).all()


@pytest.mark.parametrize("above", [-30.0, -3.0, -0.1, 0.0, 2.0, 40.0])
def test_improvement_is_the_expected_one(above):
    deviation = np.asarray([0.5])
    found = log_improvement(np.asarray([1 + above * 0.5]), deviation, best=1.0)
    plain = 0.5 * (above * norm.cdf(above) + norm.pdf(above))

    if above > -10:
        assert found == pytest.approx(np.log(plain), abs=1e-6)
    else:  # Too small for a float; its logarithm is near that of pdf / above^2.
        assert found == pytest.approx(np.log(0.5) + norm.logpdf(above) - 2 * np.log(-above), abs=0.01)


def test_improvement_falls_with_the_mean_however_small_it_is():
    means = np.linspace(5, -400, 200)
    found = log_improvement(means, np.ones(200), best=0.0)

    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_improvement_over_close_levels_is_the_growth_of_the_area_under_the_front():
    random = np.random.default_rng(0)
    edges_ms = np.linspace(0.5, 1.5, 201)  # A network adds to the levels from its latency on.
    front = np.maximum.accumulate(np.where(edges_ms < 0.8, 0.0, np.where(edges_ms < 1.2, 1.0, 1.5)))
    latency_ms, mean, deviation = np.asarray([0.6, 0.9]), np.asarray([0.3, 1.2]), np.asarray([0.4, 0.5])
    found = log_improvement_of_front(mean, deviation, front, latency_ms[:, None] <= edges_ms)
    drawn = mean + deviation * random.standard_normal((20_000, 2))
    growth = [
        np.mean([np.maximum(one - front[latency <= edges_ms], 0).sum() for one in scores])
        for latency, scores in zip(latency_ms, drawn.T, strict=True)
    ]

    assert np.exp(found) == pytest.approx(growth, rel=0.03)


def test_improvement_over_one_level_is_the_plain_one():
    mean, deviation = np.asarray([-300.0, 0.2, 3.0]), np.asarray([1.0, 0.5, 0.1])
    found = log_improvement_of_front(mean, deviation, np.asarray([1.0]), np.ones((3, 1), dtype=bool))

    assert found == pytest.approx(log_improvement(mean, deviation, 1.0))


def test_features_are_standardised_and_tell_networks_apart():
    encoding = Encoding(SearchSpace.find("iformer"))
    features = Features(encoding, [lambda rows: 1.0 + rows.sum(axis=1)])
    rows = encoding.draw(3000, np.random.default_rng(1))
    found = features(rows)

    assert found.mean(axis=0) == pytest.approx(np.zeros(found.shape[1]), abs=0.1)
    assert found.std(axis=0) == pytest.approx(np.ones(found.shape[1]), abs=0.1)
    assert len(np.unique(found.round(6), axis=0)) > 2990
