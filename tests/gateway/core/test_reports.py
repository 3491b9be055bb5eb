import pytest

from gateway.core.reports import Outcome, UpstreamFault


def test_fault_tells_its_outcome_code_and_message() -> None:
    """One sentence for the log."""
    fault = UpstreamFault(Outcome.REFUSED, "upstream_error", "busy", retry_after_seconds=2)
    assert str(fault) == "refused upstream_error: busy"
    assert fault.args == ("upstream_error", "busy")


def test_fault_is_an_exception_that_is_nobody_elses() -> None:
    """It is raised and caught whole, with its own details."""
    first, second = (UpstreamFault(Outcome.FAILED, "invalid_output", "x") for _ in range(2))
    first.details["a"] = 1
    assert second.details == {}
    with pytest.raises(UpstreamFault) as caught:
        raise first
    assert caught.value is first
    assert (first.locked_out, first.credential, first.charged) == (False, False, False)


def test_fault_has_a_code_of_the_registry() -> None:
    """Any other would reach clients that cannot know it."""
    with pytest.raises(AssertionError, match="nonsense is not in the registry"):
        UpstreamFault(Outcome.FAILED, "nonsense", "x")
