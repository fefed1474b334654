"""Evaluation noise depends on the prompt id and the image index alone."""

import hashlib

import torch

from soarbench.evaluation.seeds import evaluation_noise, evaluation_seed


def test_the_seed_is_the_digest_of_id_and_index():
    digest = hashlib.sha256(b"suite/00003/1").digest()
    assert evaluation_seed("suite/00003", 1) == int.from_bytes(digest[:8], "big") // 2


def test_company_does_not_change_an_images_noise():
    plan = [("a", 0), ("a", 1), ("b", 0)]
    together = evaluation_noise(plan, (2, 3, 3))
    for row, pair in zip(together, plan, strict=True):
        assert torch.equal(row, evaluation_noise([pair], (2, 3, 3))[0])


def test_every_image_has_noise_of_its_own():
    seeds = {evaluation_seed(f"p{i}", j) for i in range(50) for j in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
