"""What a validation comes to, in a few lines: how far the latencies, the scores and the searches can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nas.validate import Validation
from nas.validate.accuracy import AccuracyPart
from nas.validate.records import LatencyPart, ProxyPart, RecoveryPart

__all__ = ["verdict"]


def verdict(validation: Validation) -> list[str]:
    """The verdict, with its figures and what they are from; what is not finished comes first.

    A file of an earlier version must be completed (`nas.validate.earlier`).
    """
    missing = [f"{part}: {what}" for part, what in validation.unfinished.items()]
    lines = [f"Not finished, so what follows may change: {'; '.join(missing)}"] if missing else []
    lines.append(_latency(validation.latency))
    if validation.accuracy:
        lines += _accuracy(validation.accuracy)
    if validation.proxies:
        lines.append(_scores(validation.proxies))
    if validation.recovery:
        lines.append(_searches(validation.recovery))
    return lines


def _latency(part: LatencyPart) -> str:
    found = part.unseen or part.agreement
    if found is None:
        return "Latency: too few published latencies to compare with"
    fitted = any(row.left_out_ms is not None for row in part.rows)
    how = "each predicted without itself" if fitted else "none used to fit the table"
    return (
        f"Latency: trust a prediction to about {found.mean_error:.0%}, at worst {found.worst_error:.0%} "
        f"(against {found.networks} published latencies, {how}: mean error {found.mean_error:.1%}, worst "
        f"{found.worst_error:.1%}, Kendall's tau {found.tau:.2f})"
    )


def _accuracy(part: AccuracyPart) -> list[str]:
    off = [abs(row.predicted - row.top1) for row in part.rows]
    lines = []
    if off:
        inside = sum(row.inside for row in part.rows)
        lines.append(
            f"Accuracy: trust a predicted ImageNet top-1 to about {sum(off) / len(off):.1f} points near the published "
            f"networks ({len(off)} of the family, each predicted without itself: {sum(off) / len(off):.2f} points off "
            f"in the mean, {max(off):.2f} at worst, Kendall's tau {part.tau:.2f}; {inside} of {len(off)} inside their "
            "90 % intervals)"
        )
    if part.front:
        lines.append(
            f"Survey: at the latency of each variant, the best of {part.looked_at} networks is predicted "
            f"{', but '.join(_passes(part))}; nothing found was trained"
        )
    return lines


def _passes(part: AccuracyPart) -> list[str]:
    """How the front of a survey passes the published variants."""
    front = part.front
    groups = {
        "as accurate as {} is published, within the 90 % interval": [
            row.variant for row in front if row.low <= row.top1 <= row.high
        ],
        "more accurate than {} is published, by more than the interval": [
            row.variant for row in front if row.top1 < row.low
        ],
        "less accurate than {} is published, by more than the interval": [
            row.variant for row in front if row.top1 > row.high
        ],
    }
    return [words.format(_names(names)) for words, names in groups.items() if names]


def _scores(parts: Sequence[ProxyPart]) -> str:
    """How the first proxy orders the published networks, then the tau of the others."""
    first, *others = parts
    ranks = first.all_rows
    if ranks.tau is None:
        return f"Score: {first.proxy} scored too few published networks to compare their order"
    agrees = "agrees with" if ranks.low is not None and ranks.low > 0 else "is not shown to agree with"
    words = f"Kendall's tau {ranks.tau:.2f} over {ranks.networks} published networks"
    if ranks.low is not None and ranks.high is not None:
        words += f", 95 % interval {ranks.low:.2f} to {ranks.high:.2f}"
    line = f"Score: the order of networks by {first.proxy} {agrees} that by published ImageNet top-1 ({words})"
    if ranks.lead:
        lead = "and is better than" if ranks.lead.is_shown else "but is not shown to be better than"
        line += f", {lead} the order by {ranks.lead.ranker} ({ranks.rankers[ranks.lead.ranker]:.2f})"
    known = [f"{part.proxy} {part.all_rows.tau:.2f}" for part in others if part.all_rows.tau is not None]
    return line + (f"; other proxies: {', '.join(known)}" if known else "")


def _searches(part: RecoveryPart) -> str:
    """What was found against the published variants: by the proxy that searched, then by the others."""
    verdicts = [search.gap.verdict for search in part.searches if search.gap and search.gap.verdict]
    if not verdicts:
        return "Search: nothing to compare with published networks yet"
    seeds = (
        f"under seed {part.search_seed}, by which they were chosen"
        if part.search_seed in part.seeds
        else "under seeds that the searches did not use"
    )
    line = (
        f"Search: the network found is no worse than the published one of the same budget in "
        f"{sum(one != 'worse' for one in verdicts)} of {len(verdicts)} budgets ({_counted(verdicts)}), by {part.proxy} "
        f"{seeds}"
    )
    opinions: dict[str, list[str | None]] = {}
    for search in part.searches:
        for opinion in search.opinions:
            opinions.setdefault(opinion.proxy, []).append(opinion.gap.verdict)
    if opinions:
        others = (f"{proxy} {_counted(verdicts)}" for proxy, verdicts in opinions.items())
        line += f"; by other proxies: {'; '.join(others)}"
    return f"{line}. Nothing found was trained in full, or timed as a whole"


def _counted(verdicts: Sequence[str | None]) -> str:
    counts = Counter(verdicts)
    words = [f"{counts[name]} {name}" for name in ("better", "within noise", "worse") if counts[name]]
    return ", ".join(words) or "not known"


def _names(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
