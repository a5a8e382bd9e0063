"""What `--option` may set for an iPhone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nas.devices import Seconds
from nas.devices.coreml import ComputeUnits
from nas.files import Record

__all__ = ["Bundle", "Options", "Team"]

Team = Annotated[str, Field(pattern=r"^[A-Z0-9]{10}$")]
Bundle = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9][A-Za-z0-9-]*)+$", max_length=155)]


class Options(Record):
    """What `--option` may set.

    Attributes:
        team: signing team, ten letters and digits, as Xcode > Settings > Accounts shows it. It is remembered.
        bundle: identifier of the runner app. It is remembered. By default it is made from the team.
        compute_units: processors that Core ML may use.
        timeout_s: timeout of a job, loading included, in addition to the duration of its runs.
    """

    team: Team | None = None
    bundle: Bundle | None = None
    compute_units: ComputeUnits = "all"
    timeout_s: Seconds = 120.0
