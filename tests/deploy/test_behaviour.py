"""The Deployment as a kubelet would run it, by the environment, probes and user that are rendered."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.conftest import DEPLOY, rendered

ROOT = DEPLOY.parent
START_SECONDS = 120
CALLERS = 4
BODY = {"inputs": [{"text": "She sat on the bank of the river."}], "outputs": ["z"]}


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    objects = rendered(DEPLOY / "kubernetes" / "base")
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


class Pod:
    """The server of a pod, on a port of its own; its root is read-only where this process may see to that."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        self.spec = spec
        (self.container,) = spec["containers"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        env = {one["name"]: one["value"] for one in self.container["env"] if "value" in one}
        env |= {"HEED_PORT": str(self.port), "HEED_HOST": "127.0.0.1"}
        env |= {"HEED_MODEL_REPOSITORY": str(ROOT / "repository"), "HEED_MODELS": "minilm"}
        env |= {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder),
        }
        command = [sys.executable, "-m", "service.cli", *self.container["args"]]
        confined = self._confined(command, folder)
        self.is_confined = confined is not command
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(confined, cwd=ROOT, env=env, stdout=out, stderr=out)

    def _confined(self, command: list[str], folder: Path) -> list[str]:
        """Run as the pod's user, without capabilities, on a read-only root, where that is permitted."""
        user = self.spec["securityContext"]["runAsUser"]
        tools = all(shutil.which(name) for name in ("unshare", "setpriv", "mount"))
        readable = os.stat(ROOT).st_mode & 0o005 == 0o005
        if os.getuid() != 0 or not tools or not readable:
            return command
        folder.chmod(0o777)
        probe = ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            return command
        script = (
            f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro / && '
            f"exec setpriv --reuid {user} --regid {user} --clear-groups --bounding-set -all --no-new-privs "
            '"$@"'
        )
        return ["unshare", "--mount", "sh", "-c", script, "sh", *command]

    def probe(self, name: str) -> int:
        """Ask one probe as the kubelet does; 0 where the port is closed."""
        path = self.container[name]["httpGet"]["path"]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).status_code
        except httpx.TransportError:
            return 0


@pytest.fixture
def running(pod: dict[str, Any], tmp_path: Path) -> Iterator[Pod]:
    if not (ROOT / "repository" / "minilm").exists():
        pytest.skip("the demo models are not there: make models")
    server = Pod(pod, tmp_path)
    try:
        until = time.monotonic() + START_SECONDS
        while server.probe("startupProbe") != 200:
            assert server.process.poll() is None, server.log.read_text()[-2000:]
            assert time.monotonic() < until
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(timeout=30)


def test_probes_turn_200_and_the_pods_end_fails_no_request(running: Pod) -> None:
    assert [running.probe(name) for name in ("startupProbe", "readinessProbe", "livenessProbe")] == [200] * 3
    if running.is_confined:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        said = dict(line.split(":\t", 1) for line in status.splitlines())
        assert said["Uid"].split() == [str(running.spec["securityContext"]["runAsUser"])] * 4
        assert int(said["CapEff"], 16) == 0
        mounts = Path(f"/proc/{running.process.pid}/mounts").read_text().splitlines()
        (root,) = [line.split()[3] for line in mounts if line.split()[1] == "/"][-1:]
        assert "ro" in root.split(",")
    statuses = asyncio.run(_ended_under_load(running))
    assert len(statuses) > CALLERS
    assert set(statuses) == {200}
    grace = running.spec["terminationGracePeriodSeconds"]
    assert running.process.wait(timeout=grace) == 0, running.log.read_text()[-2000:]


async def _ended_under_load(running: Pod) -> list[int]:
    """Ask until the pod's address is withdrawn, behind SIGTERM, which comes behind `preStop`'s sleep."""
    statuses: list[int] = []
    withdrawn = asyncio.Event()
    answered = asyncio.Event()

    async def caller(http: httpx.AsyncClient) -> None:
        while not withdrawn.is_set():
            reply = await http.post("/v1/models/minilm/attend", json=BODY)
            statuses.append(reply.status_code)
            if len(statuses) > CALLERS:
                answered.set()

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as http:
        callers = [asyncio.create_task(caller(http)) for _ in range(CALLERS)]
        await answered.wait()
        await asyncio.sleep(running.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        running.process.send_signal(signal.SIGTERM)
        while running.probe("readinessProbe") == 200:
            await asyncio.sleep(0.05)
        withdrawn.set()  # the endpoint is gone: callers who come now are sent elsewhere
        await asyncio.gather(*callers)
    return statuses
