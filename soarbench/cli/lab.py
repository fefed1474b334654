"""What ``python -m soarbench lab`` does: build, card, sheet, draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from soarbench.common.errors import UserError
from soarbench.lab.assets import ASSETS, manifest

WORK_DIR = Path("runs/lab_build")


def build(stage: str | None = None, work_dir: Path = WORK_DIR) -> None:
    """Build one stage, or all that are not yet built; resumable.

    Raises:
        UserError: There is no such stage.
    """
    from soarbench.lab.build.stages import build as build_stages

    build_stages(stage, work_dir)


def card(console: Console) -> None:
    """Print the card of the shipped assets.

    Raises:
        UserError: The laboratory was not built.
    """
    manifest()
    console.print(Markdown((ASSETS / "CARD.md").read_text()))


def sheet(path: Path, images_per_prompt: int = 4) -> Path:
    """Draw the base model's images of every fourth GenEval prompt of the laboratory.

    Raises:
        UserError: The laboratory was not built, or an asset is corrupted.
    """
    from soarbench.lab.build.card import base_samples
    from soarbench.lab.config import LabModelConfig
    from soarbench.lab.sheets import contact_sheet
    from soarbench.models.sd3.model import SD3Model

    model = SD3Model.load(LabModelConfig())
    samples = base_samples(model, "lab_geneval", images_per_prompt)
    rows = [samples[i : i + images_per_prompt] for i in range(0, len(samples), images_per_prompt)]
    picture = contact_sheet([(row[0].prompt, [s.image for s in row]) for row in rows[::4]])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def draw(options: Mapping[str, str]) -> str:
    """Draw a suite's prompts with the renderer. -> What was done, in words.

    Raises:
        UserError: An option is missing or cannot work.
    """
    from soarbench.lab.world.draw import draw_suite

    if not options.get("path"):
        raise UserError("path= is missing: name a new folder, e.g. lab draw path=runs/drawn")
    path, suite = Path(options["path"]).expanduser(), options.get("suite", "lab_geneval")
    try:
        count, wrong = (
            int(options.get("images_per_prompt", "2")),
            float(options.get("wrong", "0.2")),
        )
    except ValueError as error:
        raise UserError(f"images_per_prompt and wrong must be numbers ({error})") from error
    num_drawn = draw_suite(path, suite, count, wrong)
    return f"drew {num_drawn} images of {suite} into {path}"
