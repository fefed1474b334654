"""``launcher=slurm``: the same command in SLURM's queue, on Ray over the nodes that it gives."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, StrictUndefined, TemplateSyntaxError, UndefinedError
from typing_extensions import override

from soarbench.common.errors import ConfigError, UserError, reason
from soarbench.common.files import write_atomically
from soarbench.config.run import LauncherConfig
from soarbench.grid.expand import Grid
from soarbench.launchers.base import Submitter

TEMPLATE = Path(__file__).with_name("templates") / "ray_on_slurm.sh.jinja"
_WORD = re.compile(r"[\w.,:@+-]+")
_DAYS = re.compile(r"(?P<days>\d+)-(?P<hours>\d+)(?::(?P<minutes>\d+)(?::(?P<seconds>\d+))?)?")
_MINUTES = re.compile(r"(?:(?P<hours>\d+):(?=\d+:))?(?P<minutes>\d+)(?::(?P<seconds>\d+))?")
_UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
_UNLIMITED = ("infinite", "unlimited", "0")
_TIMES = "12:00:00, 90 (minutes), 2-00 (days-hours) or 1-12:30:00"
#: A controller that is down lets sbatch try for minutes.
_SECONDS_TO_SUBMIT = 120.0


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(LauncherConfig):
    """A job of SLURM that starts Ray on its nodes and runs the same command with ``launcher=ray``.

    Attributes:
        nodes: Of the job.
        gpus_per_node: GPUs of each; null asks for none.
        cpus_per_task: Cores of each; null takes whole nodes with all their memory.
        time: Limit, as SLURM writes it; null is the partition's. At its end the job goes back to
            the queue by itself.
        partition: null is the cluster's default.
        account: Who pays; null is the user's default.
        options: More options of sbatch, as typed there: ``--qos=high --constraint=a100``.
        template: Jinja2 file of the user's instead of ``ray_on_slurm.sh.jinja`` beside this module.
        grace_seconds: How long before its end a job is told to stop.
    """

    kind: ClassVar[str] = "slurm"
    submits: ClassVar[bool] = True

    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    options: str | None = None
    template: str | None = None
    grace_seconds: int = 120

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("nodes", "gpus_per_node", "cpus_per_task", "grace_seconds"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"launcher.{key}={value}: must be at least 1")
        most = None if self.gpus_per_node is None else self.nodes * self.gpus_per_node
        # Ray would say so in the job, after its wait in the queue.
        if most is not None and self.count > most:
            raise ValueError(
                f"launcher.num_processes={self.count}: launcher.nodes={self.nodes} of "
                f"launcher.gpus_per_node={self.gpus_per_node} have {most} GPUs; ask for more nodes"
            )
        for key in ("partition", "account"):
            if not _WORD.fullmatch(getattr(self, key) or "-"):
                raise ValueError(f"launcher.{key}={getattr(self, key)!r}: SLURM has no such name")
        # The next line of the script would be a command.
        if "\n" in (self.options or ""):
            raise ValueError(f"launcher.options={self.options!r}: write them in one line")
        limit = None if self.time is None else seconds_of(self.time)
        # It would be told to stop when it starts, and go round in the queue for ever.
        if limit is not None and limit <= self.grace_seconds:
            raise ValueError(
                f"launcher.time={self.time}: is over before launcher.grace_seconds="
                f"{self.grace_seconds} are; give more time"
            )

    @override
    def build(self) -> Submitter:
        return Slurm(self)


def seconds_of(time: str) -> float | None:
    """A time limit as SLURM reads it, in seconds; None where there is no limit."""
    if time.lower() in _UNLIMITED:
        return None
    match = _DAYS.fullmatch(time) or _MINUTES.fullmatch(time)
    if match is None:
        raise ValueError(f"launcher.time={time}: SLURM reads {_TIMES}")
    return float(sum(_UNITS[unit] * int(part or 0) for unit, part in match.groupdict().items()))


class Slurm(Submitter):
    """Renders a batch script and hands it to ``sbatch``.

    Args:
        config: What is asked of SLURM.
    """

    def __init__(self, config: SlurmConfig) -> None:
        self.config = config

    @override
    def script(self, grid: Grid) -> str:
        path = TEMPLATE if self.config.template is None else Path(self.config.template).expanduser()
        values = dataclasses.asdict(self.config) | {
            "job_name": f"soarbench-{grid.settings.grid.name}",
            "log": str(_log("%j")),
            "node_logs": str(grid.folder.resolve() / "slurm"),
            "directory": str(Path.cwd()),
            "python": sys.executable,
            "words": self.words(grid.arguments),
        }
        where = f"launcher.template={path}"
        # A misspelt variable would be an option of SLURM that is silently not asked for.
        jinja = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
        jinja.filters["quote"] = shlex.quote
        try:
            return jinja.from_string(path.read_text()).render(values)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{where}, line {error.lineno}: {error.message}") from error
        except UndefinedError as error:
            raise ConfigError(f"{where}: {error}; there are {', '.join(sorted(values))}") from error
        # A template is a program of the user's, which fails with anything.
        except Exception as error:
            raise ConfigError(f"{where}: {reason(error)}") from error

    def words(self, arguments: tuple[str, ...]) -> list[str]:
        """The settings of the run in the job, but for Ray's address, which only the job knows."""
        others = [word for word in arguments if not word.startswith(("launcher=", "launcher."))]
        # As the configuration has them, since a user's own YAML may set them, too.
        shared = {
            entry.name: getattr(self.config, entry.name)
            for entry in dataclasses.fields(LauncherConfig)
            if getattr(self.config, entry.name) != entry.default
        }
        typed = {key: "null" if value is None else value for key, value in shared.items()}
        return [*others, "launcher=ray", *(f"launcher.{k}={v}" for k, v in typed.items())]

    @override
    def submit(self, grid: Grid) -> str:
        script = self.script(grid)
        if shutil.which("sbatch") is None:
            raise UserError(
                "launcher=slurm: this machine has no sbatch; --dry-run prints the script, to be "
                "submitted on one that has"
            )
        # Of this Python, which the job uses: found now, and not hours later in the queue.
        if importlib.util.find_spec("ray") is None:
            raise UserError("launcher=slurm runs on Ray: pip install 'soarbench[ray]'")
        path = grid.folder / "slurm.sh"
        write_atomically(path, lambda partial: partial.write_text(script))
        job = _sbatch(path)
        return (
            f"submitted job {job} ({path}); its log: {_log(job)}; 'scancel {job}' ends it, and the "
            "same command goes on from there"
        )


def _log(job: str) -> Path:
    # SLURM's own place and name, which its users look for.
    return Path.cwd() / f"slurm-{job}.out"


def _sbatch(script: Path) -> str:
    """Submit a script. -> The job's id."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            timeout=_SECONDS_TO_SUBMIT,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"sbatch does not answer within {_SECONDS_TO_SUBMIT:.0f} seconds; see 'sinfo', and "
            f"'squeue --me' for whether {script} was taken"
        ) from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"{_one_line(error.stderr)} ({script})") from error
    # A federation's answer is JOB;CLUSTER.
    return done.stdout.strip().partition(";")[0]


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
