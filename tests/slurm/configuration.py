"""What the files of a trial's cluster say."""

from pathlib import Path

CPUS, MEMORY_MB, GPUS = 4, 512_000, 2
_SLURM = """\
ClusterName=trial
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
KillWait=2
MinJobAge=86400
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{accounting}
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} \
ThreadsPerCore=1 RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={node} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=gpu Nodes={node} MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={node} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""
# Counted devices must be devices; these are on every machine.
_GRES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
_CGROUP = "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\n"
_WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
_WITH_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux"""
_DATABASE_DAEMON = """\
AuthType=auth/none
DbdHost=localhost
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=root
StorageLoc=accounting
"""
# The step inside a job has lost SLURM_CONF, and would look for its cluster in /etc.
_SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def write_configuration(folder: Path, node: str, srun: str, ports: list[int]) -> None:
    """Write all files of a cluster.

    ``ports`` are those of slurmctld and slurmd, and with accounting those of slurmdbd and of its
    database.
    """
    accounting = _WITHOUT_ACCOUNTING
    if len(ports) > 2:
        accounting = _WITH_ACCOUNTING.format(port=ports[2])
        daemon = folder / "slurmdbd.conf"
        text = _DATABASE_DAEMON.format(folder=folder, port=ports[2], database_port=ports[3])
        daemon.write_text(text)
        daemon.chmod(0o600)
    text = _SLURM.format(
        folder=folder, node=node, controller_port=ports[0], node_port=ports[1], cpus=CPUS,
        memory_mb=MEMORY_MB, gpus=GPUS, accounting=accounting,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(_GRES)
    (folder / "cgroup.conf").write_text(_CGROUP)
    shim = folder / "bin/srun"
    shim.parent.mkdir()
    shim.write_text(_SRUN.format(folder=folder, srun=srun))
    shim.chmod(0o755)
