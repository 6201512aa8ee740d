"""The gateway's life as an ASGI application, and around it the life of the application it wraps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from understudy.errors import UnderstudyError
from understudy.gateway.upstream import App, Receive, Scope, Send


class Wrapped:
    """An application that the gateway wraps. It starts before the gateway opens and ends after it has closed."""

    def __init__(self, app: App) -> None:
        self._app, self._state = app, dict[str, Any]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, with what the application shared when it started (`request.state`)."""
        await self._app({**scope, "state": dict(self._state)}, receive, send)

    async def live(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Its whole life; False where it knows nothing of lives and said nothing."""
        spoke = False

        async def heard(message: MutableMapping[str, Any]) -> None:
            nonlocal spoke
            spoke = True
            await send(message)

        self._state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, heard)
        except Exception:
            if spoke:
                raise
        return spoke


async def live(
    app: Wrapped | None,
    begin: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """ASGI lifespan: `begin` at its start, `end` at its end."""
    first: MutableMapping[str, Any] | None = await receive()

    async def received() -> MutableMapping[str, Any]:
        nonlocal first
        message, first = first, None
        return message if message is not None else await receive()

    async def sent(message: MutableMapping[str, Any]) -> None:
        try:
            if message["type"] == "lifespan.startup.complete":
                await begin()
            elif message["type"].startswith("lifespan.shutdown."):
                await end()
        except UnderstudyError as error:
            message = {"type": "lifespan.startup.failed", "message": str(error)}
        await send(message)

    if app is None or not await app.live(scope, received, sent):
        await sent({"type": "lifespan.startup.complete"})
        await receive()
        await sent({"type": "lifespan.shutdown.complete"})
