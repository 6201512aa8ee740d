"""`understudy keys`: make, list, revoke and rotate the API keys of an endpoint's customers."""

from __future__ import annotations

import datetime as dt
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import UsageError

if TYPE_CHECKING:
    from understudy.gateway.keys import Key, Keys
    from understudy.manifest import Manifest

_MANIFEST = click.Path(exists=True, dir_okay=False, path_type=Path)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group()
def keys() -> None:
    """API keys of the customers of an endpoint. Running gateways notice within a second."""


@keys.command()
@click.argument("manifest", type=_MANIFEST)
@click.option("--tier", required=True, help="A tier of the manifest.")
@click.option("--party", help="The organisation (default: the principal alone).")
@click.option("--principal", help="The account; several keys may be the same one's (default: PARTY-1, PARTY-2, ...).")
@click.option("--expires", metavar="DATE|30d", help="The last day, in UTC, or how long from now.")
@click.option("--audit", is_flag=True, help="For your own audits: kept out of billing and of what detectors learn.")
@click.option("--note", default="", help="Shown by `keys list`.")
def add(
    manifest: Path,
    tier: str,
    party: str | None,
    principal: str | None,
    expires: str | None,
    audit: bool,
    note: str,
) -> None:
    """Make a key and print it, once: only its digest is kept."""
    from understudy.gateway.keys import Keys, path_of
    from understudy.manifest import load

    parsed = load(manifest)
    _check_tier(parsed, tier)
    until = _moment(expires, time.time()) if expires else None
    with Keys(path_of(parsed, manifest)) as book:
        _hand_over(book, book.add(tier, party, principal, until, audit, note))


@keys.command("list")
@click.argument("manifest", type=_MANIFEST)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(manifest: Path, as_json: bool) -> None:
    """List every key: whose it is, until when. Neither keys nor digests are shown."""
    import json

    with _open(manifest) as book:
        rows = [_row(key, time.time()) for key in book.list()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    shown = ("id", "state", "principal", "party", "tier", "audit", "created", "expires", "rotated", "note")
    table = [shown, *(tuple(_word(row[column]) for column in shown) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(shown))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@keys.command()
@click.argument("manifest", type=_MANIFEST)
@click.argument("key_id", metavar="ID")
def revoke(manifest: Path, key_id: str) -> None:
    """End the key ID, at once and for good."""
    with _open(manifest) as book:
        key = book.revoke(key_id)
    click.echo(f"key {key.id} of {key.principal} is revoked")


@keys.command()
@click.argument("manifest", type=_MANIFEST)
@click.argument("key_id", metavar="ID")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key still works, e.g. 0s, 90m, 7d.")
def rotate(manifest: Path, key_id: str, overlap: str) -> None:
    """Give the key ID a new secret and print it, once."""
    seconds = _duration(overlap)
    if seconds is None:
        raise UsageError("--overlap is a number and s, m, h, d or w, e.g. 24h")
    with _open(manifest) as book:
        _hand_over(book, book.rotate(key_id, seconds))


def _open(manifest: Path) -> Keys:
    """The key database in a manifest's guard folder. Raises UsageError where there is none."""
    from understudy.gateway.keys import Keys, path_of
    from understudy.manifest import load

    path = path_of(load(manifest), manifest)
    if not path.exists():
        raise UsageError("there are no keys yet; make one with `understudy keys add`")
    return Keys(path)


def _check_tier(manifest: Manifest, tier: str) -> None:
    import difflib

    known = [t.id for t in manifest.tiers]
    if tier not in known:
        near = difflib.get_close_matches(tier, known, 1)
        hint = f" - did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no tier is called {tier!r}{hint} (tiers: {', '.join(known)})")


def _hand_over(book: Keys, secret: str) -> None:
    """The key alone on standard output, what it is on standard error."""
    key = book.get(secret[3:11])
    until = "" if key.expires is None else f", until {_when(key.expires)}"
    purpose = " for audits" if key.audit else ""
    click.echo(f"key {key.id}{purpose}: {key.principal} of {key.party}, tier {key.tier}{until}", err=True)
    if key.overlap is not None:
        click.echo(f"the key before works until {_when(key.overlap)}", err=True)
    click.echo("keep it now: it is not shown again", err=True)
    click.echo(secret)


def _duration(text: str) -> float | None:
    """Seconds of `90m`, `24h`, `30d`; None where it is not one."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None


def _moment(text: str, now: float) -> float:
    """Seconds since 1970 of a duration from now, or of the end of a day in UTC."""
    seconds = _duration(text)
    if seconds is not None:
        return now + seconds
    try:
        day = dt.date.fromisoformat(text.strip()) + dt.timedelta(days=1)
    except (ValueError, OverflowError):
        raise UsageError("--expires is a day like 2030-12-31, or a duration like 30d") from None
    return dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()


def _when(seconds: float | None) -> str | None:
    """A moment as people and machines read it; a day too far for a calendar stays a number."""
    if seconds is None:
        return None
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _row(key: Key, now: float) -> dict[str, str | bool | None]:
    return {
        "id": key.id,
        "state": key.state(now),
        "principal": key.principal,
        "party": key.party,
        "tier": key.tier,
        "audit": key.audit,
        "created": _when(key.created),
        "expires": _when(key.expires),
        "revoked": _when(key.revoked),
        "rotated": _when(key.rotated),
        "overlap_until": _when(key.overlap),
        "note": key.note,
    }


def _word(value: str | bool | None) -> str:
    return "" if value is None or value is False else "yes" if value is True else value
