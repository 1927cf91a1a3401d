"""Only regular files are opened, and none of a folder that has anything else where files are.

A pipe would have its reader wait for a writer, a device never end, a socket refuse. Our own readers open
without blocking and look at what they got; for those of other packages, which open by name, the folder is
looked through first.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from models.errors import SpecError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> BinaryIO:
    """Return a file open for reading; raise SpecError for anything else, OSError where it cannot be opened.

    It never waits: not for the writer of a pipe, and not in reads of the kernel's own files.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require(path.name, os.fstat(descriptor).st_mode, folders=False)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_file(path: Path) -> BinaryIO:
    """Return the same; raise SpecError, by the file's name, where it cannot be opened, too."""
    try:
        return open_regular(path)
    except OSError as problem:
        if path.is_symlink() and problem.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise SpecError(f"{path.name} is a link that leads nowhere; fetch the model again") from problem
        raise SpecError(f"{path.name} cannot be read: {problem.strerror}") from problem


def is_there(path: Path) -> bool:
    """Whether a folder has a file; raise SpecError for a name that is there, and is no file to be opened."""
    if not os.path.lexists(path):
        return False
    open_file(path).close()
    return True


def require_regular(folder: Path) -> None:
    """Raise SpecError where a folder, or one in it, has an entry that is neither a file nor a folder.

    Links are followed; what leads nowhere, or in a circle, cannot be opened, and so keeps nobody waiting.
    """
    for name, mode in _irregular(folder, "", deeper=True):
        _require(name, mode, folders=True)


def _irregular(folder: Path, above: str, *, deeper: bool) -> Iterator[tuple[str, int]]:
    """Yield name and mode of what may not be a regular file; most are told to be one without asking."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    continue
                try:
                    mode = entry.stat().st_mode
                except OSError:
                    continue
                if not stat.S_ISDIR(mode):
                    yield above + entry.name, mode
                elif deeper:
                    yield from _irregular(folder / entry.name, f"{above}{entry.name}/", deeper=False)
    except OSError:  # no folder, or not ours to look into: whoever opens a file of it says so
        return


def _require(name: str, mode: int, *, folders: bool) -> None:
    if not stat.S_ISREG(mode) and not (folders and stat.S_ISDIR(mode)):
        raise SpecError(f"{ascii(name)[1:-1][:120]} is {KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file")
