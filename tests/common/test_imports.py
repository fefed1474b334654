"""The garbage collector around imports of large libraries."""

import gc
import sys
from types import ModuleType

import pytest

from soarbench.common.imports import large_imports


@pytest.fixture(autouse=True)
def thawed():
    """What a test froze is let go, and what others froze stays looked through."""
    assert gc.isenabled()
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_was_imported_is_passed_over(monkeypatch):
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    with large_imports():
        assert not gc.isenabled()
        monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_later_objects_are_not_kept_for_good(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))
    with large_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_an_import_that_fails_leaves_the_collector_as_it_was(monkeypatch):
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    with pytest.raises(ImportError), large_imports():
        raise ImportError("no such library")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.disable()
    try:
        with large_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
