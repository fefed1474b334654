"""What a user did that cannot work: one line that names the value and the remedy."""

from __future__ import annotations


class UserError(Exception):
    """Ends the command with exit code 2 and its message, without a traceback."""


class ConfigError(UserError):
    """A configuration that cannot be run; found before anything heavy is loaded."""


class StoreError(UserError):
    """Stored results that cannot be read or reported as they are."""
