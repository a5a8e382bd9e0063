"""How good a network looks before full training: one module per proxy, each with `Options` and `build`.

`--proxy short-training` is nas/proxies/short_training.py. A module has at its top level::

    class Options(Record): ...                     what --option NAME=VALUE may set, with defaults
    VARIANT = "effort"                             the option that --proxy short-training:standard sets; may be absent
    def build(options: Options, inputs: Inputs) -> Proxy

`--proxy A+B` is a panel of proxies (nas/proxies/_panel.py). `--proxy ./my_proxy.py` is a file of the user's own, with a
plain function `score(network)` or of this form (nas/proxies/_own.py); from Python, `nas.search(..., score=FUNCTION)`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from nas.catalog import load_plugin
from nas.errors import InputError, did_you_mean
from nas.networks import Architecture
from nas.proxies._base import (
    CIRCUMSTANCES,
    NO_IMAGES,
    Attempt,
    Inputs,
    OutOfTime,
    Proxy,
    Score,
    ScoringFailed,
    attempt,
    differing,
    identity,
)
from nas.proxies._function import FunctionProxy, Scorer
from nas.proxies._own import Plugin, is_own, load_own
from nas.proxies._panel import Panel

if TYPE_CHECKING:
    from nas.data import DataSource, Progress

__all__ = [
    "CIRCUMSTANCES",
    "NO_IMAGES",
    "Attempt",
    "FunctionProxy",
    "Inputs",
    "OutOfTime",
    "Panel",
    "Proxy",
    "Score",
    "Scorer",
    "ScoringFailed",
    "attempt",
    "build_proxies",
    "differing",
    "identity",
    "runs_code",
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

    A NAME with a slash, or one that ends in `.py`, is a file of the user's own, which is run.

    Args:
        names: the value of `--proxy`.
        data: source of the images to score on.
        seed: random seed of weights, order of images, augmentation, and the choice of images.
        options: values of `--option`, by name.
        device: where to run; by default a GPU if there is one.
        progress: called with the progress of loading, of scoring the band, and of each score.
        band: random networks of the latency band that the scores are for. Only a panel needs them: it scores them all
            with each of its members when it is first used.
    Raises:
        InputError: a proxy does not exist or is named twice, a panel has fewer than two members or no band, an option
            belongs to none of the proxies, a value breaks a rule, the data cannot be read, or a file cannot be used.
        NasError: an error in a file of the user's own.
    """
    apart = _apart(names, ",")
    panels = {name: _members(name) for name in apart}
    if len({tuple(sorted(members)) for members in panels.values()}) < len(apart):
        raise InputError(f"--proxy {names}: the same proxy twice")
    bases = {member: _base_and_variant(member)[0] for members in panels.values() for member in members}
    by_base: dict[str, Plugin] = {}
    for base in dict.fromkeys(bases.values()):
        if progress:
            progress(f"loading {base}", 0, 0)  # most of it is torch
        by_base[base] = _plugin(base)
    plugins = {member: by_base[base] for member, base in bases.items()}
    given = dict(options or {})
    known = {option: None for plugin in plugins.values() for option in plugin.options.model_fields}
    if unknown := sorted(set(given) - set(known)):
        takes = f"its options are {', '.join(known)}" if known else "it has no options"
        raise InputError(f"--proxy {names} does not take {unknown[0]}: {takes}{did_you_mean(unknown[0], known)}")
    checked = {member: _checked(member, plugin, given) for member, plugin in plugins.items()}
    for name, members in panels.items():
        # Not the options themselves: a file that is named in two ways has two classes of them.
        _refuse_equal(name, {member: (plugins[member].source, checked[member].model_dump()) for member in members})
    inputs = Inputs(data=data, seed=seed, device=device, progress=progress, band=tuple(band))
    # A member of two panels is built once: it may hold a supernet and thousands of images.
    built = {member: plugin.build(checked[member], inputs) for member, plugin in plugins.items()}
    return {
        name: built[name] if members == [name] else Panel({member: built[member] for member in members}, inputs)
        for name, members in panels.items()
    }


def runs_code(names: str) -> bool:
    """Whether `--proxy NAMES` runs a file of the user's own."""
    members = [member for name in _apart(names, ",") for member in _members(name)]
    return any(is_own(_base_and_variant(member)[0]) for member in members)


def _apart(text: str, separator: str) -> list[str]:
    """The names in a text. The path of a file may have the separator in it."""
    base, _ = _base_and_variant(text)
    return [text] if base.endswith(".py") and os.path.isfile(base) else text.split(separator)  # noqa: PTH113 - long names


def _base_and_variant(name: str) -> tuple[str, str | None]:
    """`NAME:VARIANT` in two. The path of a file may have a colon in it."""
    file = re.fullmatch(r"(.*\.py)(?::([^/]*))?", name, re.DOTALL)
    if file is not None:
        return file[1], file[2]
    base, colon, variant = name.partition(":")
    return base, variant if colon else None


def _plugin(base: str) -> Plugin:
    """The proxy of a name, or of a file of the user's."""
    if is_own(base):
        return load_own(base)
    module = load_plugin("proxy", "proxies", base)
    variant = getattr(module, "VARIANT", None)
    return Plugin(source=module.__name__, options=module.Options, variant=variant, build=module.build)


def _members(name: str) -> list[str]:
    """The members of a panel; a proxy that is no panel is its own only member."""
    members = _apart(name, "+")
    if len(members) > 1 and "" in members:
        raise InputError(f"--proxy {name}: a panel is written NAME+NAME, with a proxy on both sides of each +")
    if twice := [member for member in members if members.count(member) > 1]:
        raise InputError(f"--proxy {name}: {twice[0]} twice in a panel; leave out one")
    return members


def _checked(name: str, plugin: Plugin, given: Mapping[str, str]) -> BaseModel:
    """The validated options of one proxy."""
    own = {key: value for key, value in given.items() if key in plugin.options.model_fields}
    base, variant = _base_and_variant(name)
    if variant is not None:
        if plugin.variant is None:
            raise InputError(f"--proxy {name}: {base} has no variants")
        if own.setdefault(plugin.variant, variant) != variant:
            option = f"{plugin.variant}={own[plugin.variant]}"
            raise InputError(f"--proxy {name} and --option {option} do not go together: leave out one")
    try:
        return plugin.options.model_validate(own)
    except ValidationError as error:
        raise InputError.from_validation(f"--proxy {name}", error) from error


def _refuse_equal(name: str, members: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    """Refuse a panel in which two members are the same proxy with the same options: it would count twice."""
    for (one, its), (other, others) in combinations(members.items(), 2):
        if its == others:
            raise InputError(f"--proxy {name}: {one} and {other} are the same proxy; leave out one")
