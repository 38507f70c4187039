"""The web service of `examples/serving.py`: every caller gets its own answer, and overload, delays and lost clients have their status."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydotcompute.ring_kernels.message import _message_registry

pytest.importorskip("starlette", reason="the extra `dev` is not installed")
httpx = pytest.importorskip("httpx", reason="the extra `dev` is not installed")
pytest.importorskip("uvicorn", reason="the extra `dev` is not installed")

SERVING = Path(__file__).resolve().parents[2] / "examples" / "serving.py"


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `examples/serving.py`. Its message classes are known during the test only."""
    spec = importlib.util.spec_from_file_location("serving", SERVING)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "serving", module)
    known = dict(_message_registry)
    spec.loader.exec_module(module)
    yield module
    _message_registry.clear()
    _message_registry.update(known)


class HeldModel:
    """A model whose calls wait until they are released."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.released = threading.Event()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.called.set()
        assert self.released.wait(60)
        return rows[:, 0]

    async def is_called(self) -> None:
        assert await asyncio.to_thread(self.called.wait, 60)


@pytest.fixture
def held() -> Iterator[HeldModel]:
    model = HeldModel()
    yield model
    model.released.set()


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[Any]:
    """Runs an application, with its start and shutdown. Yields a client of it that needs no network."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client, app.router.lifespan_context(app):
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until a condition holds."""
    while not condition():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)


async def post(client: Any, *values: float) -> Any:
    return await client.post("/score", json={"values": values})


async def test_each_of_200_concurrent_callers_gets_its_own_answer(serving: Any) -> None:
    sizes = []

    def model(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return rows[:, 0] * 2

    async with client_of(serving.create_app(model, timeout=60)) as client:
        answers = await asyncio.gather(*(post(client, number, 0, 0) for number in range(200)))
    assert [answer.status_code for answer in answers] == [200] * 200
    assert [answer.json()["score"] for answer in answers] == [2.0 * number for number in range(200)]
    assert sum(sizes) == 200
    assert 1 < max(sizes) <= serving.BATCH


async def test_requests_beyond_the_queue_get_503_at_once_and_the_others_their_answers(serving: Any, held: HeldModel) -> None:
    async with client_of(serving.create_app(held, waiting=8, timeout=60)) as client:
        first = asyncio.create_task(post(client, 1, 0, 0))
        await held.is_called()
        others = [asyncio.create_task(post(client, number, 0, 0)) for number in range(20)]
        refused = []
        for next_done in asyncio.as_completed(others):
            refused.append(await next_done)
            if len(refused) == 12:
                break
        held.released.set()
        answers = await asyncio.gather(first, *others)
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 12
    assert "full" in refused[0].json()["error"]
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [503] * 12


async def test_a_request_without_a_reply_in_time_gets_504(serving: Any, held: HeldModel) -> None:
    async with client_of(serving.create_app(held, timeout=0.05)) as client:
        answer = await post(client, 1, 0, 0)
        held.released.set()
    assert answer.status_code == 504
    assert "Timeout (0.05s)" in answer.json()["error"]


async def test_an_exception_of_the_model_is_500_for_its_batch_only(serving: Any, quiet_log: None) -> None:
    def model(rows: np.ndarray) -> np.ndarray:
        if (rows < 0).any():
            raise ValueError("negative")
        return rows[:, 0]

    async with client_of(serving.create_app(model, timeout=60)) as client:
        failed, worked = await post(client, -1, 0, 0), await post(client, 3, 0, 0)
    assert (failed.status_code, worked.status_code, worked.json()["score"]) == (500, 200, 3.0)
    assert "negative" in failed.json()["error"]


async def test_an_invalid_body_is_400(serving: Any) -> None:
    async with client_of(serving.create_app()) as client:
        answers = [await client.post("/score", content=body) for body in (b"", b"[]", b'{"values": [1]}', b'{"values": ["x", 1, 2]}')]
    assert [answer.status_code for answer in answers] == [400] * 4


async def test_a_client_that_disconnects_cancels_its_ask(serving: Any, held: HeldModel) -> None:
    app = serving.create_app(held, timeout=60)
    has_left = asyncio.Event()
    body = iter([{"type": "http.request", "body": json.dumps({"values": [1, 0, 0]}).encode()}])
    sent: list[Any] = []

    async def receive() -> Any:
        if (part := next(body, None)) is not None:
            return part
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(part: Any) -> None:
        sent.append(part)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [], "query_string": b"", "root_path": ""}
    async with client_of(app) as client:
        request = asyncio.create_task(app(scope, receive, send))
        await held.is_called()
        assert not request.done()
        has_left.set()
        # The model still holds the batch, so that only the disconnection can have ended the request.
        await asyncio.wait_for(request, 60)
        assert not held.released.is_set()
        assert sent[0]["status"] == 499
        held.released.set()
        assert (await post(client, 5, 0, 0)).json()["score"] == 5.0
        assert app.state.scorer.state.name == "ACTIVE"


async def test_requests_that_wait_at_shutdown_get_their_answers(serving: Any, held: HeldModel) -> None:
    app = serving.create_app(held, timeout=60)
    async with client_of(app) as client:
        requests = [asyncio.create_task(post(client, number, 0, 0)) for number in range(10)]
        await held.is_called()
        scorer = app.state.scorer
        await until(lambda: scorer._context.input_queue.qsize == 9)

        async def release_at_shutdown() -> None:
            await until(lambda: scorer.state.name == "TERMINATING")
            held.released.set()

        requests.append(asyncio.create_task(release_at_shutdown()))
    *answers, _ = await asyncio.gather(*requests)
    assert [answer.json()["score"] for answer in answers] == list(range(10))


SERVED = """
import pathlib, socket, sys, time
sys.path.insert(0, sys.argv[1])
import serving, uvicorn

def model(rows):
    print("called", flush=True)
    while not pathlib.Path("released").exists():
        time.sleep(0.001)
    return rows[:, 0]

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(serving.create_app(model, timeout=60), log_level="info"))
server.run(sockets=[listener])
"""


def test_a_server_that_gets_sigterm_answers_the_request_that_it_handles(serving: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", SERVED, str(SERVING.parent)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process,
        ThreadPoolExecutor(1) as client,
    ):
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            answer = client.submit(serving.post, int(next(lines)), [7, 0, 0])
            assert "called\n" in lines
            process.send_signal(signal.SIGTERM)
            assert any("Shutting down" in line for line in lines)
            (tmp_path / "released").touch()
            assert answer.result(60) == {"score": 7.0, "batch": 1}
            assert any("Application shutdown complete" in line for line in lines)
            # Uvicorn ends by the signal itself, after everything is shut down.
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
