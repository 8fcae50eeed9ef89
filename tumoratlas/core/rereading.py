"""Reading all results of a run back, as against bit rot that nobody has met yet."""

from collections.abc import Iterator
from pathlib import Path

from tumoratlas.core.errors import DamageError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.results import RECORD, SUMS, read_record

_RESULTS = Path("results")


def damaged_results() -> Iterator[tuple[Path, list[Path]]]:
    """Yield every damaged file below the working directory, with what is to be taken away for it.

    That is the file itself (`core.results.take_away`). For a file of a release it is the list of
    checksums and the verification, without which the release counts as not built. Each file is
    read once, however many names it has.
    """
    known: dict[tuple[int, int], str] = {}

    def is_damaged(path: Path, expected: str) -> bool:
        if not path.is_file():
            return True
        status = path.stat()
        inode = status.st_dev, status.st_ino
        if inode not in known:
            known[inode] = sha256_file(path)
        return known[inode] != expected

    for path in sorted(_RESULTS.rglob(RECORD)):
        try:
            outputs = read_record(path.parent)["outputs"]
        except DamageError:
            yield path, [path]
            continue
        for name, facts in outputs.items():
            if is_damaged(path.parent / name, facts["sha256"]):
                yield path.parent / name, [path.parent / name]
    for kept in sorted(path for path in SUMS.rglob("*") if path.is_file()):
        path = kept.relative_to(SUMS)
        # One that was deleted is made again without our help.
        if path.is_file() and is_damaged(path, kept.read_text(encoding="utf-8").strip()):
            yield path, [path]
    for sums in sorted(_RESULTS.glob("release/*/SHA256SUMS")):
        verified = sums.parent.with_name(f"{sums.parent.name}.verified.json")
        for line in sums.read_text(encoding="utf-8").splitlines():
            expected, _, place = line.partition("  ")
            if is_damaged(sums.parent / place, expected):
                yield sums.parent / place, [sums, verified]
