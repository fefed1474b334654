"""What following real images depends on; imports no framework, so that addresses can hold it."""

from __future__ import annotations

from collections.abc import Mapping

#: Real images whose paths are followed.
NUM_PROBES = 32
#: Levels at which states are compared, by the sampler's nearest: an image is partly decided there.
LEVELS = (0.75, 0.5)
#: Steps of the sampler that a state drifts from the path before it is compared.
DRIFT_STEPS = 4
#: RMS of a kick, latent units: small beside latents of about 1, so that its answer is linear.
KICK = 0.1
#: States that a model samples of each image's prompt, and noised copies that they stand beside.
NUM_SAMPLES, NUM_NOISED = 2, 8
#: Levels at which the norm of the velocity is taken.
NORM_LEVELS = (0.25, 0.5, 0.75)
NOISE_SEED = 2604
PROBE_SETTINGS: Mapping[str, object] = {
    "num_probes": NUM_PROBES,
    "levels": list(LEVELS),
    "drift_steps": DRIFT_STEPS,
    "kick": KICK,
    "num_samples": NUM_SAMPLES,
    "num_noised": NUM_NOISED,
    "norm_levels": list(NORM_LEVELS),
    "noise_seed": NOISE_SEED,
}
