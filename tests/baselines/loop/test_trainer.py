import errno
import itertools
import json
import os
import pkgutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import TrainerControl, TrainerState
from typing_extensions import override

from baselines.base import Collected, LossOutput, Method
from baselines.config import EmaConfig, OptimConfig
from baselines.flow_grpo import FlowGrpo
from baselines.loop.callbacks import SaveRhythm
from baselines.loop.checkpoints import checkpoint_path, last_complete_checkpoint, snapshot_path
from baselines.loop.trainer import TrainingDiverged
from tests.baselines import toys
from tests.baselines.toys import (
    LORA,
    METHODS,
    Logs,
    PlaneModel,
    PlaneRows,
    flow_grpo,
    plane_model,
    run,
    run_config,
    sft,
)

EMA = EmaConfig(decay=0.9, every=2)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class Quadratic(Method):
    """Pulls the model's output at zero towards x0, one term a coordinate."""

    @override
    def collect(self, policies, batch, generators):
        return Collected(batch, {"mean_x0": float(batch["x0"].mean())}, reward_calls=len(batch))

    @override
    def weight(self, batch):
        return float(len(batch))

    @override
    def losses(self, policies, batch):
        zeros = torch.zeros_like(batch["x0"])
        for column in (0, 1):
            error = policies.trained(zeros, zeros[:, 0], batch.condition) - batch["x0"]
            part = error[:, column].square().sum()
            yield LossOutput(part, {f"part_{column}": part.detach()})

    @override
    def forward_equivalents(self, batch):
        return 3.0 * len(batch)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_and_resumed_equals_straight_through(tmp_path, name, lora):
    config = run_config(lora=lora, ema=EMA, num_snapshots=4)
    straight, summary, logs = run(tmp_path / "straight", METHODS[name](), config)
    interrupted = Logs(stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", METHODS[name](), config, logs=interrupted)
    resumed, resumed_summary, rest = run(tmp_path / "cut", METHODS[name](), config)
    assert_same(straight, resumed)
    assert min(rest.points) > 4, "the run started again from step 0"
    assert {**interrupted.without_time(), **rest.without_time()} == logs.without_time()
    for field in ("optimizer_steps", "images_seen", "forward_equivalents", "reward_calls"):
        assert getattr(summary, field) == getattr(resumed_summary, field)
    for step in (2, 6, 8):
        files = sorted(snapshot_path(tmp_path / "cut", step).glob("*.safetensors"))
        assert files
        for path in files:
            twin = snapshot_path(tmp_path / "straight", step) / path.name
            assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize(("keep", "goes_back_to"), [(2, 4), (1, 0)])
def test_a_checkpoint_that_the_disk_damaged_costs_the_time_since_the_one_before(
    tmp_path, caplog, keep, goes_back_to
):
    config = run_config(save_steps=2, keep_checkpoints=keep, logging_steps=1)
    straight, _, _ = run(tmp_path / "straight", sft(), config)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", sft(), config, logs=Logs(stop_at=7))
    damaged = checkpoint_path(tmp_path / "cut", 6) / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    resumed, _, rest = run(tmp_path / "cut", sft(), config)
    assert min(rest.points) == goes_back_to + 1
    goal = f"checkpoint-{goes_back_to}" if goes_back_to else "the start"
    assert f"training goes back to {goal}" in caplog.text
    assert_same(straight, resumed)


@pytest.mark.parametrize("save_steps", [1, 2, 5])
def test_logged_means_do_not_depend_on_where_checkpoints_lie(tmp_path, save_steps):
    config = run_config(logging_steps=3, save_steps=4)
    _, _, straight = run(tmp_path / "straight", Quadratic(), config)
    assert list(straight.points) == [3, 6, 8]
    often = run_config(logging_steps=3, save_steps=save_steps)
    interrupted = Logs(stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Quadratic(), often, logs=interrupted)
    _, _, rest = run(tmp_path / "cut", Quadratic(), often)
    assert {**interrupted.without_time(), **rest.without_time()} == straight.without_time()


class IsDeterministic(Logs):
    """Notes what torch is asked for while training runs."""

    def __call__(self, step, metrics):
        super().__call__(step, metrics)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("name", METHODS)
def test_deterministic_kernels_are_asked_for_while_training_runs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    plain, *_ = run(tmp_path / "plain", METHODS[name](), run_config())
    config = run_config(deterministic=True)
    asked, *_ = run(tmp_path / "asked", METHODS[name](), config, logs=IsDeterministic())
    assert_same(plain, asked)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("torch.save", 2),  # the second file of the first checkpoint
        ("baselines.loop.trainer.held_transformer", 2),  # the second checkpoint's first file
        ("baselines.loop.checkpoints.write_manifest", 2),  # all written, not marked
        ("baselines.loop.checkpoints.shutil.rmtree", 1),  # marked, the older one not yet removed
    ],
)
def test_killed_while_writing_a_checkpoint_equals_straight_through(
    tmp_path, monkeypatch, where, call
):
    config = run_config(steps=6, save_steps=2, keep_checkpoints=1, ema=EMA)
    straight, _, _ = run(tmp_path / "straight", sft(), config)
    calls = itertools.count(1)

    def killed(*arguments, **options):
        if next(calls) == call:
            raise Killed
        return original(*arguments, **options)

    original = pkgutil.resolve_name(where)
    with monkeypatch.context() as patch:
        patch.setattr(where, killed)
        with pytest.raises(Killed):
            run(tmp_path / "cut", sft(), config)
    resumed, _, _ = run(tmp_path / "cut", sft(), config)
    assert_same(straight, resumed)


KILLED_WRITER = """
import os, pathlib, signal, sys, threading, torch
from baselines.config import EmaConfig
from tests.baselines.toys import Logs, run, run_config, sft

gone_on = threading.Event()

class Watched(Logs):
    def __call__(self, step, metrics):
        if step == 6:
            gone_on.set()

def half(state, path):
    if pathlib.Path(path) == pathlib.Path(sys.argv[1], "checkpoint-4", "optimizer.pt"):
        pathlib.Path(path).write_bytes(b"half")
        assert gone_on.wait(60), "training waits for the checkpoint"
        os.kill(os.getpid(), signal.SIGKILL)
    original(state, path)

original, torch.save = torch.save, half
config = run_config(save_steps=2, ema=EmaConfig(decay=0.9, every=2))
run(pathlib.Path(sys.argv[1]), sft(), config, logs=Watched())
"""


def test_training_goes_on_while_a_checkpoint_is_written_and_a_kill_leaves_the_one_before(tmp_path):
    straight, _, _ = run(tmp_path / "straight", sft(), run_config(ema=EMA))
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "cut")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[3], timeout=900)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "cut" / "checkpoint-4" / "optimizer.pt").read_bytes() == b"half"
    resumed, _, _ = run(tmp_path / "cut", sft(), run_config(ema=EMA))
    assert_same(straight, resumed)


@pytest.mark.parametrize("full_at", [4, 8], ids=["in the middle", "at the end"])
def test_a_full_disk_ends_the_run(tmp_path, monkeypatch, full_at):
    def full(state, path):
        if Path(path).parent.name == f"checkpoint-{full_at}":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(state, path)

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full while writing"):
        run(tmp_path, sft(), run_config())
    assert last_complete_checkpoint(tmp_path) == (
        checkpoint_path(tmp_path, 4) if full_at > 4 else None
    )


def test_checkpoints_by_time_change_no_number(tmp_path):
    config = run_config(save_steps=None, save_minutes=None, logging_steps=3)
    seldom, _, logs = run(tmp_path / "seldom", flow_grpo(), config)
    config = run_config(save_steps=None, save_minutes=1e-9, logging_steps=3)
    interrupted = Logs(stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "often", flow_grpo(), config, logs=interrupted)
    assert last_complete_checkpoint(tmp_path / "often") == checkpoint_path(tmp_path / "often", 4)
    often, _, rest = run(tmp_path / "often", flow_grpo(), config)
    assert_same(seldom, often)
    assert {**interrupted.without_time(), **rest.without_time()} == logs.without_time()


def saved_steps(seconds_per_update, **rhythm):
    """Steps with a checkpoint in 1,000 updates, and the updates at which the clock was read."""
    now, looks = [0.0], []

    def clock():
        looks.append(state.global_step)
        return now[0]

    state, control = TrainerState(max_steps=1000), TrainerControl()
    callback, steps = SaveRhythm(**rhythm, clock=clock), []
    callback.on_train_begin(None, state, control)
    for step in range(1, 1001):
        state.global_step, now[0] = step, now[0] + seconds_per_update(step)
        callback.on_step_end(None, state, control)
        if control.should_save:
            steps.append(step)
            callback.on_save(None, state, control)
    return steps, looks


def test_the_clock_is_read_seldom_and_checkpoints_are_in_time():
    steady, looks = saved_steps(lambda _: 2.0, steps=None, minutes=10, unit=1)
    assert steady == [300, 600, 900, 1000]
    assert len(looks) < 50
    # Three times as slow in the middle of an interval: late by less than half an interval.
    slower, _ = saved_steps(lambda step: 2 if step < 100 else 6, steps=None, minutes=10, unit=1)
    assert 600 <= 2 * 99 + 6 * (slower[0] - 99) < 900
    slow, _ = saved_steps(lambda _: 331.0, steps=None, minutes=10, unit=2)
    assert slow == list(range(2, 1001, 2))
    by_steps, looks = saved_steps(lambda _: 1e9, steps=250, minutes=None, unit=1)
    assert by_steps == [250, 500, 750, 1000]


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_twice_is_bit_equal_and_another_seed_is_not(tmp_path, name):
    first, _, logs = run(tmp_path / "a", METHODS[name](), run_config(steps=4))
    second, _, again = run(tmp_path / "b", METHODS[name](), run_config(steps=4))
    other, _, _ = run(tmp_path / "c", METHODS[name](), run_config(steps=4, seed=4))
    assert_same(first, second)
    assert logs.without_time() == again.without_time()
    assert not torch.equal(first["last.weight"], other["last.weight"])


@pytest.mark.parametrize("name", METHODS)
def test_eight_micro_batches_of_one_equal_one_of_eight(tmp_path, name):
    whole, summary, logs = run(tmp_path / "a", METHODS[name](), run_config(steps=4))
    parts, counted, split = run(
        tmp_path / "b", METHODS[name](), run_config(steps=4, micro_batch_size=1)
    )
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=2e-5)
    assert logs.points[4]["train/loss"] == pytest.approx(split.points[4]["train/loss"], abs=1e-5)
    assert summary.forward_equivalents == counted.forward_equivalents


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, summary, _ = run(tmp_path, sft(), run_config(ema=EMA))
    second, again, logs = run(tmp_path, sft(), run_config(ema=EMA))
    assert_same(first, second)
    assert logs.points == {}
    assert again == summary


def test_gradient_is_clipped_after_division_by_the_global_weight(tmp_path):
    model, rows = plane_model(), PlaneRows(8)
    labels = torch.stack([rows[i]["condition"]["label"] for i in range(8)])
    prediction = model(torch.zeros(8, 2), torch.zeros(8), labels)
    (prediction - rows.x0).square().sum(1).mean().backward()
    by_hand = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    config = run_config(
        steps=1,
        logging_steps=1,
        micro_batch_size=2,
        optim=OptimConfig(learning_rate=1e-3, max_grad_norm=1e-3),
    )
    _, _, logs = run(tmp_path, Quadratic(), config, rows=rows)
    assert logs.points[1]["train/grad_norm"] == pytest.approx(by_hand, rel=1e-5)


def test_logs_hold_means_over_the_window_and_cumulative_counters(tmp_path):
    _, summary, logs = run(tmp_path, Quadratic(), run_config(steps=4))
    assert list(logs.points) == [2, 4]
    point = logs.points[4]
    assert point["train/part_0"] + point["train/part_1"] == pytest.approx(point["train/loss"])
    assert abs(point["rollout/mean_x0"]) < 2.2
    assert point["train/learning_rate"] == 1e-2
    assert point["images_seen"] == summary.images_seen == 32
    assert point["forward_equivalents"] == summary.forward_equivalents == 96
    assert point["reward_calls"] == summary.reward_calls == 32
    assert 0 < point["seconds"] <= summary.seconds


def test_flow_grpo_trains_each_collected_row_once_and_starts_at_ratio_one(tmp_path):
    config = run_config(steps=4, logging_steps=1, micro_batch_size=2)
    _, summary, logs = run(tmp_path, flow_grpo(), config)
    # Updates 1 and 3 follow a collection, 2 and 4 use the rest of it.
    assert ["rollout/reward_mean" in logs.points[step] for step in (1, 2, 3, 4)] == [
        True,
        False,
        True,
        False,
    ]
    assert summary.reward_calls == summary.images_seen == 32
    assert logs.points[1]["train/ratio_deviation"] == 0
    assert logs.points[1]["train/kl"] == 0
    assert logs.points[2]["train/ratio_deviation"] > 0


def test_a_larger_rollout_batch_is_measured_at_its_first_update(tmp_path):
    method, model, rows = flow_grpo(), plane_model(), []
    method = FlowGrpo(replace(method.config, rollout_batch_size=6), method.world)

    def count(_module, _arguments, output):
        if not output.requires_grad:
            rows.append(len(output))

    model.register_forward_hook(count)
    config = run_config(steps=2, logging_steps=1, micro_batch_size=2, lora=LORA)
    _, _, logs = run(tmp_path, method, config, model=model)
    # Three parts of 16 rows, four steps each and two branches; then the reference's micro-batches.
    assert rows[:12] == [12] * 8 + [8] * 4
    assert set(rows[12:]) == {4}
    assert 0 <= logs.points[1]["train/first_ratio_deviation"] < 1e-5
    assert logs.points[1]["train/first_clip_fraction"] == 0
    assert "train/first_ratio_deviation" not in logs.points[2]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_reference_stays_the_base_model(tmp_path, lora):
    config = run_config(steps=4, logging_steps=1, lora=lora)
    _, _, logs = run(tmp_path, flow_grpo(), config)
    assert logs.points[1]["train/kl"] == 0
    assert logs.points[3]["train/kl"] > 0


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_under_autocast_the_reference_is_guided_in_float32_as_the_policy(
    tmp_path, monkeypatch, lora
):
    # As SD3's, which leaves the output's type to accelerate's wrapper around the trained model.
    monkeypatch.setattr(
        toys.PlaneVelocity,
        "__call__",
        lambda self, latents, sigma, condition: self.model(
            latents=latents, sigma=sigma, label=condition["label"]
        ),
    )
    config = run_config(steps=2, logging_steps=1, lora=lora, mixed_precision="bf16")
    _, _, logs = run(tmp_path, flow_grpo(), config)
    assert logs.points[1]["train/kl"] == 0


def test_snapshots_hold_the_averaged_weights(tmp_path):
    config = run_config(steps=4, ema=EmaConfig(decay=0.5, every=1), num_snapshots=2)
    final, _, _ = run(tmp_path, sft(), config)
    kept = [snapshot_path(tmp_path, step) for step in (2, 4)]
    folders = [path for path in (tmp_path / "snapshots").iterdir() if path.is_dir()]
    assert sorted(folders) == kept
    last = PlaneModel.from_pretrained(kept[-1])
    assert_same(dict(last.state_dict()), final)
    trained, _, _ = run(tmp_path / "plain", sft(), run_config(steps=4))
    assert not torch.equal(trained["last.weight"], final["last.weight"])


def test_ema_follows_the_recurrence(tmp_path):
    config = run_config(steps=4, ema=EmaConfig(decay=0.15, every=1))
    averaged, _, _ = run(tmp_path / "averaged", sft(), config)
    run(tmp_path / "plain", sft(), run_config(steps=4, num_snapshots=4))
    first, *others = (
        PlaneModel.from_pretrained(snapshot_path(tmp_path / "plain", step)).last.weight
        for step in (1, 2, 3, 4)
    )
    # diffusers' warm-up: 0 at the first averaging, then (1 + n) / (10 + n), here capped at 0.15.
    assert (1 + 1) / (10 + 1) > 0.15
    by_hand = first
    for weight in others:
        by_hand = 0.15 * by_hand + 0.85 * weight
    torch.testing.assert_close(averaged["last.weight"], by_hand)


def test_lora_leaves_the_base_weights_alone_and_loads_with_peft(tmp_path):
    weights, _, _ = run(tmp_path, sft(), run_config(steps=2, lora=LORA, num_snapshots=1))
    base = plane_model()
    assert torch.equal(weights["hidden.base_layer.weight"], base.hidden.weight)
    loaded = PeftModel.from_pretrained(base, snapshot_path(tmp_path, 2))
    for name, value in loaded.base_model.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert weights["hidden.lora_B.default.weight"].abs().sum() > 0


def test_bf16_trains_float32_weights_under_autocast(tmp_path):
    model = plane_model().to(torch.bfloat16).requires_grad_(False)
    config = run_config(steps=2, mixed_precision="bf16")
    weights, _, logs = run(tmp_path / "bf16", Quadratic(), config, model=model)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    _, _, exact = run(tmp_path / "exact", Quadratic(), run_config(steps=2))
    difference = abs(logs.points[2]["train/loss"] - exact.points[2]["train/loss"])
    assert 0 < difference < 0.2
    # No autocast is left behind on the module.
    fresh = plane_model()
    fresh.load_state_dict(weights)
    inputs = (torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2))
    assert torch.equal(model(*inputs), fresh(*inputs))


class Poisoned(Quadratic):
    """The loss of the third update is not a number."""

    num_updates = 0

    @override
    def losses(self, policies, batch):
        self.num_updates += 1
        factor = float("nan") if self.num_updates == 3 else 1.0
        for term in super().losses(policies, batch):
            yield LossOutput(term.loss_sum * factor, {})


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_update(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"update 3: the loss is nan.*learning_rate=0\.01"):
        run(tmp_path, Poisoned(), run_config(save_steps=2))
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"micro_batch_size": 0}, "micro_batch_size=0"),
        ({"mixed_precision": "fp8"}, "'fp8'.*no, bf16"),
        ({"num_snapshots": 9}, r"num_snapshots=9: must be at most training\.steps=8"),
        ({"num_snapshots": -1}, "num_snapshots=-1"),
    ],
)
def test_a_value_that_no_run_can_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_steps": 3}, "save_steps=3.*multiple.*=2.*use 4"),
        ({"steps": 7}, "steps=7.*use 8"),
        ({"batch_size": 6}, "batch_size=6.*group_size=4; use 8"),
        ({"micro_batch_size": 3}, "batch_size=8.*multiple of 3.*use 9"),
    ],
)
def test_a_run_that_does_not_fit_the_method_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, flow_grpo(), run_config(**changes))


def test_empty_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 rows"):
        run(tmp_path, sft(), run_config(), rows=PlaneRows(0))
