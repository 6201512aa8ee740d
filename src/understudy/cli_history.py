"""`understudy history`: hold an endpoint's record to its chain, export it, erase one principal, let old parts go."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import UsageError

if TYPE_CHECKING:
    from understudy.history import Head, History
    from understudy.manifest import Manifest

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
@click.argument("manifest", type=_FILE)
@click.pass_context
def history(ctx: click.Context, manifest: Path) -> None:
    """What MANIFEST's gateway answered: a hash chain per worker. All of this works while the gateway runs."""
    ctx.obj = manifest


@history.command()
@click.option("--known", type=_FILE, help="Ends of the chains as --json gave them earlier: shows what was cut off.")
@click.option("--json", "as_json", is_flag=True, help="Print the ends of the chains as JSON; keep it elsewhere.")
@click.pass_obj
def verify(manifest: Path, known: Path | None, as_json: bool) -> None:
    """Recompute every chain; exit code 2 names the first exchange that was changed or is not there."""
    ends = _open(manifest)[1].verify(_heads(known) if known else None)
    if as_json:
        click.echo(json.dumps({worker: [head.seq, head.link.hex()] for worker, head in ends.items()}))
        return
    for worker, head in ends.items():
        click.echo(f"worker {worker}: {head.seq:,} exchanges, whole and in order, up to {head.link.hex()[:16]}")


@history.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day, in UTC.")
@click.pass_obj
def export(manifest: Path, path: Path, since: dt.datetime | None) -> None:
    """Write a Parquet file PATH, principals and parties under pseudonyms."""
    start = since.replace(tzinfo=dt.UTC).timestamp() if since else None
    click.echo(f"{path}: {_open(manifest)[1].export(path, start):,} exchanges")


@history.command()
@click.argument("principal")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def erase(manifest: Path, principal: str, yes: bool) -> None:
    """Blank what PRINCIPAL asked and received, for good. Revoke its keys first; find your exports yourself.

    PRINCIPAL as the record names it, with where the name comes from: key:acme-1, jwt:..., proxy:..., or an address.
    """
    record = _open(manifest)[1]
    _check_principal(record, principal)
    if not yes:
        click.confirm(f"Erase everything that {principal} asked and received?", abort=True)
    from understudy.gateway.states import forget

    erased = record.erase(principal)
    forget(record.folder.parent, principal)
    click.echo(f"{erased:,} exchanges of {principal} are erased")


@history.command()
@click.option("--days", type=click.IntRange(1), help="Age in days (default: guard.logging.retention_days).")
@click.pass_obj
def expire(manifest: Path, days: int | None) -> None:
    """Remove segments that are past retention now; the gateway does so every day. Tombstones stay."""
    parsed, record = _open(manifest)
    stones = record.expire(time.time(), days or _days(parsed))
    click.echo(f"{len(stones)} segments of {sum(stone.rows for stone in stones):,} exchanges are removed")


def _open(manifest: Path) -> tuple[Manifest, History]:
    """A manifest and its history. Raises UsageError where nothing is on record yet."""
    from understudy.gateway.keys import path_of
    from understudy.history import History
    from understudy.manifest import load

    parsed = load(manifest)
    folder = path_of(parsed, manifest).with_name("history")
    if not folder.is_dir():
        raise UsageError(f"nothing is on record yet: there is no {folder}")
    return parsed, History(folder)


def _days(manifest: Manifest) -> int:
    from understudy.manifest import GuardPart

    return (manifest.guard or GuardPart()).logging.retention_days


def _heads(path: Path) -> dict[str, Head]:
    from understudy.history import Head

    try:
        return {worker: Head(int(n), bytes.fromhex(link)) for worker, (n, link) in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError):
        raise UsageError(f"{path} is not what `understudy history MANIFEST verify --json` prints") from None


def _check_principal(record: History, principal: str) -> None:
    """An erasure that finds nobody is a name mistyped. Raises UsageError."""
    import difflib

    if next(iter(record.recent(1, principal)), None) is not None:
        return
    known = {used.principal for used in record.usage()} - {""}
    near = [n for n in sorted(known) if n.partition(":")[2] == principal] or difflib.get_close_matches(principal, known)
    hint = f" - did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"nothing on record is of a principal {principal!r}{hint}")
