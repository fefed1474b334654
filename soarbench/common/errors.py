"""What a user did that cannot work: one line that names the value and the remedy."""

from __future__ import annotations

import re
import traceback


class UserError(Exception):
    """Ends the command with exit code 2 and its message, without a traceback."""


class ConfigError(UserError):
    """A configuration that cannot be run; found before anything heavy is loaded."""


class StoreError(UserError):
    """Stored results that cannot be reported as they are."""


class Damaged(StoreError):
    """Stored files that are lost or damaged; ``address`` is the artefact to be made again."""

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message, address)
        self.address = address

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedFile(UserError):
    """A small file that cannot be read; who wrote it sets it aside and writes it again."""


class NotDelivered(UserError):
    """A tracker did not take what it was given; the results are stored, and given again later."""


class TrackerAway(NotDelivered):
    """It does not answer at all, so that the next try will not fare better at once."""


class JobFailed(RuntimeError):
    """What a job failed with in another process; ``traceback`` is of there."""

    def __init__(self, text: str, trace: str) -> None:
        super().__init__(text, trace)
        self.text, self.traceback = text, trace

    def __str__(self) -> str:
        return self.text


_LONGEST_REASON = 500
#: A password in an address: before its host, or among its parameters.
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/]+(?=@)|([?&](?:ssl)?(?:password|token)=)[^&\s'\"]+")


def without_passwords(text: str) -> str:
    """A text with stars for the passwords of the addresses in it."""
    return _PASSWORD.sub(lambda match: f"{match[1] or match[2]}***", text)


def without_middle(text: str, length: int) -> str:
    """A text of at most ``length`` characters: two thirds of its beginning, and its end."""
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end - 5]} ... {text[-end:]}"


def printable(text: str) -> str:
    """A text with escapes for the halves of characters that cannot be written."""
    return text.encode("utf-8", "backslashreplace").decode()


def reason(error: BaseException) -> str:
    """One line for a failure."""
    if isinstance(error, JobFailed):
        return error.text
    # Some say nothing at all: an EOFError of a damaged file has no message.
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_LONGEST_REASON]


def import_failure(error: BaseException) -> str:
    """Why a module could not be imported, with the line of it that failed."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, ImportError):
        # transformers' take many lines.
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    frames = traceback.extract_tb(error.__traceback__)
    # The first is who imports; Python's own, frozen in it or not, say nothing of where.
    own = [one for one in frames[1:] if "importlib" not in one.filename]
    return (
        f"{reason(error)}, at {own[-1].filename}, line {own[-1].lineno}" if own else reason(error)
    )
