"""The model repository: a folder of model folders, each plain or with numbered version folders inside.

    repository/minilm/config.json          version "1"
    repository/own/1/config.json           versions "1" and "12", of which
    repository/own/12/config.json          the highest number is the default, as in Triton

Beside it, or in its stead, single folders given by name. A repository that is itself a model folder holds
that one model, under its own folder's name. Names are checked, so that none reaches out of the repository;
links are followed by the kernel alone, so that one through `/proc/PID/root` leads where it leads. A broken
folder is listed with its reason without hiding the others.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from models.config import shown
from models.errors import SpecError, UnknownModel, of_load, printable
from models.folders.families import is_model, read_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
PLAIN_VERSION = "1"


class Repository:
    """Folders of models. Every method looks at the disk anew, so that models can be added while serving.

    `folders` are given by name, wherever they are; each hides a folder of `root` of the same name. `root` may
    be None where there are only those.
    """

    def __init__(self, root: Path | None, folders: Mapping[str, Path] | None = None) -> None:
        """Raise SpecError unless `root` is a folder."""
        if root is not None and not root.is_dir():
            raise SpecError(
                f"the model repository {shown(str(root))} is not a folder; make it, name another, or name "
                "one model with --model NAME=PATH"
            )
        # Never resolve(): what it makes of a link by hand, the kernel may see otherwise.
        self.root = None if root is None else root.absolute()
        self._given = {name: folder.absolute() for name, folder in (folders or {}).items()}

    def names(self) -> list[str]:
        """Return the names of all models, sorted, broken ones too; a name that starts with a dot is none."""
        return [entry for entry in self._entries() if NAME.fullmatch(entry)]

    def versions(self, name: str) -> list[str]:
        """Return a model's versions, lowest first; raise UnknownModel, or SpecError for a broken layout."""
        return list(self._versions(self._folder(name)))

    def find(self, name: str, version: str | None = None) -> tuple[str, Path]:
        """Return a version of a model and its folder; by default the highest.

        Raises UnknownModel when there is none, SpecError when its layout is broken.
        """
        versions = self._versions(self._folder(name))
        if version is not None and version not in versions:
            raise UnknownModel(f"model {name} has no version {shown(version)}; it has {', '.join(versions)}")
        chosen = version if version is not None else next(reversed(versions))
        return chosen, versions[chosen]

    def index(self) -> list[dict[str, str]]:
        """Return name, version and reason of every version of every model, in order of names and numbers.

        `reason` says why a version cannot be read, "" when it can; a broken layout has the version "".
        """
        rows: list[dict[str, str]] = []
        for name in self._entries():
            for version, reason in self._rows(name):
                rows.append({"name": printable(name), "version": version, "reason": reason})
        return rows

    def _rows(self, name: str) -> list[tuple[str, str]]:
        if not NAME.fullmatch(name):
            return [("", "the name of a model has letters, digits, dots, dashes and underscores")]
        try:
            return [(version, self._reason(name, version)) for version in self.versions(name)]
        except (SpecError, UnknownModel) as problem:
            return [("", str(problem))]

    def _entries(self) -> list[str]:
        if self.root is None:
            return sorted(self._given)
        try:
            if self._is_model():
                return sorted({self._own_name(), *self._given})
            with os.scandir(self.root) as found:
                return sorted({*(one.name for one in found if _is_model_folder(one)), *self._given})
        except OSError as problem:
            raise SpecError(f"the model repository cannot be read: {problem.strerror}") from problem

    def _is_model(self) -> bool:
        """Whether the repository is itself a model folder, and not a folder of them."""
        return self.root is not None and is_model(self.root)

    def _own_name(self) -> str:
        return os.path.basename(os.path.abspath(str(self.root)))  # `.` and `..` have no names

    def _folder(self, name: str) -> Path:
        """Return the folder of a model, whatever is in it; raise UnknownModel where there is none."""
        if name in self._given:
            return self._given[name]
        if self.root is not None and NAME.fullmatch(name):
            if self._is_model():
                if name == self._own_name():
                    return self.root
            elif os.path.lexists(self.root / name):
                return self.root / name
        raise UnknownModel(f"there is no model {shown(name)} in the repository{self._instead()}")

    def _instead(self) -> str:
        return f", which is itself the model {shown(self._own_name())}" if self._is_model() else ""

    def _versions(self, folder: Path) -> dict[str, Path]:
        """Return each version's folder, lowest first; at least one."""
        try:
            if not stat.S_ISDIR(folder.stat().st_mode):
                raise SpecError(f"{shown(str(folder))} is not a folder")
            numbers = [one.name for one in folder.iterdir() if VERSION.fullmatch(one.name) and one.is_dir()]
        except OSError as problem:
            kind = "is a link that leads nowhere" if folder.is_symlink() else "cannot be read"
            raise SpecError(f"{shown(str(folder))} {kind}: {problem.strerror}") from problem
        plain = is_model(folder)
        if plain and numbers:
            raise SpecError(f"{folder.name} has a config.json and version folders; move one away")
        if not plain and not numbers:
            raise SpecError(f"{folder.name} has no config.json and no numbered version folder")
        if plain:
            return {PLAIN_VERSION: folder}
        return {number: folder / number for number in sorted(numbers, key=int)}

    def _reason(self, name: str, version: str) -> str:
        """Return why a version cannot be read, "" when it can."""
        try:
            read_folder(self.find(name, version)[1])
        except OSError as problem:  # it went away while being read
            return f"{name} cannot be read: {problem.strerror}"
        except BaseException as problem:  # one folder must not hide the others
            if (reason := of_load(name, problem)) is None:
                raise
            return str(reason)
        return ""


def _is_model_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a repository is a folder, or a link that was meant to lead to one."""
    if entry.name.startswith("."):
        return False
    try:
        return stat.S_ISDIR(entry.stat().st_mode)
    except OSError:
        return entry.is_symlink()
