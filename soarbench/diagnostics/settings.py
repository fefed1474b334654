"""What following paths depends on; imports no framework, so that addresses can hold it."""

from __future__ import annotations

from collections.abc import Mapping

#: Real images whose paths are followed.
NUM_PROBES = 32
#: Levels at which the path is left: pure noise, and two where the image is partly decided.
STARTS = (1.0, 0.75, 0.5)
#: Levels at which the norm of the velocity is taken.
NORM_LEVELS = (0.25, 0.5, 0.75)
NOISE_SEED = 2604
PROBE_SETTINGS: Mapping[str, object] = {
    "num_probes": NUM_PROBES,
    "starts": list(STARTS),
    "norm_levels": list(NORM_LEVELS),
    "noise_seed": NOISE_SEED,
}
