import pickle

import pytest

from gateway.core.secret import Secret


def test_secret_is_shown_only_when_revealed() -> None:
    """No way of printing shows it."""
    secret = Secret("sk-very-secret-1")
    assert secret.reveal() == "sk-very-secret-1"
    for text in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        str([secret]),
        str({"k": secret}),
    ):
        assert "very" not in text


def test_secret_does_not_leave_the_process() -> None:
    """Pickling it is refused."""
    with pytest.raises(TypeError, match="does not leave the process"):
        pickle.dumps(Secret("x"))


@pytest.mark.parametrize(
    "text,shown",
    [
        ("bad key abc123!", "bad key ***!"),
        ("Incorrect API key: sk-ab*****yz.", "Incorrect API key: ***"),
        ("a task-force at risk", "a task-force at risk"),
    ],
)
def test_secret_redacts_itself_and_its_like(text: str, shown: str) -> None:
    """A vendor's words are shown without our key, whole or in part."""
    assert Secret("abc123").redact(text) == shown


def test_empty_secret_redacts_nothing_of_its_own() -> None:
    """An empty credential is in every text, and is left there."""
    assert Secret("").redact("abc") == "abc"
