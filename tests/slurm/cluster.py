"""A SLURM cluster of one node: its own ports, everything in one folder, nothing in /etc.

Neither systemd nor cgroups nor munge: memory is counted, not enforced. CPUs and memory are what
the configuration says, not what the machine has. GPUs are counted; their devices are no GPUs.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.slurm.configuration import write_configuration
from tests.slurm.waiting import wait_until
from tests.system import install_or_skip

START_S = 120  # a second or two, unless the machine is busy


@dataclass(frozen=True)
class Cluster:
    """A cluster.

    Attributes
    ----------
    folder
        All its files; removed when it goes down.
    node
        The name of its node.
    daemons
        Those that were started, in their order.
    """

    folder: Path
    node: str
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which SLURM's commands, and their jobs, find this cluster."""
        path = f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin"
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self, program: str, *arguments: object) -> None:
        """Start a daemon in the foreground; it ends with this process."""
        with open(self.folder / f"{program}.out", "ab") as out:
            self.daemons[program] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *map(str, arguments)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def stop(self, program: str) -> None:
        """Stop a daemon; its jobs go on."""
        self.daemons[program].terminate()
        self.daemons[program].wait(START_S)

    @contextmanager
    def outage(self, program: str, seconds: float) -> Iterator[None]:
        """Stop a daemon, run the block, and start it again when the time is over."""
        begin = time.monotonic()
        self.stop(program)
        yield
        time.sleep(max(0, begin + seconds - time.monotonic()))
        self.start(program, "-D")

    def ask(self, *command: object) -> str:
        """Return what one of SLURM's commands says."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment, capture_output=True, text=True, check=False, timeout=START_S,
        )  # fmt: skip
        assert not done.returncode, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def answers(self, *command: object) -> str:
        """Return what one of SLURM's commands says; nothing if it fails."""
        try:
            return self.ask(*command)
        except AssertionError:
            return ""

    def jobs(self) -> list[dict[str, str]]:
        """Return what `scontrol show job` tells of all jobs, the ended ones too."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        jobs = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in lines
            if line.startswith("JobId=")
        ]
        return sorted(jobs, key=lambda job: int(job["JobId"]))

    def job(self, job_id: str) -> dict[str, str]:
        """Return what `scontrol show job` tells of a job."""
        return next(job for job in self.jobs() if job["JobId"] == job_id)

    def set_node(self, state: str) -> None:
        """Take the node out of service (``DRAIN``) or put it back (``RESUME``)."""
        self.ask("scontrol", "update", f"NodeName={self.node}", f"State={state}", "Reason=trial")

    def clear(self) -> None:
        """Cancel all jobs and wait until none is left."""
        self.ask("scancel", "--user=root")
        wait_until("no job", START_S, lambda: not self.ask("squeue", "--noheader"))

    def log(self) -> str:
        """Return the ends of the daemons' logs."""
        logs = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in logs)


@contextmanager
def slurm_cluster(*, with_accounting: bool = False) -> Iterator[Cluster]:
    """Start a cluster, and leave no process and no file of it; skip the test without root."""
    if os.getuid():
        pytest.skip("a SLURM cluster needs root")
    install_or_skip("slurm")
    if with_accounting:
        install_or_skip("accounting")
    # A short path: sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder, socket.gethostname().split(".")[0])
    ports = free_ports(4 if with_accounting else 2)
    write_configuration(folder, cluster.node, str(shutil.which("srun")), ports)
    try:
        if with_accounting:
            _start_accounting(cluster, *ports[2:])
        cluster.start("slurmctld", "-D", "-c")
        cluster.start("slurmd", "-D")
        nodes = ("sinfo", "--noheader", "--format=%T")
        wait_until("an idle node", START_S, lambda: cluster.answers(*nodes).strip() == "idle")
        yield cluster
    except BaseException:
        print(cluster.log())  # pytest shows it with the failure
        raise
    finally:
        for program in reversed(cluster.daemons):
            cluster.stop(program)
        wait_until("the end of the cluster's processes", START_S, lambda: not kill_left(folder))
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def processes_of(folder: Path) -> list[int]:
    """Return the processes that a cluster's daemons and jobs have left, by their environment."""
    mark = f"SLURM_CONF={folder}/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def kill_left(folder: Path) -> bool:
    """Kill what is left of a cluster and tell whether there was something."""
    left = processes_of(folder)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(left)


def _start_accounting(cluster: Cluster, port: int, database_port: int) -> None:
    """Start a database and the daemon that writes the jobs into it."""
    data, sock = cluster.folder / "data", cluster.folder / "database.sock"
    server = ["--no-defaults", "--user=root", f"--datadir={data}"]
    cluster.ask(
        "mariadb-install-db", *server, "--skip-test-db", "--auth-root-authentication-method=normal"
    )
    cluster.start(
        "mariadbd", *server, f"--socket={sock}", f"--port={database_port}",
        "--bind-address=127.0.0.1", "--skip-name-resolve", f"--pid-file={cluster.folder}/db.pid",
        "--innodb-buffer-pool-size=64M",
    )  # fmt: skip
    ping = ("mariadb-admin", "--no-defaults", f"--socket={sock}", "ping")
    wait_until("the database", START_S, lambda: cluster.answers(*ping))
    cluster.start("slurmdbd", "-D")
    wait_until("slurmdbd", START_S, lambda: _listens(port))


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
