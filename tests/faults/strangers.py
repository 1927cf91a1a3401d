"""Model folders as strangers make them: broken, endless, looping, or written to run something.

Every stranger is a copy of the demo model to which one thing is done. It must be served all the same or be
listed with a reason; nothing in it may run, and no other model may suffer.
"""

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MI = 1 << 20
Harm = Callable[[Path], None]  # done to a folder, or to a file in it
FILES = (
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "tokenizer_config.json",
    "modules.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "1_Pooling/config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A folder's name and what is done to it; `hangs`: a reader that trusts it would wait for ever."""

    name: str
    harm: Harm
    hangs: bool = False


def canary(folder: Path) -> Path:
    """The file that what must not run would make."""
    return folder.parent / ".canary"


class _Payload:
    """Unpickled, it writes the canary."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


# Harms to one file, which may not be there yet.


def _replaced(make: Callable[[Path], None]) -> Harm:
    def harm(file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        make(file)

    return harm


def _written(content: bytes) -> Harm:
    return _replaced(lambda file: _write(file, content))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _truncate(file: Path) -> None:
    if file.exists():
        os.truncate(file, file.stat().st_size // 2)
    else:
        _written(b"{")(file)


def _huge(file: Path) -> None:
    """A hole: 64 GiB that take no room."""
    with file.open("wb") as hole:
        hole.truncate(64 << 30)


def _socket(file: Path) -> None:
    """A socket in the file system; its path may be longer than one may be, so it is made beside."""
    here = os.open(file.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{file.name}")
    finally:
        os.close(here)


def _pickled(file: Path) -> None:
    _write(file, pickle.dumps(_Payload(canary(file.parent))))


FILE_HARMS: dict[str, tuple[Harm, bool]] = {
    "missing": (lambda file: file.unlink(missing_ok=True), False),
    "empty": (_written(b""), False),
    "truncated": (_truncate, False),
    "random": (_written(bytes(range(256)) * 64), False),
    "zeros": (_written(bytes(4096)), False),
    "a list": (_written(b"[]"), False),
    "null": (_written(b"null"), False),
    "deep": (_written(b"[" * 100_000), False),
    "a long number": (_written(b'{"a": ' + b"9" * 100_000 + b"}"), False),
    "a hole of 64 GiB": (_replaced(_huge), False),
    "a folder": (_replaced(Path.mkdir), False),
    "a FIFO": (_replaced(os.mkfifo), True),
    "a socket": (_replaced(_socket), False),
    "a link to itself": (_replaced(lambda file: file.symlink_to(file.name)), False),
    "a link to nowhere": (_replaced(lambda file: file.symlink_to("nowhere")), False),
    "a link out": (_replaced(lambda file: file.symlink_to("/etc/hostname")), False),
    "a link to zeros": (_replaced(lambda file: file.symlink_to("/dev/zero")), True),
    "a pickle": (_replaced(_pickled), False),
}


_fifo = FILE_HARMS["a FIFO"][0]


def _config(**changes: object) -> Harm:
    return _json("config.json", lambda content: content.update(changes))


def _json(name: str, change: Callable[[dict[str, Any]], object]) -> Harm:
    def harm(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        change(content)
        file.write_text(json.dumps(content))

    return harm


def _tokenizer(**changes: object) -> Harm:
    return _json("tokenizer.json", lambda content: content.update(changes))


def _remote_code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(canary(folder))!r}).touch()\n")
    _config(
        model_type="evil",
        architectures=["Evil"],
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    )(folder)


def _pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _pickled(folder / "pytorch_model.bin")


def _loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def _ring(folder: Path) -> None:
    (folder / "inside").symlink_to(folder, target_is_directory=True)


def _many_files(folder: Path) -> None:
    for number in range(10_500):
        (folder / f"{number}.txt").touch()


def _device_node(folder: Path) -> None:
    """The kernel's zeros where a configuration should be; where no node may be made, a link to them."""
    file = folder / "config.json"
    file.unlink()
    try:
        os.mknod(file, 0o20666, os.makedev(1, 5))
    except OSError:
        file.symlink_to("/dev/zero")


def _weights_header(header: bytes, declared: int | None = None) -> Harm:
    size = len(header) if declared is None else declared
    return lambda folder: _write(folder / "model.safetensors", size.to_bytes(8, "little") + header)


def _only(kind: str, **fields: object) -> dict[str, object]:
    return {"type": kind, **fields}


def _multiply(times: int) -> dict[str, object]:
    return _only("Replace", pattern={"String": "a"}, content="a" * times)


MULTIPLYING = _only("Sequence", normalizers=[_multiply(50)] * 5)
SLOW_PATTERN = _only("Replace", pattern={"Regex": "(x+x+)+y"}, content="z")
BAD_CHARSMAP = _only("Precompiled", precompiled_charsmap="AAAA")
WIDE_TEMPLATE = _only(
    "TemplateProcessing",
    single=[{"SpecialToken": {"id": "[S]", "type_id": 0}}] * 10_000
    + [{"Sequence": {"id": "A", "type_id": 0}}],
    pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    special_tokens={"[S]": {"id": "[S]", "ids": [1] * 1000, "tokens": ["a"] * 1000}},
)

STRANGERS: tuple[Stranger, ...] = (
    *(
        Stranger(f"config-{harm.replace(' ', '-')}", lambda folder, do=do: do(folder / "config.json"), hangs)
        for harm, (do, hangs) in FILE_HARMS.items()
    ),
    Stranger("remote-code", _remote_code),
    Stranger("pickled-weights", _pickled_weights),
    Stranger("loop", _loop, hangs=True),
    Stranger("ring", _ring),
    Stranger("many-files", _many_files),
    Stranger("device-node", _device_node, hangs=True),
    Stranger("weights-of-0-bytes", lambda folder: _write(folder / "model.safetensors", b"")),
    Stranger("weights-header-of-2-63", _weights_header(b"{}", 2**63 - 1)),
    Stranger("weights-header-deep", _weights_header(b"[" * 100_000)),
    Stranger("weights-of-nothing", _weights_header(b"{}")),
    Stranger("a-billion-layers", _config(layers=10**9, num_hidden_layers=10**9, n_layers=10**9)),
    Stranger("heads-of-0", _config(heads=0)),
    Stranger("d-model-2-31", _config(d_model=2**31 - 1)),
    Stranger("names-with-dots", _config(weights="../../../etc/passwd", tokenizer="../tokenizer.json")),
    Stranger(
        "weights-fifo", lambda folder: FILE_HARMS["a FIFO"][0](folder / "model.safetensors"), hangs=True
    ),
    Stranger("tokenizer-fifo", lambda folder: FILE_HARMS["a FIFO"][0](folder / "tokenizer.json"), hangs=True),
    Stranger("tokenizer-not-one", lambda folder: _write(folder / "tokenizer.json", b'{"version": "9"}')),
    Stranger("tokenizer-panics", _tokenizer(normalizer=BAD_CHARSMAP)),
    Stranger("tokenizer-slow-pattern", _tokenizer(normalizer=SLOW_PATTERN)),
    Stranger("tokenizer-multiplies", _tokenizer(normalizer=MULTIPLYING)),
    Stranger("tokenizer-wide-template", _tokenizer(post_processor=WIDE_TEMPLATE)),
)
TOKENIZERS = tuple(one for one in STRANGERS if one.name.startswith("tokenizer-") and not one.hangs)
# What makes each of them do what it does, and nothing of an honest one.
TOKENIZER_TEXTS = {
    "tokenizer-slow-pattern": "x" * 3000,
    "tokenizer-multiplies": "a" * 40,
    "tokenizer-panics": "a b",
    "tokenizer-wide-template": "a b",
    "tokenizer-not-one": "a b",
}
HANGING = tuple(one for one in STRANGERS if one.hangs)
CALM = tuple(one for one in STRANGERS if one not in (*HANGING, *TOKENIZERS))


def many_strangers() -> Iterator[Stranger]:
    """The long form: every harm to every file, and the special ones."""
    for number, file in enumerate(FILES):
        for harm, (do, hangs) in FILE_HARMS.items():
            name = f"file{number}-{harm.replace(' ', '-')}"
            yield Stranger(name, lambda folder, do=do, file=file: do(folder / file), hangs)  # type: ignore[misc]
    yield from (one for one in STRANGERS if not one.name.startswith("config-"))


@contextmanager
def placed(strangers: Iterator[Stranger] | tuple[Stranger, ...], good: Path, at: Path) -> Iterator[list[str]]:
    """Make a repository of the strangers, and of `good` under its own name, twice; it goes with the block."""
    at.mkdir(parents=True)
    with ExitStack() as after:
        after.callback(shutil.rmtree, at, ignore_errors=True)
        for name in ("aaa-good", "zzz-good"):  # first and last in the order in which they are loaded
            shutil.copytree(good, at / name, ignore=shutil.ignore_patterns(".*"))
        names = []
        for one in strangers:
            folder = at / one.name
            shutil.copytree(good, folder, ignore=shutil.ignore_patterns(".*"))
            one.harm(folder)
            names.append(one.name)
        yield names
