"""A web service in front of a ring kernel, which scores the waiting requests in batches.

    python examples/serving.py                # serves on a free port, sends 200 requests at once, and checks each answer
    uvicorn --app-dir examples serving:app    # serves until Ctrl-C or SIGTERM

The extra `dev` installs what it needs: Starlette and uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pydotcompute import RingKernelRuntime, message
from pydotcompute.exceptions import KernelError, KernelStateError, QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import RingKernelConfig, Supervision

Model = Callable[[np.ndarray], np.ndarray]

WEIGHTS = np.array([0.5, -1.0, 2.0])
BATCH = 32


@message
class Features:
    """What a request asks about."""

    values: list[float]


@message
class Score:
    """The answer, and how many requests were scored with it."""

    value: float
    batch: int


def logistic(rows: np.ndarray) -> np.ndarray:
    """A model that stands for a larger one: one score for each row."""
    scores: np.ndarray = 1 / (1 + np.exp(-(rows * WEIGHTS).sum(axis=1)))
    return scores


def scorer(model: Model) -> Callable[[Any], Any]:
    """Returns the function of a ring kernel that scores what is queued, `BATCH` requests at a time."""

    async def score_batches(ctx: Any) -> None:
        async for first in ctx:
            batch = [first]
            while len(batch) < BATCH:
                try:
                    batch.append(await ctx.receive(timeout=0))
                except QueueTimeoutError:  # nothing more is queued
                    break
            # On a thread, so that the event loop takes further requests meanwhile.
            scores = await asyncio.to_thread(model, np.array([features.values for features in batch]))
            for features, score in zip(batch, scores, strict=True):
                await ctx.reply(features, Score(value=float(score), batch=len(batch)))

    return score_batches


async def disconnected(request: Request) -> None:
    """Returns once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def ask(request: Request, features: Features) -> Score:
    """Asks the ring kernel. A client that disconnects cancels the call."""
    asked = asyncio.create_task(request.app.state.scorer.ask(features, timeout=request.app.state.timeout))
    left = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise ClientDisconnect
        return await asked
    finally:
        asked.cancel()
        left.cancel()


async def score(request: Request) -> Response:
    """`POST /score` with `{"values": [1, 2, 3]}`."""
    try:
        values = [float(value) for value in (await request.json())["values"]]
    except (ValueError, TypeError, KeyError):
        values = []
    if len(values) != len(WEIGHTS):
        raise HTTPException(400, f'the body must be {{"values": [...]}} with {len(WEIGHTS)} numbers')
    answer = await ask(request, Features(values=values))
    return JSONResponse({"score": answer.value, "batch": answer.batch})


def status(code: int, **headers: str) -> Callable[[Request, Exception], Response]:
    """Returns a handler that answers an error with a status and the error's text."""
    return lambda request, error: JSONResponse({"error": str(error)}, code, headers)


ERRORS: dict[Any, Any] = {
    QueueFullError: status(503, **{"Retry-After": "1"}),  # too many requests wait
    QueueTimeoutError: status(504),  # no reply within the timeout
    KernelStateError: status(503, **{"Retry-After": "1"}),  # the service ends, or the ring kernel has failed
    KernelError: status(500),  # the model raised an exception
    ClientDisconnect: lambda request, error: Response(status_code=499),  # not sent: the connection is closed
}


def create_app(model: Model = logistic, *, waiting: int = 256, timeout: float = 2.0) -> Starlette:
    """Returns the application.

    Args:
        model: Scores rows of numbers. It is called on a thread, once at a time.
        waiting: Number of requests that may wait. Further ones get the status 503.
        timeout: Maximum time of a request, in seconds. Then it gets the status 504.
    """
    config = RingKernelConfig(
        "scorer", input_queue_size=waiting, backpressure_strategy="reject", supervision=Supervision(max_restarts=10, within=60.0)
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with RingKernelRuntime() as runtime:
            app.state.scorer = await runtime.launch("scorer", scorer(model), config=config)
            app.state.timeout = timeout
            await runtime.activate("scorer")
            yield  # serves here; then the ring kernel answers what is queued, and ends

    return Starlette(routes=[Route("/score", score, methods=["POST"])], lifespan=lifespan, exception_handlers=ERRORS)


app = create_app()


def post(port: int, values: list[float]) -> Any:
    """Sends a request to this machine on a connection of its own, and returns the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request("POST", "/score", json.dumps({"values": values}))
        return json.load(connection.getresponse())


async def check(count: int) -> int:
    """Serves on a free port, sends requests at the same time, and compares each answer with its own question."""
    questions = [[number / count, 1 - number / count, number % 7] for number in range(count)]
    expected = logistic(np.array(questions))
    server = uvicorn.Server(uvicorn.Config(create_app(timeout=60), log_level="warning"))
    # It accepts connections from now on, also before the server has started.
    listener = socket.create_server(("127.0.0.1", 0), backlog=count)
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    with ThreadPoolExecutor(count) as clients:
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(loop.run_in_executor(clients, post, port, values) for values in questions))
    server.should_exit = True
    await serving
    wrong = [answer for answer, score in zip(answers, expected, strict=True) if abs(answer.get("score", -1) - score) > 1e-12]
    print(f"{count} requests at once, {len(wrong)} wrong answers, up to {max(answer.get('batch', 0) for answer in answers)} in a batch")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(check(200)))
