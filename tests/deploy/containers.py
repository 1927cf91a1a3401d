"""A server as a container runs it: with the arguments, environment, user and mounts that it is given."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.conftest import DEPLOY
from tests.waiting import wait_until

ROOT = DEPLOY.parent
START_SECONDS = 120.0
# What the image sets, and what a container has beside it.
IMAGE = {"HEED_HOST": "0.0.0.0", "HEED_MODEL_REPOSITORY": str(ROOT / "repository")}
TOOLS = ("unshare", "setpriv", "mount", "sh")


def may_mount() -> bool:
    """Whether this process may mount in a namespace of its own, and run there as another user."""
    if os.getuid() != 0 or not all(map(shutil.which, TOOLS)) or os.stat(ROOT).st_mode & 0o005 != 0o005:
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class Container:
    """One running server. `mounts`: which folder is where; where none may mount, places are written anew."""

    user = 10001  # the image's
    before: tuple[str, ...] = ()  # words of a command that runs the server's

    def __init__(
        self, args: Sequence[str], env: Mapping[str, str], folder: Path, *, mounts: Mapping[str, Path]
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.is_confined = may_mount() and all(map(_can_be_hidden, mounts))
        args, env = list(args), dict(env)
        if not self.is_confined:
            for place, source in mounts.items():
                args = [arg.replace(place, str(source)) for arg in args]
                env = {name: value.replace(place, str(source)) for name, value in env.items()}
        own = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}
        command = [*self.before, sys.executable, "-m", "service.cli", *args]
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                _confined(command, folder, mounts, user=self.user) if self.is_confined else command,
                cwd=ROOT,
                env={**IMAGE, **env, **own, **self.at(self.port)},
                stdout=out,
                stderr=out,
            )
        self.url = f"http://127.0.0.1:{self.port}"

    def at(self, port: int) -> dict[str, str]:
        """Return what says on which port to listen: not the container's own, which may be taken here."""
        return {"HEED_PORT": str(port), "HEED_HOST": "127.0.0.1"}

    def status(self, path: str) -> int:
        """Ask one probe as a platform does; 0 where the port is closed."""
        assert self.process.poll() is None, self.said
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return 0

    @property
    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def wait(self, path: str) -> None:
        """Return once a probe is answered with 200."""
        wait_until(lambda: self.status(path) == 200, f"200 at {path}", seconds=START_SECONDS)

    def stop(self, *, seconds: float) -> int:
        """Send SIGTERM; return the exit status, which must come in time."""
        self.process.terminate()
        return self.process.wait(timeout=seconds)


@contextmanager
def running(
    args: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    *,
    mounts: Mapping[str, Path],
    kind: type[Container] = Container,
) -> Iterator[Container]:
    """One server, which is gone at the end whatever happened."""
    made = kind(args, env, folder, mounts=mounts)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait(timeout=30)


def _can_be_hidden(place: str) -> bool:
    """Whether something else may lie there, or where its parent is, for one process: nothing of ours does."""
    top = _existing(place)
    ours = (sys.prefix, sys.base_prefix, str(ROOT), "/tmp")
    return top != Path("/") and not any(Path(one).is_relative_to(top) for one in ours)


def _existing(place: str) -> Path:
    return next(folder for folder in (Path(place), *Path(place).parents) if folder.is_dir())


def _confined(command: list[str], folder: Path, mounts: Mapping[str, Path], *, user: int) -> list[str]:
    """Run as a user, without capabilities, on a read-only root, with folders where they belong."""
    lines = [f'mount --bind "{folder}" "{folder}"']
    for place, source in mounts.items():
        lines += [f'mount -t tmpfs tmpfs "{_existing(place)}"', f'mkdir -p "{place}"']
        lines += [f'mount --bind "{source}" "{place}"', f'mount -o remount,bind,ro "{place}"']
    lines += [
        "mount -o remount,bind,ro /",
        f'exec setpriv --reuid {user} --regid {user} --clear-groups --bounding-set -all --no-new-privs "$@"',
    ]
    return ["unshare", "--mount", "sh", "-c", " && ".join(lines), "sh", *command]
