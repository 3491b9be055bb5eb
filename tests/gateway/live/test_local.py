from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as some

from gateway.core.records import Identity, Plan
from gateway.live.local import LocalTickets

WHO = Identity("tenant", "subject", Plan(), "key")


def other(name: str) -> Identity:
    """Return somebody else."""
    return Identity("tenant", name, Plan(), "key")


def test_ticket_is_taken_once() -> None:
    """The first who comes has it, and nobody after."""
    tickets = LocalTickets()
    tickets.keep("a", WHO, 100)
    assert tickets.take("a", 99) == WHO
    assert tickets.take("a", 99) is None
    assert len(tickets) == 0


def test_ticket_that_nobody_made_is_refused() -> None:
    """An unknown one is nobody's."""
    assert LocalTickets().take("a", 0) is None


def test_ticket_past_its_time_is_refused() -> None:
    """At its last millisecond it is over, and it takes no room any more."""
    tickets = LocalTickets()
    tickets.keep("a", WHO, 100)
    assert tickets.take("a", 100) is None
    assert tickets.take("a", 99) is None
    assert len(tickets) == 0


def test_ticket_behind_a_longer_one_is_refused_past_its_time() -> None:
    """Expiry does not rest on the order in which they were made."""
    tickets = LocalTickets()
    tickets.keep("long", WHO, 1000)
    tickets.keep("short", WHO, 100)
    assert tickets.take("short", 100) is None
    assert tickets.take("long", 100) == WHO


def test_tickets_nobody_takes_do_not_pile_up() -> None:
    """Taking any one forgets those before it whose time is over."""
    tickets = LocalTickets()
    for number in range(50):
        tickets.keep(str(number), WHO, 100 + number)
    assert tickets.take("49", 148) == WHO
    assert len(tickets) == 0


def test_tickets_are_bounded_and_the_oldest_goes_first() -> None:
    """One too many costs the oldest, which will be refused and never reused."""
    tickets = LocalTickets(max_tickets=2)
    for name in ("a", "b", "c"):
        tickets.keep(name, other(name), 100)
    assert len(tickets) == 2
    assert [tickets.take(name, 0) for name in ("a", "b", "c")] == [None, other("b"), other("c")]


def test_ticket_kept_again_is_the_newer_one() -> None:
    """The same digest twice is one ticket, and counts once against the bound."""
    tickets = LocalTickets(max_tickets=2)
    for name in ("x", "a", "x"):
        tickets.keep(name, other(f"{name}{len(tickets)}"), 100)
    assert tickets.take("a", 0) == other("a1")
    assert tickets.take("x", 0) == other("x2")


def test_ticket_is_given_to_one_of_many_threads() -> None:
    """Taking is one step, whoever calls it from where."""
    tickets = LocalTickets()
    for number in range(200):
        tickets.keep(str(number), WHO, 100)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda number: tickets.take(str(number % 200), 0), range(800)))
    assert sum(one is not None for one in taken) == 200


@given(some.lists(some.tuples(some.sampled_from("abcd"), some.booleans(), some.integers(0, 9)), max_size=60))
def test_tickets_agree_with_a_plain_model(steps: list[tuple[str, bool, int]]) -> None:
    """Any order of keeping and taking gives what a dictionary with times would give."""
    tickets = LocalTickets()
    model: dict[str, int] = {}
    now = 0
    for name, keeps, later in steps:
        now += later
        if keeps:
            tickets.keep(name, other(name), now + 10)
            model[name] = now + 10
        else:
            expected = other(name) if model.pop(name, 0) > now else None
            assert tickets.take(name, now) == expected
