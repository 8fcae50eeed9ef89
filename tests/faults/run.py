"""A copy of a finished run, what is done to it, what it says, and what it holds."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.micro import MICRO
from tumoratlas.core.files import sha256_file

RELEASE = "results/release/2.0"
SUMS = f"{RELEASE}/SHA256SUMS"
VERIFIED = f"{RELEASE}.verified.json"
PATIENCE_S = 300
# Of no result: times, machines, and what the next run clears away.
_NO_RESULTS = re.compile(r"(^|/)\.|results/provenance/|results/report/|\.damaged$")


class NotHitError(Exception):
    """The fault did not come in time, or was not told of: the campaign proves nothing."""


@dataclass(frozen=True)
class Said:
    """What a command printed, with the log files that it wrote, and its exit status."""

    status: int
    text: str


class Run:
    """A working directory that may be broken.

    Attributes
    ----------
    folder
        The working directory.
    checkout
        The checkout that runs in it, a copy that may be broken as well.
    config
        A configuration of its own.
    """

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder = folder
        self.checkout = checkout
        self.config = folder / "micro.yaml"
        if not self.config.exists():
            shutil.copyfile(MICRO, self.config)
        self._stack = ExitStack()
        self._begun = time.time()
        self._said: dict[int, Path] = {}

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, pattern: str) -> Path:
        """Return the first file or folder of a pattern below the working directory."""
        return sorted(self.folder.glob(pattern))[0]

    def drop(self, *patterns: str) -> None:
        """Remove files and folders, so that there is work to do."""
        for pattern in patterns:
            for path in list(self.folder.glob(pattern)):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def change_config(self, **changes: object) -> None:
        """Overlay the configuration."""
        self.config.write_text(yaml.safe_dump(yaml.safe_load(MICRO.read_text()) | changes))

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start snakemake in a process group of its own."""
        self._begun = time.time()
        said = self.folder.parent / f"{self.folder.name}.{len(self._said)}.said"
        with open(said, "wb") as file:
            process = subprocess.Popen(
                self._command(*arguments), cwd=self.checkout, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self._said[process.pid] = said
        self._stack.callback(_end, process)
        return process

    def _command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments,
            "--configfile", str(self.config), "--directory", str(self.folder), "--cores", "1",
        ]  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes]) -> Said:
        """Wait for a run and return what it said."""
        process.wait(PATIENCE_S)
        logs = [
            path.read_text(errors="replace")
            for path in sorted(self.folder.glob("logs/**/*.log"))
            if path.name != "demo.log" and path.stat().st_mtime >= self._begun
        ]
        return Said(process.returncode, "\n".join([self._said[process.pid].read_text(), *logs]))

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Said:
        """Run snakemake to its end."""
        return self.finish(self.start(*arguments, environment=environment))

    def again(self, *arguments: str) -> None:
        """Run snakemake, which must end well."""
        said = self.run(*arguments)
        if said.status:
            raise NotHitError(f"the next run fails:\n{said.text[-6000:]}")

    def command(self, *arguments: str) -> Said:
        """Run the package's own command line."""
        done = subprocess.run(
            [sys.executable, "-m", "tumoratlas", *arguments],
            cwd=self.checkout, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout + done.stderr)

    def back_up(self) -> None:
        """Write the backup of the records that people are told to make."""
        records, archive = self.folder / "records", self.folder.parent / "records.tar"
        done = self.command("backup", str(records), str(archive), "--with-key")
        assert done.status == 0, done.text

    def restore(self) -> None:
        """Put the records of the backup in the place of those that are there."""
        records, archive = self.folder / "records", self.folder.parent / "records.tar"
        self.drop("records")
        done = self.command("restore", str(archive), str(records))
        assert done.status == 0, done.text

    def unlock(self) -> None:
        """Take the lock away that a killed snakemake left."""
        self.again("--unlock")

    def until(self, what: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
        """Wait until something is so, while a process runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotHitError("the moment for the fault never came")
            time.sleep(0.002)

    def until_at_work(self, folder: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until a rule's runner has begun a scan."""
        self.until(lambda: list(self.folder.glob(f"{folder}/.tmp/*/*")), process)

    def job(self, process: subprocess.Popen[bytes], rule: str) -> psutil.Process:
        """Return the process of a rule's script."""
        return self._scripts(process, rule)[0]

    def worker(self, process: subprocess.Popen[bytes], rule: str) -> psutil.Process:
        """Return a worker process of a rule's step runner."""
        return self._scripts(process, rule)[-1]

    def _scripts(self, process: subprocess.Popen[bytes], rule: str) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                name, command = child.name(), " ".join(child.cmdline())
            except psutil.Error:
                continue
            if f"{rule}.py" in command and name.startswith("python"):
                found.append(child)
        if not found:
            raise NotHitError(f"{rule} is not running")
        return sorted(found, key=lambda child: (child.create_time(), child.pid))

    def disk(self, folder: str, options: str) -> Path:
        """Put a file system in memory below a folder, with what the folder holds."""
        place = self.folder / folder
        place.mkdir(parents=True, exist_ok=True)
        held = self.folder.parent / f"{self.folder.name}.held"
        subprocess.run(["cp", "-a", f"{place}/.", str(held)], check=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tumoratlas-fault", str(place)], check=True
        )
        self._stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
        subprocess.run(["cp", "-a", f"{held}/.", str(place)], check=True)
        shutil.rmtree(held)
        self.remount(place, options)
        return place

    def leave_room(self, place: Path, kib: int) -> None:
        """Leave so much room on such a file system and no more."""
        held = os.statvfs(place)
        used = (held.f_blocks - held.f_bfree) * held.f_frsize // 1024
        self.remount(place, f"size={used + kib}k")

    def remount(self, place: Path, options: str) -> None:
        """Change the options of such a file system."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    def shim(self, text: str) -> dict[str, str]:
        """Return an environment in which every Python process first runs some code."""
        place = self.folder.parent / f"{self.folder.name}.shim"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(text)
        return {"PYTHONPATH": str(place)}


def told(row: Mapping[str, str]) -> str:
    """Return a row of the table of excluded scans as the line that reports show."""
    return f"{row['code']}: {row['reason']}. {row['remedy']}"


def flip(path: Path, *, at: float = 0.5) -> None:
    """Flip one bit of a file, as a bad disk does: its size and time stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    rewrite(path, bytes(data), times)


def rewrite(path: Path, data: bytes, times: os.stat_result | None = None) -> None:
    """Write a file in its place, so that its other names change too; its time stays."""
    times = times or path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path, *, keep: float = 0.6) -> None:
    """Cut a file; its time stays."""
    rewrite(path, path.read_bytes()[: int(path.stat().st_size * keep)])


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every result and record of a run by place."""
    found = {}
    for top in ("results", "records"):
        for path in sorted((folder / top).rglob("*")):
            place = path.relative_to(folder).as_posix()
            if path.is_file() and not _NO_RESULTS.search(place):
                found[place] = sha256_file(path)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
