"""The only code that knows diffusers' Stable Diffusion 3."""
