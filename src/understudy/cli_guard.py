"""`understudy guard`: the gateway's command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from understudy.errors import UsageError


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text!r} is no address; give HOST:PORT, e.g. 127.0.0.1:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


@click.command()
@click.argument("manifests", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Customers' address.")
@click.option("--workers", type=click.IntRange(1, 128), default=1, show_default=True, help="Worker processes.")
@click.option("--observe", is_flag=True, help="Record and say what would be withheld or refused; change nothing.")
@click.option(
    "--state", envvar="UNDERSTUDY_STATE", metavar="URL", help="redis:// that machines share allowances through."
)
@click.option("--admin", metavar="HOST:PORT", help="Operators' address; its key is in UNDERSTUDY_ADMIN_KEY.")
@click.option("--tls-cert", type=click.Path(exists=True, path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(exists=True, path_type=Path), help="Its private key, PEM.")
@click.option("--confirm-state", is_flag=True, help="Count on what --state holds now, after it lost what was counted.")
@click.option("--check-upstream", is_flag=True, help="Say whether the model server can be reached around the guard.")
def guard(
    manifests: tuple[Path, ...],
    listen: str,
    workers: int,
    observe: bool,
    state: str | None,
    admin: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    confirm_state: bool,
    check_upstream: bool,
) -> None:
    """Serve the gateway in front of the endpoints of MANIFESTS: each tier gets what its manifest says, and no more.

    SIGHUP reads the manifests again; a bad one is refused and the old one stays.
    """
    if check_upstream:
        _check(manifests)
        return
    if confirm_state:
        _confirm(manifests, state)
        return
    from understudy.gateway.serve import Options, serve

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    where = _address(listen)
    assert where is not None
    options = Options(manifests, *where, workers, observe, state, _address(admin), tls_cert, tls_key)
    serve(options, lambda address: click.echo(f"Guarding at {address}", err=True))


def _confirm(manifests: tuple[Path, ...], state: str | None) -> None:
    """Once on each machine; its gateways answer again within seconds."""
    import asyncio

    from understudy.gateway.leases import LeasedLedger
    from understudy.gateway.service import compile_service

    if state is None:
        raise UsageError("--confirm-state needs --state: the server whose state is to be counted on")

    async def confirm(folder: Path, name: str) -> None:
        ledger = LeasedLedger(state, folder, name)
        try:
            await ledger.reset()
        finally:
            await ledger.close()

    for path in manifests:
        service = compile_service(path)
        asyncio.run(confirm(service.folder, service.id))
        click.echo(f"{service.id}: allowances are counted from what the server holds now")


def _check(manifests: tuple[Path, ...]) -> None:
    """Exit code 1 where there is a way around."""
    from understudy.gateway.around import check
    from understudy.gateway.service import compile_service

    found = False
    for path in manifests:
        service = compile_service(path)
        click.echo(f"{service.id}: {service.http.url.split('?')[0]}")
        for remark in check(service):
            found |= remark.open
            click.echo(f"  {'OPEN' if remark.open else 'ok  '}  {remark.text}")
    sys.exit(1 if found else 0)
