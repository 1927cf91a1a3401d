"""A server started from KServe's runtime as KServe fills it, with the model where KServe puts it.

The model is fetched by KServe's own storage initializer, or appears as `oci://` has it, a link into the root
of another container; then KServe's and Triton's clients ask, unmodified.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.deploy.conftest import DEPLOY
from tests.deploy.containers import ROOT, START_SECONDS, Container, may_mount, running
from tests.deploy.kserve_clients import TEXTS
from tests.waiting import wait_until

MINILM = ROOT / "repository" / "minilm"
CLIENTS, STORAGE = ROOT / ".cache" / "clients", ROOT / ".cache" / "kserve"
SCRIPT = Path(__file__).with_name("kserve_clients.py")
NAME = "my-minilm"  # of the InferenceService
PLACE = "/mnt/models"
GRACE_SECONDS = 30  # KServe's terminationGracePeriodSeconds

pytestmark = [
    pytest.mark.skipif(not (CLIENTS / "ready").exists(), reason="make clients installs kserve, tritonclient"),
    pytest.mark.skipif(not (STORAGE / "ready").exists(), reason="make clients installs kserve-storage"),
    pytest.mark.skipif(not MINILM.exists(), reason="the demo models are not there: make models"),
]


def filled(**metadata: str) -> dict[str, Any]:
    """Return the runtime's container with what stands for the InferenceService's metadata filled in.

    KServe's ReplacePlaceholders has the container as JSON be a Go template over its ObjectMeta.
    """
    runtime = yaml.safe_load((DEPLOY / "kserve" / "clusterservingruntime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    text = re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda found: metadata[found[1]], json.dumps(container))
    assert "{{" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def of_kserve(*words: str) -> str:
    """Run the script in the environment that has KServe's packages; return what it prints."""
    done = subprocess.run(
        [str(CLIENTS / "bin" / "python"), str(SCRIPT), *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(STORAGE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model as an archive on a web server."""
    folder = tmp_path_factory.mktemp("web")
    with tarfile.open(folder / "minilm.tar", "w") as file:
        file.add(MINILM, arcname=".")
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/minilm.tar"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def started(folder: Path, mounts: dict[str, Path], **more: str) -> Any:
    container = filled(Name=NAME)
    return running(container["args"], environment(container) | more, folder, mounts=mounts)


def check(server: Container) -> None:
    """Ask its probes and clients, compare what they got, and end it as KServe does."""
    container = filled(Name=NAME)
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    for probe in probes:
        server.wait(container[probe]["httpGet"]["path"])
    listed = httpx.get(f"{server.url}/v1/models", timeout=30).json()["models"]
    assert [model["name"] for model in listed] == [NAME]
    found = json.loads(of_kserve("ask", f"127.0.0.1:{server.port}", NAME))
    body = {"inputs": [{"text": text} for text in TEXTS], "outputs": ["pooled"]}
    reply = httpx.post(f"{server.url}/v1/models/{NAME}/attend", json=body, timeout=60)
    wanted = [output["pooled"] for output in reply.json()["outputs"]]
    assert np.shape(wanted) == (2, 384)
    for client, vectors in found.items():
        np.testing.assert_allclose(vectors, wanted, atol=1e-6, err_msg=client)
    if server.is_confined:
        said = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{server.user}\t" in said
    seconds = GRACE_SECONDS - container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert server.stop(seconds=seconds) == 0, server.said


def test_the_port_that_is_declared_is_the_one_it_listens_on_and_nothing_else_is_served() -> None:
    container = filled(Name=NAME)
    assert container["ports"][0]["containerPort"] == int(environment(container)["HEED_PORT"])
    assert container["args"] == ["serve", f"--model={NAME}={PLACE}", f"--models={NAME}"]
    assert int(environment(container)["HEED_DRAIN_SECONDS"]) + 5 <= GRACE_SECONDS


def test_a_model_that_kserve_fetched_over_http_is_served(archive: str, tmp_path: Path) -> None:
    of_kserve("fetch", archive, str(tmp_path / "models"))
    with started(tmp_path / "tmp", {PLACE: tmp_path / "models"}) as server:
        check(server)


def test_a_model_that_kserve_linked_from_a_local_folder_is_served(tmp_path: Path) -> None:
    of_kserve("fetch", f"file://{MINILM}", str(tmp_path / "models"))
    assert (tmp_path / "models" / "config.json").is_symlink()
    with started(tmp_path / "tmp", {PLACE: tmp_path / "models"}) as server:
        check(server)


# A modelcar: the image's /models is in its own root, and its one command links to it through /proc, in a
# volume that both containers have; then it sleeps.
MODELCAR = """
import ctypes, os, sys
libc = ctypes.CDLL("libc.so.6")
root, user = sys.argv[1], int(sys.argv[2])
os.chroot(root)
os.chdir("/")
if user:
    os.setgid(user)
    os.setuid(user)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE, as a program has it that was started as this user
print("up", flush=True)
sys.stdin.readline()
os.symlink(f"/proc/{os.getpid()}/root/models", "/mnt/models")
print("linked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not may_mount(), reason="this machine lets nobody mount in a namespace of their own")
def test_a_modelcars_model_appears_late_through_proc_and_is_served(tmp_path: Path) -> None:
    root, volume = tmp_path / "car", tmp_path / "volume"
    for folder in (root / "mnt", root / "models", volume):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    script = f'mount --bind "{volume}" "{root}/mnt" && mount --bind "{MINILM}" "{root}/models" && exec "$@"'
    own = ["unshare", "--mount", "sh", "-c", script, "sh"]
    command = [*own, sys.executable, "-c", MODELCAR, str(root), str(Container.user)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as car:
        assert car.stdin is not None
        assert car.stdout is not None
        try:
            assert car.stdout.readline() == "up\n"
            with started(tmp_path / "tmp", {"/mnt": volume}, MODEL_INIT_MODE="async") as server:
                assert server.is_confined
                said = f"waiting for {PLACE}"
                wait_until(lambda: said in server.said, "it waits for the folder", seconds=START_SECONDS)
                assert server.status("/v2/health/ready") == 0
                car.stdin.write("\n")
                car.stdin.flush()
                assert car.stdout.readline() == "linked\n"
                check(server)
        finally:
            car.kill()
