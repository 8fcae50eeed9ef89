"""A working directory made of links, in which every folder becomes its own once it is written to.

A job that is tried again finds everything of the run, and changes nothing of it: where it writes,
the linked folder is first replaced by a folder of links, a linked file by a copy. What it would
write outside is refused. Python tells of every file that is about to be written (audit events);
native code that writes without telling is not seen, but all folders that it writes in are.
"""

import fcntl
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import MachineError

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# The arguments of each event that name what is made, moved or removed in its folder ...
_ENTRIES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
}
# ... and those whose first argument is a file that is itself changed.
_FILES = {"os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"}


class Overlay:
    """Keeps the writes of this process, and of those that it forks, within a folder.

    Parameters
    ----------
    root
        Folder of links; absolute, without links on the way to it.
    protected
        Folders that nothing may be written in, unless they hold ``root``.
    """

    def __init__(self, root: Path, protected: Sequence[Path]) -> None:
        self._root = str(root)
        self._protected = [os.path.realpath(path) for path in protected]
        self._state = threading.local()

    def install(self) -> None:
        """Watch the process for the rest of its life."""
        sys.addaudithook(self._hook)

    def own(self, path: str | os.PathLike[str]) -> None:
        """Make every folder down to ``path`` the overlay's own; what is not there is made."""
        place = self._root
        for part in os.path.relpath(path, self._root).split(os.sep):
            place = os.path.join(place, part)
            if os.path.islink(place):
                self._replace_link(place)
            os.makedirs(place, exist_ok=True)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        is_other = event in _ENTRIES or event in _FILES or event == "shutil.rmtree"
        if not (is_open or is_other) or getattr(self._state, "is_busy", False):
            return
        self._state.is_busy = True
        try:
            for index in _ENTRIES.get(event, (0,)):
                if not isinstance(arguments[index], int):  # a file that is open already
                    self._admit(event, os.fsdecode(arguments[index]), arguments)
        finally:
            self._state.is_busy = False

    def _admit(self, event: str, name: str, arguments: tuple[Any, ...]) -> None:
        path = os.path.abspath(name)
        if not self._is_inside(path):
            self._refuse_protected(path)
            return
        self._own_parents(path)
        if event == "shutil.rmtree":
            self._own_tree(path)
        elif event in _FILES or event == "open":
            self._own_file(path, is_emptied=event == "open" and bool(arguments[2] & os.O_TRUNC))
        if not self._is_inside(os.path.realpath(os.path.dirname(path))):
            self._refuse_protected(path)

    def _is_inside(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + os.sep)

    def _refuse_protected(self, path: str) -> None:
        real = os.path.realpath(path)
        if any(real == place or real.startswith(place + os.sep) for place in self._protected):
            raise MachineError(
                "REPLAY_OUTSIDE",
                real,
                "a job that is tried again wrote outside its scratch directory; it was stopped",
                remedy="Give folders in the configuration relative to the working directory",
            )

    def _own_parents(self, path: str) -> None:
        place = self._root
        for part in os.path.relpath(os.path.dirname(path), self._root).split(os.sep):
            place = os.path.join(place, part)
            if os.path.islink(place):
                self._replace_link(place)

    def _own_file(self, path: str, *, is_emptied: bool) -> None:
        """Put a copy in the place of a link to a file, or of its second name."""
        if not os.path.isfile(path) or not (os.path.islink(path) or os.stat(path).st_nlink > 1):
            return
        if is_emptied:
            os.unlink(path)
        else:
            copy = f"{path}.{os.getpid()}"
            shutil.copy2(path, copy)
            os.replace(copy, path)

    def _own_tree(self, path: str) -> None:
        if os.path.islink(path) and os.path.isdir(path):
            self._replace_link(path)
        if os.path.isdir(path) and not os.path.islink(path):
            for entry in os.scandir(path):
                if entry.is_dir():
                    self._own_tree(entry.path)

    def _replace_link(self, path: str) -> None:
        """Put a folder of links in the place of a link to a folder; processes take turns."""
        with open(os.path.join(self._root, ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.islink(path):
                target, new = os.path.realpath(path), f"{path}.{os.getpid()}"
                os.mkdir(new)
                for name in os.listdir(target):
                    os.symlink(os.path.join(target, name), os.path.join(new, name))
                os.unlink(path)
                os.rename(new, path)
