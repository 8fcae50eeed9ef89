"""The files below a folder, read in one pass, and the globs that name them.

A glob is a path with ``/``: ``*`` and ``?`` stand for characters of one name, ``**/`` for any
number of folders, ``{a,b}`` for either text.
"""

import os
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path

from tumoratlas.images.checks import refusal


@dataclass(frozen=True)
class FileTree:
    """Names of the files below a folder.

    Attributes
    ----------
    root
        The folder.
    files
        Names in each folder that holds files, by the folder's path below the root (empty for the
        root).
    folders
        The keys of `files`. Both are sorted.
    linked_folders
        Paths below the root of links to folders. They are not entered: they may be circles.
    """

    root: Path
    files: dict[str, list[str]]
    folders: list[str]
    linked_folders: list[str]
    _matched: dict[str, list[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, root: Path) -> "FileTree":
        """Read a folder and all below it; a missing one is empty.

        Raises
        ------
        InputError
            ``UNREADABLE``: a folder cannot be entered, so its scans would be lost unseen.
        """

        def stop(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise refusal("UNREADABLE", error.filename, error.strerror or "") from error

        files, links = {}, []
        for place, folders, names in os.walk(root, onerror=stop):
            below = "" if Path(place) == root else Path(place).relative_to(root).as_posix()
            links += [join(below, name) for name in folders if os.path.islink(f"{place}/{name}")]
            if names:
                files[below] = sorted(names)
        return cls(root, files, sorted(files), sorted(links))

    def find(self, pattern: str) -> list[str]:
        """Return the paths below the root, sorted, that a glob without ``..`` matches.

        The cost is that of the folders below the glob's fixed part, and of nothing where only
        the name varies: thousands of scans can be looked up one by one.
        """
        folder, name = split_glob(pattern)
        if is_glob(name):
            regex = re.compile(glob_regex(name))
            return [
                join(place, one)
                for place in self._folders(folder)
                for one in self.files[place]
                if regex.fullmatch(one)
            ]
        return [join(place, name) for place in self._folders(folder) if self._has(place, name)]

    def _has(self, folder: str, name: str) -> bool:
        names = self.files[folder]
        place = bisect_left(names, name)
        return place < len(names) and names[place] == name

    def _folders(self, pattern: str) -> list[str]:
        if not is_glob(pattern):
            return [pattern] if pattern in self.files else []
        if pattern not in self._matched:
            regex = re.compile(glob_regex(f"{pattern}/"))
            fixed = re.split(r"[*?{]", pattern)[0].rpartition("/")[0]
            self._matched[pattern] = [
                place for place in self._below(fixed) if regex.fullmatch(join(place, ""))
            ]
        return self._matched[pattern]

    def _below(self, folder: str) -> list[str]:
        if not folder:
            return self.folders
        # Whatever starts with `folder/` is neighbours; "0" follows "/".
        low, high = (bisect_left(self.folders, folder + end) for end in "/0")
        return [folder] * (folder in self.files) + self.folders[low:high]


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder below the root."""
    return f"{folder}/{name}" if folder else name


def split_glob(pattern: str) -> tuple[str, str]:
    """Split a glob into its folder and its last name."""
    folder, _, name = pattern.rpartition("/")
    if name.count("{") != name.count("}"):
        raise ValueError(f"the braces of {pattern} hold its last slash")
    return folder, name


def is_glob(pattern: str) -> bool:
    """Return whether a pattern stands for more than itself."""
    return any(mark in pattern for mark in "*?{")


def glob_regex(pattern: str) -> str:
    """Return the regular expression of a whole path that a glob matches."""
    if re.search(r"\*\*(?!/)|[^/]\*\*", pattern):
        raise ValueError(f"`**` in {pattern} does not stand for whole folders")
    depth, out = 0, []
    for token in re.findall(r"\*\*/|.", pattern, re.DOTALL):
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
        if token == "," and depth:
            out.append("|")
        else:
            out.append(_TOKENS.get(token) or re.escape(token))
    if depth:
        raise ValueError(f"the braces of {pattern} are not balanced")
    return "".join(out)


_TOKENS = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
