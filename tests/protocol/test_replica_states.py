"""The table of the client's session."""

from protocol.replica_states import TRANSITIONS, Happening, State


def test_every_state_is_reached_and_the_last_is_final() -> None:
    """From offline everything can be reached; nothing leaves `stopped`."""
    reached = {State.OFFLINE}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)
    assert not [key for key in TRANSITIONS if key[0] is State.STOPPED]


def test_every_open_state_can_end() -> None:
    """A refusing close code is taken everywhere."""
    assert {before for before, happening in TRANSITIONS if happening is Happening.ENDED} == set(State) - {State.STOPPED}
