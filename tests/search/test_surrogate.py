from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import norm

from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.surrogate import Features, Surrogate, log_improvement


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


def test_features_are_standardised_and_tell_networks_apart():
    encoding = Encoding(SearchSpace.find("iformer"))
    features = Features(encoding, [lambda rows: 1.0 + rows.sum(axis=1)])
    rows = encoding.draw(3000, np.random.default_rng(1))
    found = features(rows)

    assert found.mean(axis=0) == pytest.approx(np.zeros(found.shape[1]), abs=0.1)
    assert found.std(axis=0) == pytest.approx(np.ones(found.shape[1]), abs=0.1)
    assert len(np.unique(found.round(6), axis=0)) > 2990
