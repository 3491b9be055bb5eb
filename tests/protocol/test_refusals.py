"""What the Python client raises says what to do."""

import pytest

from protocol.errors import CLOSES
from protocol.messages import ErrorBody
from protocol.refusals import REFUSED_UPGRADES, Closed, Refused


def test_refused_tells_the_registrys_advice() -> None:
    """The server's sentence first; a code that this client does not know has no advice."""
    known = Refused(ErrorBody(code="idempotency_conflict", message="other body", retryable=False))
    assert str(known) == "idempotency_conflict: other body (Make up a new ref.)"
    assert str(Refused(ErrorBody(code="novel", message="hm", retryable=False))) == "novel: hm"


def test_closed_tells_meaning_and_advice() -> None:
    """Also for codes of others, as far as they are known."""
    assert str(Closed(4507, "ticket_invalid")) == (
        "4507 ticket_invalid: The ticket was used or is over its time: get another first."
        " Get a new ticket for each connection."
    )
    assert str(Closed(1009, "too big")) == "1009 too big: Announce a larger `max_message`."
    assert str(Closed(4999, "odd")) == "4999 odd:"


@pytest.mark.parametrize("close", [one for one in CLOSES.values() if one.number >= 4500], ids=lambda one: one.name)
def test_every_stop_has_advice(close: object) -> None:
    """A client that may not come back has to say why, and what would help."""
    number = getattr(close, "number", 0)
    assert len(str(Closed(number, ""))) > len(f"{number} : {getattr(close, 'meaning', '')}")
    assert set(REFUSED_UPGRADES.values()) <= {one.number for one in CLOSES.values()}
