"""The old policy: where it stands, what it answers, and that training sees none of it."""

import pytest
import torch
from typing_extensions import override

from baselines.base import Collected, LossOutput, Method
from baselines.loop.checkpoints import OLD_POLICY_FILE, TRANSFORMER_DIR, checkpoint_path
from tests.baselines.toys import LORA, PlaneModel, PlaneVelocity, plane_model, run, run_config


class Asking(Method):
    """Pulls the output at zero towards x0, and remembers what the old policy says there."""

    updates_per_collection = 2

    def __init__(self, decay):
        self.old_decay = decay
        self.answers, self.first = [], []

    @override
    def collect(self, policies, batch, generators):
        self.first.append(policies.old(*self.point(batch))[0].clone())
        return Collected(batch)

    @staticmethod
    def point(batch):
        zeros = torch.zeros_like(batch["x0"])
        return zeros, zeros[:, 0], {"label": torch.ones_like(batch.condition["label"])}

    @override
    def weight(self, batch):
        return float(len(batch))

    @override
    def losses(self, policies, batch):
        trained = policies.trained(*self.point(batch))
        # Between the forward and its backward: neither may see the other's weights.
        self.answers.append(policies.old(*self.point(batch))[0].clone())
        assert torch.equal(trained, policies.trained(*self.point(batch)))
        assert not policies.old(*self.point(batch)).requires_grad
        yield LossOutput((trained - batch["x0"]).square().sum(), {}, is_last=True)

    @override
    def forward_equivalents(self, batch):
        return 3.0 * len(batch)


def output(weights):
    model = plane_model()
    model.load_state_dict(weights)
    zeros = torch.zeros(1, 2)
    return PlaneVelocity(model)(zeros, zeros[:, 0], {"label": torch.ones(1, 2)})[0].detach()


def checkpointed(folder, step):
    return PlaneModel.from_pretrained(checkpoint_path(folder, step) / TRANSFORMER_DIR).state_dict()


def test_it_moves_when_a_collection_is_over_by_what_the_method_says(tmp_path):
    decays = {2: 0.25, 4: 0.5, 6: 0.9}
    method = Asking(lambda step: decays.get(step, 0.0))
    config = run_config(steps=8, save_steps=2, keep_checkpoints=9)
    run(tmp_path, method, config)
    old = plane_model().state_dict()
    expected = [output(old)]
    for step, stays in decays.items():
        trained = checkpointed(tmp_path, step)
        old = {name: stays * value + (1 - stays) * trained[name] for name, value in old.items()}
        expected.append(output(old))
    # Both updates of a collection, and its rollout, ask the same one.
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(torch.stack(method.first), torch.stack(expected), **close)
    twice = torch.stack(expected).repeat_interleave(2, 0)
    torch.testing.assert_close(torch.stack(method.answers), twice, **close)


@pytest.mark.parametrize("changes", [{}, {"lora": LORA}, {"mixed_precision": "bf16"}])
def test_asking_it_changes_no_bit_of_the_training(tmp_path, changes):
    class Silent(Asking):
        old_decay = None

        def __init__(self):
            self.answers, self.first = [], []

        @override
        def collect(self, policies, batch, generators):
            return Collected(batch)

        @override
        def losses(self, policies, batch):
            trained = policies.trained(*self.point(batch))
            yield LossOutput((trained - batch["x0"]).square().sum(), {}, is_last=True)

    config = run_config(steps=4, micro_batch_size=4, **changes)
    asked, *_ = run(tmp_path / "asked", Asking(lambda _: 0.5), config)
    silent, *_ = run(tmp_path / "silent", Silent(), config)
    for name, value in silent.items():
        assert torch.equal(asked[name], value), name


def test_without_a_lag_a_checkpoint_holds_the_trained_weights_as_the_old_ones(tmp_path):
    run(tmp_path, Asking(lambda _: 0.0), run_config(steps=4, save_steps=4))
    folder = checkpoint_path(tmp_path, 4)
    held = torch.load(folder / OLD_POLICY_FILE, weights_only=True)["shadow_params"]
    names = [name for name, _ in plane_model().named_parameters()]
    trained = checkpointed(tmp_path, 4)
    assert all(torch.equal(a, trained[n]) for a, n in zip(held, names, strict=True))
