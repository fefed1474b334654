"""What ``bench gpu`` measures, the most important first; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

LORA = "lora={rank:32,alpha:64}"
#: A GPU's share of the published batch on eight: arXiv:2604.12617 trains on 8 x 4 rows.
_ROWS = ("training.batch_size=4", "training.micro_batch_size=4")
# Of Flow-GRPO's 576 rows an update one group of four: rows cost alike, so that rows a second hold.
_GROUP = (*_ROWS, "method.group_size=4", "method.updates_per_collection=1")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One process of ``worker``.

    Attributes:
        kind: Of the worker's measurements.
        words: Settings of a run, beside those of the command line.
        seconds: It is ended after so many.
        compared_with: Another's name, whose time this one's is set against.
    """

    name: str
    kind: str
    words: tuple[str, ...] = ()
    seconds: float = 60
    compared_with: str = ""


def _update(
    name: str, method: str, lora: str, *words: str, compared_with: str = "", seconds: float = 60
) -> Measurement:
    # What the published recipes leave to memory is the same on every card here.
    rows = _GROUP if method == "flow_grpo" else (*_ROWS, _REPEATED)
    return Measurement(
        name=name,
        kind="training",
        words=(f"method={method}", lora, *rows, *words),
        seconds=seconds,
        compared_with=compared_with,
    )


_FULL = "lora=null"
_REPEATED, _KEPT = (f"training.gradient_checkpointing={word}" for word in ("true", "false"))
_DETERMINISTIC = "training.deterministic=true"

MEASUREMENTS = (
    _update("sft, adapter", "sft", LORA),
    _update("soar, adapter", "soar", LORA),
    _update("flow_grpo, adapter", "flow_grpo", LORA, seconds=90),
    _update("sft, all weights", "sft", _FULL),
    _update("soar, all weights", "soar", _FULL),
    Measurement(name="sampling", kind="sampling", words=("method=sft",), seconds=90),
    Measurement(name="judges", kind="judges", words=("method=sft",), seconds=120),
    Measurement(name="resume", kind="resume", words=("method=soar", LORA, *_ROWS)),
    Measurement(
        name="resume, deterministic", kind="resume",
        words=("method=soar", LORA, *_ROWS, _DETERMINISTIC),
    ),
    _update(
        "soar, deterministic", "soar", LORA, _DETERMINISTIC, compared_with="soar, adapter",
    ),
    _update("soar, kept activations", "soar", _FULL, _KEPT, compared_with="soar, all weights"),
    Measurement(name="laboratory", kind="laboratory", words=("method=sft",), seconds=150),
    _update(
        "soar, three points at a time", "soar", LORA, "method.aux_chunk=3",
        compared_with="soar, adapter",
    ),
    _update(
        "sft, compiled", "sft", LORA, "training.compile=true", compared_with="sft, adapter",
        seconds=120,
    ),
    _update("flow_grpo, all weights", "flow_grpo", _FULL, seconds=90),
)  # fmt: skip
