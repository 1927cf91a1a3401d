"""`NAME=PATH[:dtype]`, one model folder and what to serve it as; `name[:dtype]`, one of the repository.

Read by `settings`, before the first station of the request line.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
DTYPES = ("float32", "tf32", "bfloat16", "float16", "int8")
ENTRY = re.compile(rf"({NAME})=(.+)", re.DOTALL)
MODEL = re.compile(rf"{NAME}(:({'|'.join(DTYPES)}))?")
BETWEEN = re.compile(rf",\s*(?={NAME}=)")  # a path may hold commas
LATER = {"MODEL_INIT_MODE": "async"}  # KServe's word for folders that appear after the server has begun
LOOK_SECONDS = 0.1
FORM = "give NAME=PATH or NAME=PATH:dtype, the name of letters, digits, '.', '_' and '-'"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamedFolder:
    """One folder; `dtype` None is the server's."""

    name: str
    path: Path
    dtype: str | None = None


def read_folders(given: str | Iterable[str]) -> tuple[NamedFolder, ...]:
    """Read one text of entries between commas, or several such; raise ValueError saying what is wrong."""
    texts = [given] if isinstance(given, str) else list(given)
    entries = [entry for text in texts if text.strip() for entry in BETWEEN.split(text.strip())]
    folders = tuple(_read(entry) for entry in entries)
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError("a name is given to two folders; give each its own")
    return folders


def read_names(text: object) -> object:
    """Split a comma-separated list of names, each with its own dtype or none; an empty one is None: all."""
    if not isinstance(text, str):
        return text
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    for name in names:
        if not MODEL.fullmatch(name):
            raise ValueError(
                "each name is letters, digits, '.', '_' and '-', and may have a ':' and its own dtype "
                f"behind it, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}; remove empty entries"
            )
    if len({name.partition(":")[0] for name in names}) < len(names):
        raise ValueError("a model is named twice; name each once")
    return tuple(names) or None


def read_name(text: object) -> object:
    """Return the name of one model, None for an empty text; raise ValueError for what can be none."""
    if text == "" or not isinstance(text, str):
        return text or None
    if not re.fullmatch(NAME, text):
        raise ValueError("a model's name is 1 to 128 letters, digits, '.', '_' and '-', no dot at its start")
    return text


def await_folders(
    folders: Iterable[NamedFolder],
    environ: Mapping[str, str],
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until all folders are there, at most so long, where the environment says that they may be late."""
    if not LATER.items() <= environ.items():
        return
    missing = [folder for folder in folders if _absent(folder.path)]
    until = clock() + seconds
    if missing:
        log.info("waiting for %s, at most %d s (LOAD_SECONDS)", missing[0].path, seconds)
    while missing and clock() < until:
        sleep(LOOK_SECONDS)
        missing = [folder for folder in missing if _absent(folder.path)]


def _absent(path: Path) -> bool:
    """Whether nothing is there yet; what may not be looked at is there, and whoever reads it says so."""
    try:
        return not path.is_dir()
    except OSError:
        return False


def _read(entry: str) -> NamedFolder:
    found = ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(FORM)
    name, path = found.groups()
    before, _, last = path.rpartition(":")
    dtype = last if before and last in DTYPES else None  # a path may hold colons
    try:
        return NamedFolder(name, Path(before if dtype else path).expanduser(), dtype)
    except RuntimeError:  # pathlib's, for a ~ that is nobody's
        raise ValueError("there is no such home folder; give the path without ~") from None
