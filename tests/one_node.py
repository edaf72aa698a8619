"""A real SLURM of one node on the loopback device, started by hand and in the foreground; it leaves nothing behind."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "setpriv")
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,requeue_delay=0
InactiveLimit=0
KillWait=30
Waittime=0
ReturnToService=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # daemons are not in everyone's PATH


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class OneNode:
    """The cluster, as a context. Its state, its logs and its configuration lie in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        launchers = ("SLURM_", "MASTER_", "PMI", "TORCHELASTIC_")
        own = {k: v for k, v in os.environ.items() if not k.startswith(launchers)}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE"):
            own.pop(name, None)
        self.environment = own | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def __enter__(self) -> "OneNode":
        self._configure()
        try:
            self._launch("munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                         f"--socket={self.folder}/munge.sock", f"--pid-file={self.folder}/munge.pid",
                         f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed")  # fmt: skip
            self.wait((self.folder / "munge.sock").exists, 20, "munged's socket")
            self._launch("slurmctld", "-D", "-i")
            self._launch("slurmd", "-D", "-N", self.host)
            self.wait(lambda: self._tell("sinfo", "-h", "-o", "%t").strip() == "idle", 60, "the node to be idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends jobs, daemons, and whatever else was started with this cluster's configuration."""
        with suppress(OSError, subprocess.SubprocessError, AssertionError):
            self._tell("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
            self._tell("scancel", "--user", getpass.getuser())
            self.wait(lambda: not self._tell("squeue", "-h").strip(), 20, "the queue to be empty")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sbatch(self, *arguments: str, cwd: Path, **environment: str) -> str:
        """Submits; the job's number."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=self.environment | environment).strip()

    def run(self, *command: str, **options: object) -> str:
        """What a command says; it has to succeed."""
        options = {"env": self.environment, "timeout": 60} | options
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", job)))

    def wait_for(self, job: str, seconds: float, **wanted: str) -> dict[str, str]:
        """Until the job's facts are the wanted ones. A job that can no longer get there fails at once."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

        def there() -> bool:
            facts = self.facts(job)
            if all(facts[name] == value for name, value in wanted.items()):
                return True
            assert facts["JobState"] not in ended, f"job {job} is {facts}, not {wanted}\n{self.logs()}"
            return False

        self.wait(there, seconds, f"job {job} to be {wanted}")
        return self.facts(job)

    def wait(self, done, seconds: float, what: str) -> None:
        """Until `done()`; after so many seconds an AssertionError with the logs."""
        end = time.monotonic() + seconds
        while not done():
            dead = [daemon.args[3] for daemon in self.daemons if daemon.poll() is not None]
            assert not dead, f"{dead} died while waiting for {what}\n{self.logs()}"
            assert time.monotonic() < end, f"waited {seconds} s for {what}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of the daemons' logs and of the jobs' outputs."""
        files = [*sorted(self.folder.glob("*.log")), *sorted(self.folder.glob("*.out"))]
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)

    def processes(self) -> list[int]:
        """Everything that runs with this cluster's configuration in its environment."""
        mark, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    def tasks(self, job: str) -> list[int]:
        """The processes of a job's tasks, not those of its script."""
        rows = [line.split() for line in self._tell("scontrol", "listpids", job).splitlines()[1:]]
        return [int(row[0]) for row in rows if len(row) == 5 and row[2] == "0" and row[3].isdigit()]

    def _configure(self) -> None:
        self.host = socket.gethostname().partition(".")[0]
        self.folder.chmod(0o700)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        controller, node = free_ports(2)
        words = dict(host=self.host, user=getpass.getuser(), folder=self.folder, controller=controller, node=node)
        (self.folder / "slurm.conf").write_text(CONF.format(**words))

    def _launch(self, *command: str) -> None:
        """A daemon that dies with this process, should it be killed."""
        log = (self.folder / f"{command[0]}.log").open("a")
        command = ("setpriv", "--pdeathsig", "TERM", *command)
        self.daemons.append(
            subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment)
        )

    def _tell(self, *command: str) -> str:
        """What a command says, be it nothing."""
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.environment).stdout
