"""A Gaussian process over the networks of a space: scores that are known foretell those that are not.

The covariance of two scores is a sum of what acts in a line and what acts along a smooth curve (Matern 5/2), over what
the networks are made of, each number with a length of its own. The lengths are the most probable ones under a prior
that lets every number matter a little, so few scores suffice. Rasmussen and Williams, Gaussian Processes for Machine
Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_ndtr, logsumexp, ndtr

from nas.accuracy.process import squared_distance
from nas.accuracy.structure import numbers_of_rows
from nas.networks.encoding import Encoding, Rows

__all__ = ["Features", "Surrogate", "log_improvement", "log_improvement_of_front"]

Floats = npt.NDArray[np.float64]

_SAMPLE = 4000  # random networks whose numbers set the scales
_MEAN = 4.0  # variance of the mean of all scores, in squared standard deviations of the scores: nearly free
_LINEAR, _CURVE, _NOISE = 0, 1, 2  # places of the sizes; one length a feature follows
_MEDIANS, _SPREADS = np.log([1.0, 0.7, 0.25]), np.asarray([1.0, 0.7, 0.7])
_LEAST_NOISE = 1e-5  # variance; with less, the covariance of scores without noise cannot be solved
_LENGTH_SPREAD = 1.0
_STEPS = 30  # of the optimizer


class Features:
    """What networks are made of as numbers, standardised over random networks of the space.

    Args:
        encoding: of the space.
        sizes: numbers of a whole network that also tell it, such as latency and weights; their logarithms count.
    """

    def __init__(self, encoding: Encoding, sizes: Sequence[Callable[[Rows], Floats]]) -> None:
        self._encoding, self._sizes = encoding, sizes
        sampled = self._numbers(encoding.draw(_SAMPLE, np.random.default_rng(0)))
        # A layer that failed on the device makes networks infinitely slow; none of them is ever proposed.
        sampled = sampled[np.isfinite(sampled).all(axis=1)]
        self._varied = sampled.std(axis=0) > 1e-9
        self._centre = sampled.mean(axis=0)[self._varied]
        self._scale = sampled.std(axis=0)[self._varied]

    def __call__(self, rows: Rows) -> Floats:
        """The features of networks, (N, F)."""
        standardised: Floats = (self._numbers(rows)[:, self._varied] - self._centre) / self._scale
        return standardised

    def _numbers(self, rows: Rows) -> Floats:
        encoding = self._encoding
        whole = [encoding.values(rows, name) for name in ("resolution", "downsample.kernel")]
        sizes = [np.log(size(rows)) for size in self._sizes]
        return np.column_stack([numbers_of_rows(encoding, rows), *whole, *sizes])


class Surrogate:
    """Learns scores, and foretells others.

    Args:
        features: number of features of a network.

    All scores are in standard deviations of the scores that are known.
    """

    def __init__(self, features: int) -> None:
        self._medians = np.concatenate([_MEDIANS, np.full(features, -0.5 * np.log(features))])
        self._spreads = np.concatenate([_SPREADS, np.full(features, _LENGTH_SPREAD)])
        self._sizes = self._medians.copy()  # logarithms

    def fit(self, features: Floats, scores: Floats) -> None:
        """Learn sizes and lengths, from where they stood; about 0.2 s for 200 networks.

        Args:
            features: of networks with a score, (N, F).
            scores: (N,).
        """
        found = minimize(
            self._loss, self._sizes, args=(features, scores), jac=True, method="L-BFGS-B",
            options={"maxiter": _STEPS},
        )  # fmt: skip
        self._sizes = found.x

    def know(self, features: Floats, scores: Floats) -> None:
        """Take scores as known; arguments as in `fit`."""
        self._features = features
        noise = (np.exp(2 * self._sizes[_NOISE]) + _LEAST_NOISE) * np.eye(len(scores))
        self._factor = cho_factor(self._covariance(features, features) + noise, lower=True)
        self._weights = cho_solve(self._factor, scores)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the scores of other networks without the noise of a score, each (M,)."""
        shared = self._covariance(features, self._features)
        explained = solve_triangular(self._factor[0], shared.T, lower=True)
        sizes = np.exp(2 * self._sizes[: len(_MEDIANS)])
        scaled = features * np.exp(self._sizes[len(_MEDIANS) :])
        own = _MEAN + sizes[_LINEAR] * (scaled**2).sum(axis=1) + sizes[_CURVE]
        return shared @ self._weights, np.sqrt(np.maximum(own - (explained**2).sum(axis=0), 1e-9))

    def _covariance(self, features: Floats, others: Floats) -> Floats:
        sizes, inverse_lengths = np.exp(2 * self._sizes[: len(_MEDIANS)]), np.exp(self._sizes[len(_MEDIANS) :])
        scaled, other = features * inverse_lengths, others * inverse_lengths
        smooth, _ = _matern(scaled, other)
        linear: Floats = _MEAN + sizes[_LINEAR] * (scaled @ other.T)
        whole: Floats = linear + sizes[_CURVE] * smooth
        return whole

    def _loss(self, logarithms: Floats, features: Floats, scores: Floats) -> tuple[float, Floats]:
        """Negative logarithm of the posterior, and its gradient."""
        sizes, inverse_lengths = np.exp(2 * logarithms[: len(_MEDIANS)]), np.exp(logarithms[len(_MEDIANS) :])
        scaled = features * inverse_lengths
        smooth, slope = _matern(scaled, scaled)
        linear = scaled @ scaled.T
        covariance = _MEAN + sizes[_LINEAR] * linear + sizes[_CURVE] * smooth
        try:
            factor = cho_factor(covariance + (sizes[_NOISE] + _LEAST_NOISE) * np.eye(len(scores)), lower=True)
        except np.linalg.LinAlgError:  # The optimizer tried something absurd; it goes back.
            return 1e10, np.zeros_like(logarithms)
        weights = cho_solve(factor, scores)
        towards = np.outer(weights, weights) - cho_solve(factor, np.eye(len(scores)))  # derivative, twice
        gradient = np.empty_like(logarithms)
        gradient[_LINEAR] = sizes[_LINEAR] * (towards * linear).sum()
        gradient[_CURVE] = sizes[_CURVE] * (towards * smooth).sum()
        gradient[_NOISE] = sizes[_NOISE] * np.trace(towards)
        curved = towards * slope * sizes[_CURVE]
        by_length = (curved.sum(axis=1)[:, None] * scaled**2).sum(axis=0) - (scaled * (curved @ scaled)).sum(axis=0)
        by_length += sizes[_LINEAR] * (scaled * (towards @ scaled)).sum(axis=0)
        gradient[len(_MEDIANS) :] = by_length
        away = (logarithms - self._medians) / self._spreads
        likelihood = -0.5 * scores @ weights - np.log(np.diag(factor[0])).sum()
        return float(0.5 * (away**2).sum() - likelihood), away / self._spreads - gradient


def log_improvement(mean: Floats, deviation: Floats, best: float | Floats) -> Floats:
    """Logarithm of the expected improvement over `best`, also where it is too small for a float.

    The arguments may be arrays that broadcast.

    Ament et al., Unexpected Improvements to Expected Improvement (NeurIPS 2023), equation 9.
    """
    above = (mean - best) / deviation
    density = -0.5 * above**2 - 0.5 * np.log(2 * np.pi)
    # Near 0 and above it is log(above * cdf + pdf). Below, log(pdf) + log(1 + above * cdf / pdf), of which the second
    # goes to log(1 / above^2).
    near, far = np.maximum(above, -1.0), np.clip(above, -100.0, -1.0)
    plain = np.log(near * ndtr(near) + np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi))
    bracket = np.log1p(far * np.exp(log_ndtr(far) + 0.5 * far**2 + 0.5 * np.log(2 * np.pi)))
    small = density + np.where(above < -100, -2 * np.log(np.maximum(-above, 1.0)), bracket)
    logarithm: Floats = np.where(above > -1, plain, small) + np.log(deviation)
    return logarithm


def log_improvement_of_front(mean: Floats, deviation: Floats, best: Floats, counts: npt.NDArray[np.bool_]) -> Floats:
    """Logarithm of the expected improvement, added up over levels of latency.

    Where the levels lie close, it is the expected growth of the area under the front of score over latency: the latency
    of a network is known, so it adds to just those levels that it is inside of.

    Args:
        mean: of the scores of networks, (N,).
        deviation: (N,).
        best: best score so far inside each level, (L,).
        counts: whether a network is inside a level, (N, L); every network inside one at least.
    """
    network, level = np.nonzero(counts)
    each = np.full(counts.shape, -np.inf)
    each[network, level] = log_improvement(mean[network], deviation[network], best[level])
    summed: Floats = logsumexp(each, axis=1)
    return summed


def _matern(scaled: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Matern 5/2 of scaled distances, and twice its derivative by the squared distance; each (N, M)."""
    distance = np.sqrt(5 * squared_distance(scaled, others) + 1e-12)
    decay = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * decay, -(5 / 3) * (1 + distance) * decay
