"""nginx, HAProxy and Envoy as deploy/proxy has them, each before two servers."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.conftest import DEPLOY, tool

PROXIES = {
    "nginx": ("nginx.conf", lambda file: ["-e", "stderr", "-g", "daemon off; pid PID;", "-c", file]),
    "haproxy": ("haproxy.cfg", lambda file: ["-db", "-f", file]),
    "envoy": ("envoy.yaml", lambda file: ["--log-level", "error", "--base-id", "BASE", "-c", file]),
}
READY_SECONDS = 30


@contextmanager
def proxy(
    name: str, ports: Sequence[int], folder: Path, *, change: Callable[[str], str] = lambda text: text
) -> Iterator[str]:
    """Run a proxy before two servers, with its own file, in which ports alone are changed; give its address.

    `change` is made to the file beside. Skips where the proxy is not installed.
    """
    file, words = PROXIES[name]
    program = tool(name)
    with socket.socket() as free, socket.socket() as admin:
        free.bind(("127.0.0.1", 0))
        admin.bind(("127.0.0.1", 0))
        port, other = free.getsockname()[1], admin.getsockname()[1]
    text = change((DEPLOY / "proxy" / file).read_text())
    for was, now in (("8001", ports[0]), ("8002", ports[1]), ("8000", port), ("9901", other)):
        assert was in text or was == "9901"
        text = text.replace(was, str(now))
    config = folder / file
    config.write_text(text)
    command = [program, *words(str(config))]
    command = [word.replace("PID", str(folder / "pid")).replace("BASE", str(port)) for word in command]
    log = folder / "proxy.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + READY_SECONDS
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url + "/v2/health/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
