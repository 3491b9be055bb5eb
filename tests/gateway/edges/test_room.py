import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.records import Identity, Plan
from gateway.edges import room as rooms
from gateway.edges.room import MOST_WAITING, MOST_WAITING_EACH, Room
from protocol.errors import ClientFault


def one(subject: str, tenant: str = "acme") -> Identity:
    """Return an end user."""
    return Identity(tenant, subject, Plan(), "key")


class Guest:
    """Somebody who stays in a room until he is told to leave."""

    def __init__(self, room: Room, identity: Identity) -> None:
        self._leaves = asyncio.Event()
        self.is_inside = False
        self.task = asyncio.create_task(self._stay(room, identity))

    async def _stay(self, room: Room, identity: Identity) -> None:
        with room.lease() as enter:
            await enter(identity)
            await enter(identity)  # which takes no more
            self.is_inside = True
            await self._leaves.wait()

    async def leave(self) -> None:
        """Leave, and let others come in."""
        self._leaves.set()
        await self.task
        await asyncio.sleep(0)


class Host:
    """Brings guests."""

    def __init__(self) -> None:
        self.guests: list[Guest] = []

    async def bring(self, room: Room, identity: Identity) -> Guest:
        """Bring a guest to a room, who has come in or waits when this returns."""
        guest = Guest(room, identity)
        self.guests.append(guest)
        await asyncio.sleep(0)
        return guest


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """A host whose guests go home in the end."""
    host = Host()
    yield host
    for guest in host.guests:
        guest.task.cancel()
    await asyncio.gather(*(guest.task for guest in host.guests), return_exceptions=True)


async def test_one_who_asks_takes_his_share_and_the_others_come_in_past_him(host: Host) -> None:
    """Two of eight; whoever waits comes in by his turn as soon as there is room for him."""
    room = Room(8, 2, "too many")
    first, second, third, fourth = [await host.bring(room, one("ann")) for _ in range(4)]
    other = await host.bring(room, one("bob"))
    assert [guest.is_inside for guest in (first, second, third, fourth, other)] == [True, True, False, False, True]
    await first.leave()
    assert (third.is_inside, fourth.is_inside, len(room), room.waiting) == (True, False, 3, 1)
    await second.leave()
    assert fourth.is_inside


async def test_account_with_many_end_users_leaves_room_for_another(host: Host) -> None:
    """Three quarters are all that its users may have together, whatever they call themselves."""
    room = Room(8, 2, "too many")
    crowd = [await host.bring(room, one(f"user-{number}")) for number in range(8)]
    assert sum(guest.is_inside for guest in crowd) == 6
    other = await host.bring(room, one("", "globex"))
    assert other.is_inside


async def test_server_of_an_account_has_all_that_the_account_may(host: Host) -> None:
    """It asks for many end users under one key; another account's room stays."""
    room = Room(8, 2, "too many")
    crowd = [await host.bring(room, one("")) for _ in range(6 + MOST_WAITING * 3 // 4 + 1)]
    assert (len(room), room.waiting, crowd[-1].task.done()) == (6, MOST_WAITING * 3 // 4, True)
    with pytest.raises(ClientFault):
        await crowd[-1].task
    assert (await host.bring(room, one("ann", "globex"))).is_inside
    await crowd[0].leave()
    assert len(room) == 7


async def test_who_waits_too_long_or_behind_too_many_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a word of when to come back; and nothing is left of it."""
    monkeypatch.setattr(rooms, "WAIT_SECONDS", 0.05)
    room = Room(1, 1, "too many")
    inside = await host.bring(room, one("ann"))
    crowd = [await host.bring(room, one("ann")) for _ in range(MOST_WAITING_EACH + 1)]
    assert (room.waiting, crowd[-1].task.done()) == (MOST_WAITING_EACH, True)
    faults = await asyncio.gather(*(guest.task for guest in crowd), return_exceptions=True)
    for fault in faults:
        assert isinstance(fault, ClientFault)
        assert (fault.code, fault.retry_after_ms) == ("overloaded", 1000)
    await inside.leave()
    assert (len(room), room.waiting) == (0, 0)


async def test_who_goes_away_while_his_turn_comes_leaves_the_room_to_the_next(host: Host) -> None:
    """In whichever order both happen within one turn of the loop."""
    for is_gone_first in (True, False):
        room = Room(1, 1, "too many")
        inside = await host.bring(room, one("ann"))
        gone, following = await host.bring(room, one("bob")), await host.bring(room, one("cay"))
        if is_gone_first:
            gone.task.cancel()
            await inside.leave()
        else:
            inside._leaves.set()
            await asyncio.sleep(0)
            gone.task.cancel()
        await asyncio.wait([gone.task])
        await asyncio.sleep(0)
        assert (gone.is_inside, following.is_inside, len(room)) == (False, True, 1)
        await following.leave()
        assert len(room) == 0
