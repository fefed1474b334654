"""A SLURM cluster of two nodes with two pretended GPUs each, on this computer."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Of Debian's packages slurm-wlm and munge.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
#: Daemons of a package are not on everybody's path.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_CONF = """\
ClusterName=soarbench
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
NodeName=DEFAULT CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def reason_to_skip() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if importlib.util.find_spec("ray") is None:
        return "pip install 'soarbench[ray]'"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its commands are those of the machine, with this configuration."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": PATH}

    def call(self, *words: str) -> str:
        done = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What the controller says of a job."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, is_so: Callable[[], bool], seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.2)

    def wait_for_state(self, job: str, *states: str, seconds: float = 120.0) -> dict[str, str]:
        self.wait_for(lambda: self.job(job)["JobState"] in states, seconds)
        return self.job(job)

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.root.glob("*.log")))


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """Start munge, the controller and two nodes; end them, and nothing else, at the end."""
    _configure(root)
    running = Cluster(root)
    environment = os.environ | running.environment
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        with (root / "daemons.log").open("ab") as log:
            for words in _daemons(root):
                daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
                if words[0] == "munged":
                    running.wait_for((root / "munge.socket").exists)
            running.wait_for(lambda: _are_idle(running))
        yield running
    finally:
        # Those of the cluster and of its jobs, by the configuration that they were given.
        for process in _processes(running):
            process.kill()
        for daemon in daemons:
            daemon.wait(timeout=20)


def _processes(running: Cluster) -> Iterator[psutil.Process]:
    own = running.environment["SLURM_CONF"]
    for process in psutil.process_iter():
        # Ended in the meantime, or another user's.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == own:
                yield process


def _configure(root: Path) -> None:
    (root / "state").mkdir()
    for name in ("n1", "n2"):
        (root / f"spool.{name}").mkdir()
    for gpu in ("gpu0", "gpu1"):
        (root / gpu).touch()
    key = root / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    (root / "slurm.conf").write_text(_CONF.format(root=root, ports=_free_ports(3)))
    (root / "gres.conf").write_text(f"NodeName=n1,n2 Name=gpu File={root}/gpu[0-1]\n")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _daemons(root: Path) -> Iterator[list[str]]:
    """In the foreground, so that each ends as the process that it is."""
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    options = [f"--{option}={root}/munge.{name}" for option, name in names.items()]
    yield ["munged", "--foreground", "--force", f"--seed-file={root}/munge.seed", *options]
    yield ["slurmctld", "-D", "-f", str(root / "slurm.conf")]
    for name in ("n1", "n2"):
        yield ["slurmd", "-D", "-N", name, "-f", str(root / "slurm.conf")]


def _are_idle(running: Cluster) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"],
        env=os.environ | running.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split() == ["idle", "idle"]
