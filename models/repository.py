"""The model repository: a folder of model folders, each plain or with numbered version folders inside.

    repository/minilm/config.json          version "1"
    repository/own/1/config.json           versions "1" and "12", of which
    repository/own/12/config.json          the highest number is the default, as in Triton

Nothing is trusted: names are checked, links may not lead out, and a broken folder is listed with its
reason without hiding the others.
"""

import os
import re
from pathlib import Path

from models.config import shown
from models.errors import SpecError, UnknownModel
from models.families import is_model, read_folder

__all__ = ["Repository"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
PLAIN_VERSION = "1"
MOST_ENTRIES = 10_000  # looked at in one folder


class Repository:
    """A folder of models. Every method looks at the disk anew, so that models can be added while serving."""

    def __init__(self, root: Path) -> None:
        """Raise SpecError unless `root` is a folder."""
        if not root.is_dir():
            raise SpecError(
                f"the model repository {shown(str(root))} is not a folder; make it, or name another"
            )
        self.root = root.resolve()

    def names(self) -> list[str]:
        """Return the names of all models, sorted, broken ones too; a name that starts with a dot is none."""
        return [entry for entry in self._entries() if NAME.fullmatch(entry)]

    def versions(self, name: str) -> list[str]:
        """Return a model's versions, lowest first; raise UnknownModel, or SpecError for a broken layout."""
        return list(self._versions(self._model(name)))

    def find(self, name: str, version: str | None = None) -> tuple[str, Path]:
        """Return a version of a model and its folder; by default the highest.

        Raises UnknownModel when there is none, SpecError when its layout is broken or a link leads out.
        """
        versions = self._versions(self._model(name))
        if version is not None and version not in versions:
            raise UnknownModel(f"model {name} has no version {shown(version)}; it has {', '.join(versions)}")
        chosen = version if version is not None else next(reversed(versions))
        self._check_links(versions[chosen])
        return chosen, versions[chosen]

    def index(self) -> list[dict[str, str]]:
        """Return name, version and reason of every version of every model, in order of names and numbers.

        `reason` says why a version cannot be read, "" when it can; a broken layout has the version "".
        """
        rows: list[dict[str, str]] = []
        for name in self._entries():
            for version, reason in self._rows(name):
                rows.append({"name": name, "version": version, "reason": reason})
        return rows

    def _rows(self, name: str) -> list[tuple[str, str]]:
        if not NAME.fullmatch(name):
            return [("", "the name of a model has letters, digits, dots, dashes and underscores")]
        try:
            return [(version, self._reason(name, version)) for version in self.versions(name)]
        except (SpecError, UnknownModel) as problem:
            return [("", str(problem))]

    def _entries(self) -> list[str]:
        try:
            with os.scandir(self.root) as found:
                return sorted(one.name for one in found if one.is_dir() and not one.name.startswith("."))
        except OSError as problem:
            raise SpecError(f"the model repository cannot be read: {problem.strerror}") from problem

    def _model(self, name: str) -> Path:
        folder = self.root / name if NAME.fullmatch(name) else None
        if folder is None or not folder.is_dir():
            raise UnknownModel(f"there is no model {shown(name)} in the repository")
        return folder

    def _versions(self, folder: Path) -> dict[str, Path]:
        """Return each version's folder, lowest first; at least one."""
        self._check_inside(folder)
        try:
            numbers = [one.name for one in folder.iterdir() if VERSION.fullmatch(one.name) and one.is_dir()]
        except OSError as problem:
            raise SpecError(f"{folder.name} cannot be read: {problem.strerror}") from problem
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
        except (SpecError, UnknownModel) as problem:
            return str(problem)
        except OSError as problem:  # it went away while being read
            return f"{name} cannot be read: {problem.strerror}"
        return ""

    def _check_inside(self, path: Path) -> None:
        """Raise SpecError when a path leads out of the repository through links."""
        try:
            inside = path.resolve(strict=True).is_relative_to(self.root)
        except (OSError, RuntimeError) as problem:  # a link to nowhere, or in a circle
            raise SpecError(f"{path.name} is a link that leads nowhere") from problem
        if not inside:
            raise SpecError(f"{path.name} is a link that leads out of the repository")

    def _check_links(self, folder: Path) -> None:
        """Raise SpecError when anything in a model folder is a link that leads out of the repository."""
        self._check_inside(folder)
        seen = 0
        for at, folders, files in os.walk(folder):
            for name in (*folders, *files):
                seen += 1
                if seen > MOST_ENTRIES:
                    raise SpecError(
                        f"{folder.name} holds over {MOST_ENTRIES} files; a model folder has a few"
                    )
                if (path := Path(at, name)).is_symlink():
                    self._check_inside(path)
