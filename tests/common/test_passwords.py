"""No password of an address is shown."""

import pytest

from soarbench.common.errors import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run uri=http://me:hush@host:5000 seeds=0", "run uri=http://me:***@host:5000 seeds=0"),
        ("postgresql+psycopg://:hu@sh@host/db", "postgresql+psycopg://:***@host/db"),
        ("'postgresql://host/db?password=hush&x=1'", "'postgresql://host/db?password=***&x=1'"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/me:mine/mlruns.db", "sqlite:////home/me:mine/mlruns.db"),
    ],
)  # fmt: skip
def test_only_the_password_is_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
