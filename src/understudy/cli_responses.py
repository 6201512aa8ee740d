"""`understudy responses`: what the monitor has put in force on accounts; confirm a suspension, end any response."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.errors import UsageError

if TYPE_CHECKING:
    from understudy.gateway.book import Book
    from understudy.response import Response

_MANIFEST = click.Path(exists=True, dir_okay=False, path_type=Path)
_BY = click.option("--by", required=True, metavar="NAME", help="Who decides this; it goes on record.")
_REASON = click.option("--reason", required=True, help="Why; it goes on record.")


@click.group()
@click.argument("manifest", type=_MANIFEST)
@click.pass_context
def responses(ctx: click.Context, manifest: Path) -> None:
    """What is in force on accounts of MANIFEST's endpoint. Running gateways notice within a second or two."""
    ctx.obj = manifest


@responses.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every act on record.")
@click.pass_obj
def list_(manifest: Path, everything: bool, as_json: bool) -> None:
    """List responses: on whom, since when, until when. A suspension that is proposed waits for `confirm`."""
    now = time.time()
    with _open(manifest) as book:
        held = [r for r in book.all() if everything or r.state(now) in ("active", "proposed")]
        if as_json:
            click.echo(json.dumps([{**row(r, now), "acts": book.acts(r.id)} for r in held], indent=1))
            return
    shown = ("id", "state", "do", "whom", "name", "step", "since", "until", "confirmed", "revoked")
    table = [shown, *(tuple(str(row(r, now)[column] or "") for column in shown) for r in held)]
    widths = [max(len(line[i]) for line in table) for i in range(len(shown))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@responses.command()
@click.argument("response_id", metavar="ID")
@_BY
@_REASON
@click.pass_obj
def confirm(manifest: Path, response_id: str, by: str, reason: str) -> None:
    """Put the proposed suspension ID in force."""
    with _open(manifest) as book:
        after = book.confirm(response_id, by, reason)
    click.echo(f"{after.whom} {after.name} is suspended until {_when(after.until)}")


@responses.command()
@click.argument("response_id", metavar="ID")
@_BY
@_REASON
@click.option("--quiet", metavar="30d", help="How long the same step may not act again (default: its cool_down).")
@click.option(
    "--known", is_flag=True, help="This customer works like that: hold it also against its own first queries."
)
@click.pass_obj
def revoke(manifest: Path, response_id: str, by: str, reason: str, quiet: str | None, known: bool) -> None:
    """End the response ID now. The account's evidence is set aside: an alarm takes new behaviour."""
    with _open(manifest) as book:
        after = book.revoke(response_id, by, reason, _length(quiet), known)
    click.echo(f"{after.whom} {after.name}: {after.do} is ended")


def row(response: Response, now: float) -> dict[str, Any]:
    """A response as operators read it."""
    return {
        "id": response.id,
        "state": response.state(now),
        "step": response.step,
        "do": response.do,
        "whom": response.whom,
        "name": response.name,
        "since": _when(response.since),
        "until": _when(response.ends),
        "factor": response.factor,
        "to_tier": response.to_tier,
        "confirmed": response.confirmed.by if response.confirmed else None,
        "revoked": response.revoked.by if response.revoked else None,
    }


def _open(manifest: Path) -> Book:
    from understudy.gateway.book import FILE, Book
    from understudy.gateway.keys import path_of
    from understudy.manifest import load

    path = path_of(load(manifest), manifest).with_name(FILE)
    if not path.exists():
        raise UsageError("there are no responses yet: the monitor has put nothing in force")
    return Book(path)


def _length(text: str | None) -> float | None:
    from pydantic import TypeAdapter, ValidationError

    from understudy.manifest_parts import Duration, seconds

    if text is None:
        return None
    try:
        return seconds(TypeAdapter(Duration).validate_python(text))
    except ValidationError:
        raise UsageError("--quiet is a number and s, m, h, d or w, e.g. 30d") from None


def _when(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds")
