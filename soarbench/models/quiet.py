"""What diffusers and transformers say and draw beside our own lines and progress bars."""

from __future__ import annotations

import diffusers.utils.logging
import transformers.utils.logging


def quiet_libraries() -> None:
    """Let both report errors alone."""
    # Their notes are about files and casts that are as intended.
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
