"""gRPC as its users have it: other people's clients unmodified, `heed serve`, several processes, the end."""

import ast
import asyncio
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.grpc import schema
from service.grpc.address import hold_port
from tests.e2e.conftest import ROOT, FakeServer, Start
from tests.real_server import serving
from tests.service.grpc.calling import INFERENCE, X, infer_request, output

SCRIPTS = [Path(__file__).parent / name for name in ("grpc_clients.py", "grpc_kserve_client.py")]
CLIENTS = ROOT / ".cache" / "clients"
INFER = f"/{INFERENCE}/ModelInfer"
OF_A_REAL_MODEL = "triton_is_told_the_same_as_over_http"
CASES = {
    node.name: script
    for script in SCRIPTS
    for node in ast.parse(script.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith(("triton_", "kserve_"))
}
needs_clients = pytest.mark.skipif(
    not (CLIENTS / "ready").exists(), reason="make clients installs tritonclient and kserve"
)


def run_case(case: str, grpc_port: int, port: int) -> None:
    command = [
        str(CLIENTS / "bin" / "python"),
        str(CASES[case]),
        case,
        f"127.0.0.1:{grpc_port}",
        f"127.0.0.1:{port}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def server(request: pytest.FixtureRequest, start_once: Start) -> FakeServer:
    settings = {"grpc_port": 0, "admin": True, "api_keys": ["secret"], "max_body_bytes": 2**20}
    return start_once(settings={**settings, "http_workers": request.param})


@needs_clients
@pytest.mark.parametrize("case", [case for case in CASES if case != OF_A_REAL_MODEL])
def test_unmodified_client(case: str, server: FakeServer) -> None:
    run_case(case, server.grpc_port, server.port)


@needs_clients
def test_heed_serve_tells_a_client_the_same_over_grpc_and_http(repository: Path) -> None:
    held = hold_port("127.0.0.1", 0)
    port = held.getsockname()[1]
    held.close()
    with serving(repository, "--grpc-port", str(port)) as running:
        run_case(OF_A_REAL_MODEL, port, int(running.url.rpartition(":")[2]))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=60) == 0


async def ask_until(channel: grpc.aio.Channel, told: list[object], enough: asyncio.Event) -> None:
    """Call again and again, and keep what became of each call."""
    infer = channel.unary_unary(INFER)
    while not enough.is_set():
        try:
            reply = await infer(infer_request(), timeout=30)
            told.append(schema.message("inference.ModelInferResponse").FromString(reply))
        except grpc.aio.AioRpcError as error:
            told.append(error)


async def term_one_of_two(servers: list[FakeServer]) -> list[object]:
    """Load two servers by a client that watches both, end one; return what became of each call."""
    told: list[object] = []
    enough = asyncio.Event()
    addresses = ",".join(f"127.0.0.1:{server.grpc_port}" for server in servers)
    policy = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    options = [("grpc.service_config", json.dumps(policy))]
    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", options=options) as channel:
        callers = [asyncio.ensure_future(ask_until(channel, told, enough)) for _ in range(32)]
        while len(told) < 200:
            await asyncio.sleep(0.01)
        servers[0].process.send_signal(signal.SIGTERM)
        ended = await asyncio.to_thread(servers[0].ended)
        assert ended == 0
        after = len(told)
        while len(told) < after + 200:  # the other one goes on
            await asyncio.sleep(0.01)
        enough.set()
        await asyncio.gather(*callers)
    return told


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two processes"])
def test_sigterm_under_load_fails_no_call_of_a_client_that_watches_two_servers(
    workers: int, start: Start
) -> None:
    settings = {"grpc_port": 0, "http_workers": workers}
    servers = [start(batch_seconds=0.005, grace_seconds=2, settings=settings) for _ in range(2)]
    told = asyncio.run(term_one_of_two(servers))
    failed = [one for one in told if isinstance(one, grpc.aio.AioRpcError)]
    assert failed == []
    np.testing.assert_array_equal(output(told[-1], "z"), 2 * X)
    assert not [line for line in servers[0].log if line["level"] in ("warning", "error")]


async def term_with_calls_under_way(server: FakeServer) -> tuple[list[object], object, bool]:
    """Return what became of calls that had come, of one after the end, and whether it said not to serve."""
    check = "/grpc.health.v1.Health/Check"
    address = f"127.0.0.1:{server.grpc_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(INFER)
        await infer(infer_request())
        calls = [infer(infer_request(), timeout=30) for _ in range(16)]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        while server.get("/health").json()["queue"]["requests"] < 16:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        told = await channel.unary_unary(check)(b"")
        while told == b"\x08\x01":  # the signal is on its way
            told = await channel.unary_unary(check)(b"")
        answers = await waiting
    await asyncio.to_thread(server.process.wait, 30)
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            late: object = await channel.unary_unary(INFER)(infer_request(), timeout=5)
        except grpc.aio.AioRpcError as error:
            late = error.code()
    return list(answers), late, told == b"\x08\x02"


def test_calls_that_have_come_are_answered_after_sigterm(start: Start) -> None:
    settings = {"grpc_port": 0, "max_batch_tokens": 4, "max_queued_tokens": 40_000}
    server = start(batch_seconds=0.2, grace_seconds=1.0, settings=settings)
    answers, late, unready = asyncio.run(term_with_calls_under_way(server))
    assert [type(answer) for answer in answers] == [bytes] * 16
    assert (late, unready) == (grpc.StatusCode.UNAVAILABLE, True)
    assert server.ended() == 0


def test_calls_that_take_longer_than_the_drain_are_told_so_and_the_status_is_1(start: Start) -> None:
    server = start(batch_seconds=3600, settings={"grpc_port": 0, "drain_seconds": 1, "watchdog_seconds": 60})

    async def ask() -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(INFER)(infer_request(), timeout=30)
            while server.get("/health").json()["queue"]["requests"] < 1:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await call.code()

    assert asyncio.run(ask()) is grpc.StatusCode.UNAVAILABLE
    assert server.ended() == 1


@pytest.fixture
def empty(tmp_path: Path) -> list[str]:
    """The command of a server with nothing to serve."""
    command = [sys.executable, "-m", "service.cli", "serve", "--allow-empty", "--port", "0"]
    return [*command, "--model-repository", str(tmp_path)]


def test_a_port_that_is_taken_refuses_to_start(empty: list[str]) -> None:
    held = hold_port("127.0.0.1", 0)
    held.listen()
    with held:
        port = str(held.getsockname()[1])
        done = subprocess.run(
            [*empty, "--grpc-port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert re.search(rf"cannot listen on 127.0.0.1:{port} for gRPC: .*choose another GRPC_PORT", done.stderr)


@pytest.mark.parametrize(("module", "package"), [("grpc", "grpcio"), ("google.protobuf", "protobuf")])
def test_a_package_that_is_missing_refuses_to_start_with_the_remedy(
    module: str, package: str, empty: list[str]
) -> None:
    hidden = f"import sys; sys.modules[{module!r}] = None; from service.cli import main; main()"
    command = [sys.executable, "-c", hidden, *empty[3:], "--grpc-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert package in done.stderr
    assert "pip install 'heed-server[grpc]'" in done.stderr


def test_a_package_that_is_too_old_refuses_to_start(empty: list[str]) -> None:
    old = "import grpc; grpc.__version__ = '1.83.1'; from service.cli import main; main()"
    command = [sys.executable, "-c", old, *empty[3:], "--grpc-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "grpcio is 1.83.1; it must be 1.83.2 or later" in done.stderr


def test_what_is_not_set_is_not_imported() -> None:
    assert importlib.util.find_spec("grpc")
    code = """
import sys
import service.cli
from service.app import create_app, service_of
from service.grpc.starting import grpc_beside
from service.settings import Settings
from tests.fakes import FakeRuntime
app = create_app(Settings(), FakeRuntime())
assert grpc_beside(Settings(), app, service_of(app)) is None
assert not {"grpc", "google.protobuf"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
