"""How good a network looks before full training: one module per proxy, each with `Options` and `build`.

`--proxy short-training` is nas/proxies/short_training.py. A module has at its top level::

    class Options(Record): ...                     what --option NAME=VALUE may set, with defaults
    VARIANT = "effort"                             the option that --proxy short-training:standard sets; may be absent
    def build(options: Options, inputs: Inputs) -> Proxy

`--proxy A+B` is a panel of proxies (nas/proxies/_panel.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nas.catalog import load_plugin
from nas.errors import InputError
from nas.files import Record
from nas.networks import Architecture
from nas.proxies._base import (
    CIRCUMSTANCES,
    NO_IMAGES,
    Attempt,
    Inputs,
    Proxy,
    Score,
    ScoringFailed,
    attempt,
    differing,
    identity,
)
from nas.proxies._panel import Panel

if TYPE_CHECKING:
    from nas.data import DataSource, Progress

__all__ = [
    "CIRCUMSTANCES",
    "NO_IMAGES",
    "Attempt",
    "Inputs",
    "Panel",
    "Proxy",
    "Score",
    "ScoringFailed",
    "attempt",
    "build_proxies",
    "differing",
    "identity",
]


def build_proxies(
    names: str,
    *,
    data: str | DataSource,
    seed: int,
    options: Mapping[str, str] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    band: Sequence[Architecture] = (),
) -> dict[str, Proxy]:
    """Build the proxies of `--proxy` and `--option NAME=VALUE`, by name, in the order given.

    `--proxy` names one proxy, or several with commas between them, such as the stages of a funnel. Each is
    NAME[:VARIANT], or a panel of two or more of these: `zero-cost:zico,supernet+zero-cost:naswot`. The keys are the
    names as written there, with their variants. A variant is the value of the option that a module names in `VARIANT`:
    `short-training:standard` is short training with `effort=standard`. An option from `--option` goes to every proxy
    that has it, members of panels included.

    Args:
        names: the value of `--proxy`.
        data: source of the images to score on.
        seed: random seed of weights, order of images, augmentation, and the choice of images.
        options: values of `--option`, by name.
        device: where to run; by default a GPU if there is one.
        progress: called with the progress of loading, and of scoring the band.
        band: random networks of the latency band that the scores are for. Only a panel needs them: it scores them all
            with each of its members when it is first used.
    Raises:
        InputError: a proxy does not exist or is named twice, a panel has fewer than two members or no band, an option
            belongs to none of the proxies, a value breaks a rule, or the data cannot be read.
    """
    panels = {name: _members(name) for name in names.split(",")}
    if len({tuple(sorted(members)) for members in panels.values()}) < len(names.split(",")):
        raise InputError(f"--proxy {names}: the same proxy twice")
    modules = {
        member: load_plugin("proxy", "proxies", member.partition(":")[0])
        for members in panels.values()
        for member in members
    }
    given = dict(options or {})
    known = {option: None for module in modules.values() for option in module.Options.model_fields}
    if unknown := sorted(set(given) - set(known)):
        takes = f"its options are {', '.join(known)}" if known else "it has no options"
        raise InputError(f"--proxy {names} does not take {unknown[0]}: {takes}")
    checked = {member: _checked(member, module, given) for member, module in modules.items()}
    for name, members in panels.items():
        _refuse_equal(name, {member: (modules[member], checked[member]) for member in members})
    inputs = Inputs(data=data, seed=seed, device=device, progress=progress, band=tuple(band))
    # A member of two panels is built once: it may hold a supernet and thousands of images.
    built: dict[str, Proxy] = {member: module.build(checked[member], inputs) for member, module in modules.items()}
    return {
        name: built[name] if members == [name] else Panel({member: built[member] for member in members}, inputs)
        for name, members in panels.items()
    }


def _members(name: str) -> list[str]:
    """The members of a panel; a proxy that is no panel is its own only member."""
    members = name.split("+")
    if len(members) > 1 and "" in members:
        raise InputError(f"--proxy {name}: a panel is written NAME+NAME, with a proxy on both sides of each +")
    if twice := [member for member in members if members.count(member) > 1]:
        raise InputError(f"--proxy {name}: {twice[0]} twice in a panel; leave out one")
    return members


def _checked(name: str, module: ModuleType, given: Mapping[str, str]) -> Record:
    """The validated options of one proxy."""
    own = {key: value for key, value in given.items() if key in module.Options.model_fields}
    base, colon, variant = name.partition(":")
    if colon:
        option = getattr(module, "VARIANT", None)
        if option is None:
            raise InputError(f"--proxy {name}: {base} has no variants")
        if own.setdefault(option, variant) != variant:
            raise InputError(f"--proxy {name} and --option {option}={own[option]} do not go together: leave out one")
    try:
        checked: Record = module.Options.model_validate(own)
    except ValidationError as error:
        raise InputError.from_validation(f"--proxy {name}", error) from error
    return checked


def _refuse_equal(name: str, members: Mapping[str, tuple[ModuleType, Record]]) -> None:
    """Refuse a panel in which two members are the same proxy with the same options: it would count twice."""
    for (one, its), (other, others) in combinations(members.items(), 2):
        if its == others:
            raise InputError(f"--proxy {name}: {one} and {other} are the same proxy; leave out one")
