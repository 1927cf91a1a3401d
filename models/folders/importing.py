"""A model folder from anywhere on this machine, copied into a repository: whole and checked, or not at all.

Only what a server reads is copied, as plain files whatever was linked. Weights in pickle are never read, let
alone converted. Nothing is fetched.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.config import read_json, shown
from models.errors import SpecError
from models.folders.families import ModelFolder, PretrainedFolder, is_model, read_folder
from models.folders.head_tables import sizes_of
from models.folders.repository import NAME, VERSION
from models.folders.weights import check_weights, weight_bytes
from models.heads.reading import read_declared, read_head_sets
from models.regular_files import is_there, open_file

COPIED = (".json", ".safetensors", ".txt", ".md", ".jinja")
PAPERS = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SNAPSHOT = re.compile(r"models--(?:.+--)?(?P<name>[^/]+?)/snapshots/[^/]+")  # the cache of huggingface_hub
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 22
MOST_LINKS = 40  # one after another, as many as Linux follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was put where, and what it is; `left_out` are files that were not copied."""

    name: str
    version: str
    folder: Path
    found: ModelFolder | PretrainedFolder
    head_sets: tuple[str, ...]
    weight_bytes: int
    sha256: dict[str, str]  # by file
    left_out: tuple[str, ...]


def import_model(
    source: Path, repository: Path, *, name: str | None = None, version: str | None = None
) -> Imported:
    """Copy a model folder into a repository, as the next version where the model has numbered ones.

    `version` puts it into a numbered folder of that number. Raises SpecError, leaving the repository as it
    was: where the folder cannot be served, a file is not what its hash says, or the place is taken.
    """
    if not source.is_dir():
        raise SpecError(f"{shown(str(source))} is no folder on this machine; fetch the model first")
    name = _default_name(source) if name is None else name
    if not NAME.fullmatch(name):
        raise SpecError(f"the name {shown(name)} must be letters, digits, dots, dashes and underscores")
    if version is not None and not VERSION.fullmatch(version):
        raise SpecError(f"the version {shown(version)} must be a whole number, 1 or more")
    repository.mkdir(parents=True, exist_ok=True)
    if is_model(repository):
        raise SpecError(f"{shown(str(repository))} is itself a model folder; name a folder of model folders")
    place = _place(repository / name, version)
    wanted, left_out = _files(source)
    read_folder(source)  # a name that is no file is not copied: its reason is found here
    with tempfile.TemporaryDirectory(dir=repository, prefix=".import-") as scratch:
        made = Path(scratch, name)
        try:
            hashes = {at: _copy(source / at, made / at) for at in wanted}
            found = read_folder(made)
            if isinstance(found, ModelFolder):
                check_weights(found.weights, found.spec, found.naming)
            sets = _head_sets(made, found)
            size = weight_bytes(found.weights)
            place.parent.mkdir(exist_ok=True)
            made.rename(place)
        except OSError as problem:
            raise SpecError(f"{name} cannot be copied: {problem.strerror}") from problem
    return Imported(
        name=name,
        version=place.name if place.parent != repository else "1",
        folder=place,
        found=found,
        head_sets=sets,
        weight_bytes=size,
        sha256=hashes,
        left_out=tuple(left_out),
    )


def _head_sets(folder: Path, found: ModelFolder | PretrainedFolder) -> tuple[str, ...]:
    """Return the names of a folder's head sets, which are checked as far as it is known what they are of."""
    declared = tuple(read_declared(folder))
    try:
        sizes = sizes_of(found) if declared else {}
    except SpecError:  # whoever loads it will know
        return declared
    if declared:
        read_head_sets(folder, sizes)
    return declared


def _default_name(source: Path) -> str:
    whole = source.absolute()
    cached = SNAPSHOT.search(whole.as_posix())
    return cached["name"] if cached else whole.name


def _place(folder: Path, version: str | None) -> Path:
    """Return where the copy goes: a folder that is not there yet."""
    plain = is_model(folder)
    there = folder.is_dir() and not plain
    numbers = [int(one.name) for one in folder.iterdir() if VERSION.fullmatch(one.name)] if there else []
    if version is None and numbers:
        version = str(max(numbers) + 1)
    place = folder if version is None else folder / version
    if plain or place.exists() or (folder.exists() and not folder.is_dir()):
        raise SpecError(f"{folder.name} is in the repository already; remove it, or give another name")
    return place


def _files(source: Path) -> tuple[list[str], list[str]]:
    """Return what is copied and what is left out, as paths below the folder."""
    below = _folders_of_modules(source)
    wanted: list[str] = []
    left_out: list[str] = []
    for path in sorted(_walk(source)):
        at = path.relative_to(source)
        kind = at.name.endswith(COPIED) or at.stem.upper() in PAPERS
        inside = len(at.parts) == 1 or (len(at.parts) == 2 and at.parts[0] in below)
        (wanted if kind and inside else left_out).append(at.as_posix())
    if not any(at.endswith(".safetensors") for at in wanted):
        pickled = [at for at in left_out if at.endswith(PICKLED)]
        raise SpecError(
            f"there are no safetensors in {shown(source.name)}"
            + (f", only {pickled[0]}, which may run code and is never read" if pickled else "")
            + "; save the model again with save_pretrained"
        )
    return wanted, left_out


def _walk(source: Path) -> Iterator[Path]:
    """Yield what is no folder in a folder and in those in it, links that lead nowhere too; nothing hidden."""
    for one in source.iterdir():
        if one.name.startswith("."):
            continue
        if one.is_dir():
            yield from (inner for inner in one.iterdir() if not inner.is_dir())
        else:
            yield one


def _folders_of_modules(source: Path) -> set[str]:
    """Return the folders that sentence-transformers' modules.json names; read_folder checks it later."""
    file = source / "modules.json"
    modules = read_json(file, top=list) if is_there(file) else []
    return {str(one["path"]) for one in modules if isinstance(one, dict) and one.get("path")}


def _copy(source: Path, target: Path) -> str:
    """Copy one file and return its SHA-256; raise SpecError where the cache it comes from names another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_file(source) as read, target.open("wb") as write:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    shutil.copymode(source, target)
    found = digest.hexdigest()
    blob = _linked_name(source)  # the cache calls a large file by its hash
    if SHA256.fullmatch(blob) and blob != found:
        raise SpecError(f"{source.name} is damaged: its SHA-256 is {found}, not {blob}; fetch it again")
    return found


def _linked_name(file: Path) -> str:
    """Return what a file is called where its links end, "" where it is none; folders are the kernel's."""
    name = ""
    for _ in range(MOST_LINKS):
        if not file.is_symlink():
            break
        file = file.parent / os.readlink(file)
        name = file.name
    return name
