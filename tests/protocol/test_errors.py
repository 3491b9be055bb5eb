"""The two registries and the faults that carry their entries."""

import pytest

from protocol.errors import (
    CLOSE_NUMBERS,
    CLOSES,
    ERRORS,
    GROUPS,
    ClientFault,
    ConnectionFault,
    should_reconnect,
)


def test_error_numbers_are_unique_and_stand_in_a_known_group() -> None:
    """Every number is given once, and its hundreds name a group."""
    numbers = [code.number for code in ERRORS.values()]
    assert len(numbers) == len(set(numbers))
    assert {code.group for code in ERRORS.values()} == set(GROUPS.values())


def test_error_codes_are_found_by_their_own_names() -> None:
    """The registry's keys are the names on the wire: lower case with underscores."""
    assert all(name == code.name for name, code in ERRORS.items())
    assert all(name.replace("_", "").isalpha() and name == name.lower() for name in ERRORS)


def test_error_statuses_say_who_is_at_fault() -> None:
    """Only capacity, model and run may answer 5xx; what is retryable is 429 or 5xx."""
    for code in ERRORS.values():
        assert 400 <= code.http <= 504
        assert code.http < 500 or code.group in ("capacity", "model", "run")
        assert not code.retryable or code.http == 429 or code.http >= 500


def test_error_texts_are_sentences() -> None:
    """Meaning and advice end in a full stop, because PROTOCOL.md prints them."""
    assert all(code.meaning.endswith(".") and code.advice.endswith(".") for code in ERRORS.values())


def test_close_codes_are_unique_and_tell_by_range_what_to_do() -> None:
    """4000-4499 means reconnect, 4500-4999 stop, 1000 is the answer to `bye`."""
    assert len(CLOSE_NUMBERS) == len(CLOSES)
    assert all(name == close.name for name, close in CLOSES.items())
    for close in CLOSES.values():
        assert close.number == 1000 or 4000 <= close.number <= 4999
        assert close.reconnect is (4000 <= close.number <= 4499)


def test_close_reasons_fit_a_close_frame() -> None:
    """The reason text is the name, at most 120 bytes."""
    assert all(len(name.encode()) <= 120 for name in CLOSES)


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 3000, 4000, 4499, 5000, -1])
def test_client_reconnects_after_codes_that_are_no_refusal(code: int) -> None:
    """Whatever is not a refusal may be the network's fault."""
    assert should_reconnect(code)


@pytest.mark.parametrize("code", [1000, 1009, 4500, 4505, 4999])
def test_client_stays_away_after_a_refusal(code: int) -> None:
    """1009 is like 4506, and 1000 comes only after `bye`."""
    assert not should_reconnect(code)


def test_client_fault_tells_code_place_and_message() -> None:
    """Its text names the path where there is one, and it knows its registry entry."""
    fault = ClientFault("invalid_param", "Expected int", details={"path": "params.steps"})
    assert str(fault) == "invalid_param at params.steps: Expected int"
    assert str(ClientFault("internal", "Sorry")) == "internal: Sorry"
    assert fault.entry is ERRORS["invalid_param"]
    assert fault.args == ("invalid_param", "Expected int")


def test_connection_fault_tells_number_name_and_message() -> None:
    """Its text begins as a log line about the close should."""
    assert str(ConnectionFault("bad_message", "no JSON")) == "4500 bad_message: no JSON"


def test_faults_refuse_names_outside_the_registries() -> None:
    """A typing error in a code is found where it is made."""
    with pytest.raises(AssertionError, match="not in the registry"):
        ClientFault("bad_requets", "")
    with pytest.raises(AssertionError, match="not in the registry"):
        ConnectionFault("bad_mesage", "")
