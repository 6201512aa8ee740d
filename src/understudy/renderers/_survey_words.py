"""A survey in words: what both renderings of it say alike."""

from __future__ import annotations

from understudy.alerts import Leak
from understudy.survey import Account, Party, Survey

CAVEAT = (
    "A p-value is the share of the calibration's benign accounts that ever look so unusual. It says nothing of intent, "
    "and nothing of accounts whose queries look like everybody's."
)
LEARNT = (
    "What a party could have learned is exposure, not intent: an honest heavy user of a small model has learned it too."
)


def p(value: float | None) -> str:
    """A p-value."""
    return "not assessed" if value is None else f"{value:.2g}" if value < 0.0995 else f"{value:.2f}"


def leak(found: Leak | None) -> str:
    """The larger bracket with its interval: a share of the model."""
    if found is None:
        return "not measured"
    brackets = [r for r in (found.labels, found.probabilities) if r is not None and r.estimate is not None]
    if not brackets:
        return "not measured"
    worst = max(brackets, key=lambda r: r.estimate or 0.0)
    low, high = worst.low or 0.0, worst.high or 0.0
    if low <= 0 and high >= 1:
        return f"{worst.estimate:.2f} (error not known)"
    return f"{worst.estimate:.2f} ({low:.2f}-{high:.2f})"


def loudest(account: Account, most: int = 3) -> str:
    """The detectors that speak loudest, by name."""
    return ", ".join(s.detector for s in account.scores[:most] if s.value > 0) or "-"


def state(party: Party) -> str:
    """Whether it is alarmed, in a word or two."""
    if not party.alarmed:
        return "not assessed" if party.p_value is None else "-"
    first = min(a.alarmed_at for a in party.accounts if a.alarmed_at is not None)
    return f"at query {first:,}" if party.size == 1 else f"{party.alarmed} of {party.size}, first at query {first:,}"


def share(value: float | None) -> str:
    """A share as a percentage that is never rounded to all or nothing; a dash where it is not known."""
    if value is None:
        return "-"
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    return f"{100 * min(max(value, 0.001), 0.999):.1f} %"


def ranges(survey: Survey) -> str:
    """How many inputs leave the reference's ranges, or that nobody can know."""
    outside = survey.quality.out_of_range
    if outside is None:
        return "whether queries leave the reference's ranges is not known: nobody looked at inputs"
    return f"{share(outside)} of the queries leave the ranges of the reference data"


def basis(survey: Survey) -> str:
    """What the p-values rest on."""
    c = survey.calibration
    if c is None:
        return "no calibration"
    return (
        f"{c.accounts:,} benign accounts, ranked on {c.made[:10]}; stated level {100 * c.level:g} % of benign accounts "
        f"within {c.horizon:,} queries"
    )
