"""Which network is best: the search and its results.

This package is a function as well, that of api.py: `nas.search("iformer", "iphone13", budget_ms=1.1)` searches, and
`help(nas.search.api.search)` says what else it takes.

budget.py and limits.py say what a network may cost, plan.py plans a search, and run.py runs it: it owns the results
folder (folder.py; result.py reads it, records.py has its records, pareto.py the front).

worker.py does the work: it takes a job (jobs.py) from the study (study.py, storage.py, patience.py), scores it, and
tells the study. rungs.py says which network goes on to a dearer proxy. New networks come from a sampler (sampler.py,
parameters.py): proposer.py with surrogate.py, regularised.py, both with mutation.py; or one of Optuna's. Other workers,
in processes and on machines, are in shared.py, team.py, heart.py and store.py.

survey.py is the search that trains nothing: it looks at thousands of networks by tables alone, with evolution.py.
guided.py is the search on the user's images, which begins with a survey.

run.py and what it is made of load Optuna. To keep this package light, import `run_search` from nas.search.run.
"""

from __future__ import annotations

from nas.packages import also_function
from nas.search.budget import Budgets, check_budget, check_milliseconds, read_budgets
from nas.search.folder import ResultsFolder, check_folder, default_out
from nas.search.guided import GuidedPlan, plan_guided, run_guided
from nas.search.limits import Limits, Quantity, find_quantities
from nas.search.pareto import hypervolume, undominated
from nas.search.plan import (
    SAMPLERS,
    Plan,
    check_sampler,
    draw_inside,
    duration,
    plan_search,
    random_inside,
)
from nas.search.records import Candidate, Run, Screening, SpaceUsed, Spending, TableUsed, versions
from nas.search.result import SearchResult, score_of
from nas.search.survey import NETWORKS, BatchProxy, SurveyPlan, look, plan_survey, run_survey

__all__ = [
    "NETWORKS",
    "SAMPLERS",
    "BatchProxy",
    "Budgets",
    "Candidate",
    "GuidedPlan",
    "Limits",
    "Plan",
    "Quantity",
    "ResultsFolder",
    "Run",
    "Screening",
    "SearchResult",
    "SpaceUsed",
    "Spending",
    "SurveyPlan",
    "TableUsed",
    "check_budget",
    "check_folder",
    "check_milliseconds",
    "check_sampler",
    "default_out",
    "draw_inside",
    "duration",
    "find_quantities",
    "hypervolume",
    "look",
    "plan_guided",
    "plan_search",
    "plan_survey",
    "random_inside",
    "read_budgets",
    "run_guided",
    "run_survey",
    "score_of",
    "undominated",
    "versions",
]

also_function(__name__, "nas.search.api")
