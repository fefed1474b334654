"""The commands there are, and what their help says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Of ``Command.names``: as many as are given.
ANY_NUMBER = "NAME ..."
#: Of a run's settings what matters where nothing is trained.
_FOLDERS = ("output_dir", "results_dir")
_SELECTION = ("grid", "budget", "task", "method", "model", "data", "seeds", *_FOLDERS)
_ONE_TASK = "task=the grid's first"
_TRAINING = (*("model", "task", "method", "optim", "lora", "ema", "training"), "launcher")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: What it does.
        usage: What its names mean.
        names: What comes first and is no ``key=value``; ``ANY_NUMBER`` becomes a list.
        flags: That it knows.
        function: ``module:function``; of ``lab build`` it is ``soarbench.cli.lab:build`` unless
            another is named. Takes the names, the options where it has any, words, and a console.
        examples: Words that work, as a shell takes them.
        matter: The settings of a run that its help lists, by their first part; empty: all.
        chooses: What it sets where the command line is silent: ``module:NAME`` of such words, or
            ``KEY=TEXT`` in place of a default that no word says.
        says: What is done first, where that takes seconds.
    """

    summary: str
    usage: str = ""
    names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    # By name: an import of every command would load torch for ``--help``.
    function: str = ""
    examples: tuple[str, ...] = ()
    matter: tuple[str, ...] = ()
    chooses: tuple[str, ...] = ()
    says: str = ""


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "train, sample, score and report a grid",
        flags=("--dry-run", "--json"),
        examples=(
            "grid=reward_specific --dry-run",
            "grid=reward_specific budget.steps=30 optim.learning_rate=1e-4",
            "grid=reward_specific task=aesthetic method=sft,soar 'seeds=[0,1,2]'",
        ),
        says="reading the configuration",
    ),
    "ls": Command(
        "what there is to choose from: grids, methods, tasks, judges, suites, models, GPUs ...",
        "what to list; none: all",
        names=(ANY_NUMBER,),
        function="soarbench.cli.listing:ls",
        examples=("methods", "judges suites"),
    ),
    "report": Command(
        "make a grid's reports again from stored scores",
        examples=("grid=reward_specific", "grid=reward_specific x=seconds,images_seen"),
        matter=(*_SELECTION, "figure_formats", "margin", "detect", "stale"),
        says="reading stored scores, drawing figures",
    ),
    "status": Command(
        "how far the grids of an output directory are, and what runs",
        flags=("--json",),
        examples=("output_dir=DIR",),
        matter=("output_dir",),
    ),
    "compare": Command(
        "is A better than B, by how much, how sure",
        "A and B are methods, cell ids, or folders of scores",
        names=("A", "B"),
        flags=("--json",),
        examples=("soar sft grid=reward_specific task=aesthetic",),
        matter=(*_SELECTION, "margin", "detect"),
        says="reading stored scores",
    ),
    "export": Command(
        "copy finished cells without images, to publish",
        examples=("grid=reward_specific budget=standard output=results/lab/mine",),
        matter=_SELECTION,
        says="reading stored scores",
    ),
    "publish": Command(
        "write a trained cell's model card, and upload both to the Hugging Face hub",
        "a cell id, as 'run --dry-run' lists them",
        names=("CELL",),
        matter=_SELECTION,
        says="reading stored scores",
    ),
    "leaderboard": Command(
        "a web page of exported grids whose protocols are alike",
        says="reading exports",
    ),
    "diagnose": Command(
        "measure finished cells for signs of gaming",
        function="soarbench.cli.run:diagnose",
        examples=("grid=reward_specific",),
        matter=(*_SELECTION, "diversity", "robustness", "device", "launcher", "tracking"),
        says="reading the configuration",
    ),
    "plan": Command(
        "memory and time of training, before it starts",
        examples=("model=sd35_medium method=soar gpu=l40s-48gb",),
        matter=("grid", "budget", *_TRAINING, "reward"),
        chooses=("soarbench.planning.demand:DEFAULTS", _ONE_TASK),
        says="counting memory on pretended models",
    ),
    "bench": Command(
        "time and memory of every method",
        function="soarbench.benchmarks.methods:bench",
        matter=(*_TRAINING, "device"),
        says="loading torch",
    ),
    "bench judges": Command(
        "GenEval's speed, against the obvious way",
        function="soarbench.benchmarks.judges:bench_judges",
        says="loading torch",
    ),
    "bench full_size": Command(
        "one update of SD3.5's whole transformer with random weights (12 GB, minutes)",
        matter=(*_TRAINING, "device"),
        chooses=("soarbench.cli.bench:DEFAULTS", _ONE_TASK),
        says="loading torch",
    ),
    "bench gpu": Command(
        "speed and memory of everything on this GPU, into results/gpu (minutes)",
        "--dry-run says whether this machine will do, and what is measured",
        flags=("--dry-run",),
        function="soarbench.benchmarks.gpu.bench:bench_gpu",
        matter=("device", *_TRAINING),
        chooses=("soarbench.benchmarks.gpu.bench:DEFAULTS", "method=each measurement's", _ONE_TASK),
        says="looking at this machine",
    ),
    "soak": Command(
        "kill a small grid at random moments, repeat it, and compare it with one nobody killed",
        function="soarbench.benchmarks.soak.soak:soak",
        examples=("output_dir=DIR",),
        matter=("method", "task"),
        says="making the grids",
    ),
    "bench grid": Command(
        "how busy a pretended cluster is that runs a grid, and for how long",
        function="soarbench.benchmarks.grid:bench_grid",
        matter=("grid", "budget", "seeds", *_TRAINING),
        chooses=("soarbench.benchmarks.grid:DEFAULTS",),
        says="counting jobs",
    ),
    "data score": Command(
        "score a training set by a judge",
        examples=("data.path=rows.jsonl judge=aesthetic output=scored.jsonl",),
        matter=("data", "model", "device"),
        chooses=("soarbench.cli.data:DEFAULTS",),
        says="reading the set",
    ),
    "data filter": Command(
        "keep the rows of a scored set at and above a score",
        function="soarbench.cli.data:filter_rows",
        examples=("input=scored.jsonl output=kept.jsonl thresholds.aesthetic=6.8",),
    ),
    "data check": Command(
        "look for what is wrong with a training set",
        examples=("data.path=kept.jsonl suites.drawbench.prompts=prompts.txt",),
        matter=("data", "model", "suites"),
        chooses=("soarbench.cli.data:DEFAULTS",),
        says="reading the set",
    ),
    "evaluate": Command(
        "draw a suite with a model and judge it",
        examples=("suite=lab_geneval", "suite=geneval model=sd35_medium"),
        chooses=("model=that of the suite's judges",),
        says="reading the configuration, loading the model",
    ),
    "score": Command(
        "judge images of any model",
        examples=(
            "suite=geneval images=DIR",
            "suite=ocr images=DIR suites.ocr.prompts=prompts.txt",
        ),
        says="looking for images, loading judges",
    ),
    "doctor": Command(
        "which judges, prompts and sets are ready, or whether a grid can run, and what to do",
        "names of judges; none: all, or what grid=NAME needs",
        names=(ANY_NUMBER,),
        function="soarbench.cli.readiness:doctor",
        examples=("geneval", "grid=main_table model=sd35_medium"),
        matter=_SELECTION,
        says="looking at judges",
    ),
    "fetch": Command(
        "download published weights of judges, prompts and adapters",
        "names of judges, e.g. geneval; prompts; anchors; OWNER/NAME of an adapter",
        names=(ANY_NUMBER,),
        examples=("geneval",),
    ),
    "lab build": Command(
        "build the laboratory's assets",
        says="loading torch",
    ),
    "lab card": Command("print the card of its assets"),
    "lab sheet": Command(
        "draw a sample sheet of its base model",
        says="loading the laboratory's model",
    ),
    "lab draw": Command(
        "draw a suite's prompts with its renderer",
        examples=("output=runs/drawn",),
        says="drawing",
    ),
    "sync": Command(
        "deliver to MLflow what it did not get, or has lost; without grid= all grids of the folder",
        examples=("output_dir=runs",),
        matter=("grid", "output_dir", "tracking"),
        says="asking MLflow",
    ),
    "completion": Command(
        "print a script that completes the command soarbench in a shell",
        "bash, zsh or fish",
        names=("SHELL",),
        examples=("bash",),
    ),
    "ui": Command(
        "serve the MLflow store as a page",
        examples=("port=5001",),
        matter=("output_dir", "tracking"),
        says="starting MLflow",
    ),
}
