"""Shared by the tests of models."""

from tests.baselines.conftest import _frozen_imports

__all__ = ["_frozen_imports"]
