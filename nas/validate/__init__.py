"""Published figures x table x proxies -> how far latencies and scores can be trusted.

::

    results/validation/
      scores.jsonl         one finished score a line, appended and flushed as it comes; no score is computed twice
      search-0.60ms/       the results folder of the search inside that budget
      searches.jsonl       the searches that came to their end, a line each
      validation.json      the figures with their origin, written after every step
      validation.html      the same as a page, written by `nas validate` at the end, however it comes

Everything is compared in standard deviations over seeds of one score of one network, pooled over the published rows.

request.py is what is asked, run.py does it, and records.py is what comes out. run.py loads Optuna, so import
`run_validation` by its file.
"""

from __future__ import annotations

from nas.validate.records import (
    CLEAR,
    EPOCHS,
    LADDER,
    NEAR_MS,
    RESOLUTION,
    Gap,
    Noise,
    ProxyPair,
    ProxyPart,
    RankAgreement,
    RecoveryPart,
    ScoredNetwork,
    SeedScore,
    Validation,
)
from nas.validate.request import Request, published_points, read_budgets, unlike

__all__ = [
    "CLEAR",
    "EPOCHS",
    "LADDER",
    "NEAR_MS",
    "RESOLUTION",
    "Gap",
    "Noise",
    "ProxyPair",
    "ProxyPart",
    "RankAgreement",
    "RecoveryPart",
    "Request",
    "ScoredNetwork",
    "SeedScore",
    "Validation",
    "published_points",
    "read_budgets",
    "unlike",
]
