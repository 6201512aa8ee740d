"""An application of those who serve with Starlette or FastAPI, and the gateway around it: `uvicorn wrapped:guarded`.

Everything in it is theirs but the last line.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from model_server import model
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from understudy.gateway.app import Gateway


@asynccontextmanager
async def life(app: Starlette) -> Any:
    yield {"model": model()}
    print("the application has ended", flush=True)


async def predict(request: Request) -> JSONResponse:
    seen = {name for name in request.headers if name not in ("host", "content-length", "content-type", "accept")}
    body = await request.json()
    p = request.state.model.predict_proba(np.array(body["instances"], float))
    return JSONResponse({"predictions": p.tolist(), "debug": sorted(seen), "asked": sorted(body)})


async def fail(request: Request) -> JSONResponse:
    raise RuntimeError("secret-path")


routes = [
    Route("/v1/models/digits:predict", predict, methods=["POST"]),
    Route("/v1/models/broken:predict", fail, methods=["POST"]),
    Route("/docs", lambda request: PlainTextResponse("everything about it")),
]
app = Starlette(routes=routes, lifespan=life)
guarded = Gateway([os.environ["MANIFEST"]], app=app)
