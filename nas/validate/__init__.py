"""How far latencies, proxies and searches can be trusted, judged by published figures.

::

    results/validation/
      scores.jsonl         one finished score per line, appended and flushed at once; no score is computed twice
      search-0.60ms/       the results folder of the search inside that budget
      searches.jsonl       the finished searches, one per line
      validation.json      the figures with their sources, written after every step
      validation.html      the same as a page, written by `nas validate` at the end, also after an error

The unit of every comparison is the standard deviation over seeds of one score, pooled over the published networks.

A proxy is compared with rankings that need none (baselines.py, agreement.py), and with the widths of the stages
(widths.py), so that a proxy which only repeats them is seen.

accuracy.py and foretold.py are about accuracy tables: rows of the family left out, and a survey beside the variants.

request.py is what is asked, run.py computes it, and records.py is the result. run.py loads Optuna. To keep this package
light, import `run_validation` from nas.validate.run.
"""

from __future__ import annotations

from nas.validate.foretold import accuracy_part
from nas.validate.records import Validation
from nas.validate.request import Request, published_points, read_budgets, unlike

__all__ = ["Request", "Validation", "accuracy_part", "published_points", "read_budgets", "unlike"]
