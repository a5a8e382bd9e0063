"""Which network is best: the search, and what it leaves behind.

plan.py works out what a search will do, run.py does it: study.py (Optuna) proposes networks, stages.py lets the proxies
score them, and result.py keeps what is finished in the results folder, as records.py has it. pareto.py is the front.
study.py and run.py load Optuna, so import `run_search` by its file.
"""

from __future__ import annotations

from nas.search.pareto import hypervolume, undominated
from nas.search.plan import Plan, check_budget, plan_search
from nas.search.records import CIRCUMSTANCES, Candidate, Run, Screening, SpaceUsed, Spending, TableUsed, versions
from nas.search.result import ResultsFolder, SearchResult, score_of

__all__ = [
    "CIRCUMSTANCES",
    "Candidate",
    "Plan",
    "ResultsFolder",
    "Run",
    "Screening",
    "SearchResult",
    "SpaceUsed",
    "Spending",
    "TableUsed",
    "check_budget",
    "hypervolume",
    "plan_search",
    "score_of",
    "undominated",
    "versions",
]
