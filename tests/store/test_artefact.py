"""An artefact's record: what it is of, who made it, and for which part of a suite it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soarbench.common.errors import UserError
from soarbench.store.artefact import Artefact, Extent, Store


def begun(store: Store, address: str, *inputs: str) -> None:
    store.artefact(address).begin({"a": 1}, inputs, {"x": "1"})


def test_a_record_keeps_content_inputs_code_and_who_worked_on_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artefact = store.artefact("images/geneval-0123")
    assert artefact.record() is None
    assert not artefact.exists
    begun(store, "images/geneval-0123", "trainings/soar-4567")
    begun(store, "images/geneval-0123", "trainings/soar-4567")
    record = artefact.record()
    assert record is not None
    assert record.address == "images/geneval-0123"
    assert record.content == {"a": 1}
    assert record.inputs == ("trainings/soar-4567",)
    assert record.code == {"x": "1"}
    assert len(record.launches) == 1
    assert {"command", "git_commit", "soarbench"} <= record.launches[0].keys()


def test_a_larger_part_of_a_suite_covers_a_smaller_one() -> None:
    whole = Extent(max_prompts=None, images_per_prompt=4)
    assert whole.covers(Extent(max_prompts=None, images_per_prompt=2))
    assert whole.covers(Extent(max_prompts=10, images_per_prompt=4))
    assert not whole.covers(Extent(max_prompts=None, images_per_prompt=5))
    # Ten evenly spaced prompts are not among twenty evenly spaced ones.
    part = Extent(max_prompts=20, images_per_prompt=4)
    assert not part.covers(Extent(max_prompts=10, images_per_prompt=1))
    assert part.covers(Extent(max_prompts=20, images_per_prompt=1))


def test_extents_are_added_and_survive(tmp_path: Path) -> None:
    store = Store(tmp_path)
    begun(store, "images/a-1")
    artefact = store.artefact("images/a-1")
    first, second = (Extent(max_prompts=None, images_per_prompt=n) for n in (1, 3))
    assert not artefact.covers(first)
    artefact.add_extent(first)
    artefact.add_extent(second)
    artefact.add_extent(second)
    record = store.artefact("images/a-1").record()
    assert record is not None
    assert set(record.extents) == {first, second}
    assert artefact.has(first)
    assert not artefact.has(Extent(max_prompts=None, images_per_prompt=2))
    assert artefact.covers(Extent(max_prompts=None, images_per_prompt=2))


def test_discarding_takes_what_was_made_from_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    begun(store, "trainings/t-1")
    begun(store, "trainings/t-2", "trainings/t-1")
    begun(store, "images/i-1", "trainings/t-1")
    begun(store, "scores/s-1", "images/i-1")
    begun(store, "images/i-2", "trainings/t-3")
    gone = store.discard("trainings/t-1")
    assert set(gone) == {"trainings/t-1", "trainings/t-2", "images/i-1", "scores/s-1"}
    assert not any(store.artefact(address).root.exists() for address in gone)
    assert store.artefact("images/i-2").exists


def test_a_record_of_another_version_is_refused_with_a_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    begun(store, "images/a-1")
    path = tmp_path / "images" / "a-1" / "artefact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(UserError, match=r"artefact\.json is of store version 99.*output_dir"):
        store.artefact("images/a-1").record()


def test_a_folder_of_the_users_with_something_else_is_refused(tmp_path: Path) -> None:
    mine = Artefact(tmp_path / "out")
    content = mine.refuse_other({"suite": ("a", "b"), "seed": 1}, "scores")
    assert content == {"suite": ["a", "b"], "seed": 1}
    mine.begin(content, (), {})
    assert mine.refuse_other({"suite": ["a", "b"], "seed": 1}, "scores") == content
    with pytest.raises(UserError, match=r"out holds scores of another request \(unlike in seed\)"):
        mine.refuse_other({"suite": ["a", "b"], "seed": 2}, "scores")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.png").touch()
    with pytest.raises(UserError, match="photos holds other files; choose another output"):
        Artefact(tmp_path / "photos").refuse_other({}, "scores")
