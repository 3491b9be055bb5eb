"""The server's machine: what is legal when, what is answered, and when a connection ends."""

import json
from dataclasses import dataclass, field
from math import inf, nextafter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import MAX_SERVER_JSON, encode
from protocol.errors import CLOSES, ConnectionFault
from protocol.header import Flag, Header, Kind, pack
from protocol.messages import (
    Ack,
    Bye,
    Cancel,
    Hello,
    Limits,
    Ping,
    Prefs,
    Previews,
    Submit,
    Unwatch,
    Watch,
)
from protocol.session import (
    TRANSITIONS,
    CheckHello,
    Close,
    Effect,
    Input,
    PauseReading,
    Perform,
    Phase,
    Pump,
    Send,
    ServerSession,
    StoreUpload,
    Timing,
)
from protocol.tail import Tail
from protocol.uploads import Upload
from protocol.wire import PING
from tests.protocol.playbook import HELLO, JOB, accepted, notice, progress, started, submit

START = 1000.0
UPLOAD = "0" * 25 + "1"
EMPTY_PING = Ping(t=7)


class Unsigned:
    """Links for those who look at other things."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return "https://gw/asset", 1

    def events(self, job: str, time_ms: int) -> str:
        return "https://gw/events"


def machine(
    phase: Phase = Phase.LIVE, *, authenticated: bool = False, hello: Hello = HELLO, **limits: int
) -> ServerSession:
    """Return a machine that was brought to a phase."""
    session = ServerSession(Limits(**limits), Timing(), START, authenticated=authenticated)
    if phase in (Phase.OPENING, Phase.LIVE):
        session.receive(encode(hello), START)
    if phase is Phase.LIVE:
        session.opened(hello)
    if phase is Phase.CLOSED:
        session.closed()
    return session


def chunk(data: bytes, *, at: int = 0, total: int | None = None, kind: int = Kind.UPLOAD) -> bytes:
    """Return an upload's message."""
    whole = len(data) if total is None else total
    last = Flag.LAST_CHUNK if at + len(data) == whole else 0
    return pack(Header(kind=kind, format=2, job_id=UPLOAD, total_size=whole, chunk_offset=at, flags=last)) + data


def told(effect: Effect) -> dict[str, Any]:
    """Return the JSON that an effect sends."""
    assert isinstance(effect, Send)
    message = json.loads(effect.frame[effect.frame.index(b"{") :])
    assert isinstance(message, dict)
    return message


def code(effect: Effect) -> str:
    """Return the code of a refusal."""
    error = told(effect)["error"]
    assert isinstance(error["code"], str)
    return error["code"]


def do(session: ServerSession, happened: Input) -> list[Effect]:
    """Let an input happen in whatever way it can."""
    match happened:
        case Input.HELLO:
            return session.receive(encode(HELLO), START)
        case Input.MESSAGE:
            return session.receive(encode(EMPTY_PING), START)
        case Input.OPENED:
            session.opened(HELLO)
        case Input.CLOSE:
            session.closed()
    return []


# The table


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("happened", Input)
def test_each_phase_takes_what_its_row_says_and_refuses_the_rest(phase: Phase, happened: Input) -> None:
    """A client's message that has no entry closes with `bad_message`; after the end nothing counts."""
    session = machine(phase)
    after = TRANSITIONS.get((phase, happened))
    if after is not None:
        assert Close("bad_message") not in do(session, happened)
        assert session.phase is after
    elif phase is Phase.CLOSED and happened is not Input.OPENED:
        assert do(session, happened) == []
        assert session.phase is Phase.CLOSED
    elif happened is Input.OPENED:
        with pytest.raises(ConnectionFault, match="opened is not allowed"):
            do(session, happened)
        assert session.phase is phase
    else:
        assert do(session, happened) == [Close("bad_message")]
        assert session.phase is Phase.CLOSED


def test_close_can_happen_in_every_phase_and_is_final() -> None:
    """The table has no way out of it."""
    assert {phase for phase, happened in TRANSITIONS if happened is Input.CLOSE} == {*Phase} - {Phase.CLOSED}
    assert Phase.CLOSED not in {phase for phase, _ in TRANSITIONS}


def test_closed_machine_does_nothing_and_waits_for_nothing() -> None:
    """Whatever was due."""
    session = machine()
    session.receive(chunk(b"a", total=9), START)
    session.closed()
    session.closed()
    assert session.deadline() == inf
    assert session.timeout(START + 1000, 1) == []
    assert session.receive(b"\x00", START) == []
    assert (
        repr(session)
        == "ServerSession(closed, Delivery(jobs=0, dirty=0, in_flight=0), Uploads(open=1, unreferenced=0))"
    )


@pytest.mark.parametrize("name,number", [("bad_message", 4500), ("normal", 1000)])
def test_close_knows_its_number(name: str, number: int) -> None:
    """As the registry has it."""
    assert Close(name).code == number


# Hello


def test_hello_is_checked_and_then_the_connection_is_live() -> None:
    """What it asks for is what the delivery does."""
    hello = Hello(v=1, max_message=70_000, window=140_000, finals="inline", previews=Previews(max_edge=512))
    session = machine(Phase.NEW)
    assert session.receive(encode(hello), START) == [CheckHello(hello)]
    session.opened(hello)
    delivery = session.delivery
    assert (delivery.max_binary, delivery.window) == (70_000, 140_000)
    cursor = delivery.watch(JOB, 0, owner=True)
    assert cursor.rung is not None
    assert (cursor.inline, cursor.rung.edge) == (True, 512)


@pytest.mark.parametrize(
    "raw",
    [
        encode(EMPTY_PING),
        b'{"type":"who"}',
        b'{"type":"hello"}',
        b'{"type":"hello","v":1,"max_message":16383}',
        b"not json",
        b"",
        b"[]",
        b"S",
        chunk(b"png"),
    ],
)
def test_first_message_must_be_a_hello(raw: bytes) -> None:
    """Nothing is answered before it."""
    assert machine(Phase.NEW).receive(raw, START) == [Close("bad_message")]


def test_other_versions_are_not_spoken() -> None:
    """The client has to change before it comes back."""
    assert machine(Phase.NEW).receive(b'{"type":"hello","v":2}', START) == [Close("unsupported_version")]


@pytest.mark.parametrize(
    "max_message,window,is_good",
    [(65535, 65535, True), (65535, 0, True), (65535, 65534, False), (10**9, 100_000, True), (10**9, 99_999, False)],
)
def test_window_holds_at_least_one_message(max_message: int, window: int, is_good: bool) -> None:
    """As large as the server would send one; or there is none."""
    hello = Hello(v=1, max_message=max_message, window=window)
    expected: Effect = CheckHello(hello) if is_good else Close("bad_message")
    assert machine(Phase.NEW, max_message=100_000).receive(encode(hello), START) == [expected]


@pytest.mark.parametrize(
    "authenticated,size,is_good",
    [(False, 32_768, True), (False, 32_769, False), (True, 65_536, True), (True, 65_537, False)],
)
def test_first_message_is_bounded_until_the_client_is_known(authenticated: bool, size: int, is_good: bool) -> None:
    """32 KiB, which is enough for a hello; afterwards what the server announces."""
    raw = encode(HELLO)
    session = machine(Phase.NEW, authenticated=authenticated)
    effects = session.receive(raw[:-1] + b" " * (size - len(raw)) + b"}", START)
    assert effects == [CheckHello(HELLO) if is_good else Close("message_too_big")]


def test_known_client_may_send_the_announced_size() -> None:
    """A hello with a token is the proof."""
    raw = encode(EMPTY_PING)
    padded = raw[:-1] + b" " * (60_000 - len(raw)) + b"}"
    assert told(machine().receive(padded, START)[0]) == {"type": "pong", "t": 7}


def test_second_hello_ends_the_connection() -> None:
    """A session is opened once a connection."""
    assert machine().receive(encode(HELLO), START) == [Close("bad_message")]


@pytest.mark.parametrize("raw", [encode(EMPTY_PING), b'{"type":"who"}', b'{"type":"cancel"}', chunk(b"a")])
def test_nothing_is_taken_while_the_hello_is_checked(raw: bytes) -> None:
    """Whoever drives the machine keeps messages back until then."""
    assert machine(Phase.OPENING).receive(raw, START) == [Close("bad_message")]


# Messages


@pytest.mark.parametrize(
    "message",
    [submit(), Cancel(job=JOB, ref="a"), Watch(job=JOB), Unwatch(job=JOB), Prefs(finals="inline"), Bye()],
    ids=lambda message: type(message).__name__,
)
def test_wishes_are_handed_on(message: Submit | Cancel | Watch | Unwatch | Prefs | Bye) -> None:
    """The machine knows no jobs."""
    assert machine().receive(encode(message), START) == [Perform(message)]


def test_ping_is_answered_with_its_own_time_and_ref() -> None:
    """At once."""
    assert [told(one) for one in machine().receive(encode(Ping(t=9, ref="p-1")), START)] == [
        {"type": "pong", "t": 9, "ref": "p-1"}
    ]


def test_ack_opens_the_window() -> None:
    """It is answered only where it has a `ref`."""
    session = machine()
    session.delivery.sent_bytes = 500
    assert session.receive(encode(Ack(bytes=400)), START) == [Pump()]
    assert session.delivery.acked_bytes == 400
    answer, pump = session.receive(encode(Ack(bytes=500, ref="a-1")), START)
    assert told(answer) == {"type": "ok", "ref": "a-1"}
    assert pump == Pump()


@pytest.mark.parametrize(
    "raw,refusal,ref",
    [
        (b'{"type":"sing","ref":"r-1"}', "unknown_type", "r-1"),
        (b'{"type":"sing"}', "unknown_type", None),
        (b'{"type":"cancel","ref":"r-1"}', "invalid_param", "r-1"),
        (b'{"type":"cancel","ref":7}', "invalid_param", None),
        (b'{"ref":"r-1"}', "bad_request", "r-1"),
        (b'{"type":"hello","ref":"r-1"}', "invalid_param", "r-1"),
        (b'{"type":"submit","ref":"r-1","task":"t","params":[]}', "invalid_param", "r-1"),
    ],
)
def test_refused_message_is_answered_and_the_connection_lives(raw: bytes, refusal: str, ref: str | None) -> None:
    """With its `ref`, where that can be read."""
    session = machine()
    (effect,) = session.receive(raw, START)
    assert (code(effect), told(effect).get("ref")) == (refusal, ref)
    assert session.phase is Phase.LIVE
    assert told(session.receive(encode(EMPTY_PING), START)[0])["type"] == "pong"


@pytest.mark.parametrize("raw", [b"{", b"", b"\x00" * 64, b"S", b"[1]", b'{"type":"ping"' + b"," * 9 + b"}"])
def test_message_that_is_none_ends_the_connection(raw: bytes) -> None:
    """Neither JSON nor one of ours in binary: the client is broken."""
    assert machine().receive(raw, START) == [Close("bad_message")]


def test_json_over_the_limit_ends_the_connection() -> None:
    """It is not read."""
    raw = b'{"type":"ping","x":"' + b"x" * 65_536 + b'"}'
    assert machine().receive(raw, START) == [Close("message_too_big")]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["ref", "job", "t", "bytes", "after", "v", "params", "task", "previews", "window", "have"])
TYPES = st.sampled_from(["hello", "submit", "cancel", "watch", "unwatch", "prefs", "ack", "ping", "bye", "x", 7, None])


@given(
    st.sampled_from([Phase.NEW, Phase.OPENING, Phase.LIVE, Phase.CLOSED]),
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=80).map(lambda tail: b"{" + tail),
        st.binary(max_size=80).map(lambda tail: chunk(b"abc", total=9)[:-3] + tail),
        st.text(max_size=40).map(lambda text: f'{{"type":"ping","ref":"{text}","t":1e400}}'.encode()),
        st.builds(
            lambda kind, fields: json.dumps({"type": kind} | fields).encode(),
            TYPES,
            st.dictionaries(FIELDS, JSON_VALUES, max_size=4),
        ),
    ),
)
def test_any_bytes_are_taken_refused_or_end_the_connection(phase: Phase, raw: bytes) -> None:
    """Nothing raises, `Close` is the last effect, and every answer is a small message that can be read."""
    session = machine(phase)
    effects = session.receive(raw, START)
    closes = [effect for effect in effects if isinstance(effect, Close)]
    assert closes == effects[len(effects) - len(closes) :]
    assert (session.phase is Phase.CLOSED) == (bool(closes) or phase is Phase.CLOSED)
    for effect in effects:
        if isinstance(effect, Send):
            assert len(effect.frame) <= MAX_SERVER_JSON
            assert told(effect)["type"] in ("error", "pong", "ok")


# The rate


def flood(session: ServerSession, count: int, now: float) -> list[Effect]:
    """Send messages at once; return what is done besides answering them."""
    effects = [effect for _ in range(count) for effect in session.receive(encode(EMPTY_PING), now)]
    return [effect for effect in effects if not isinstance(effect, Send)]


def test_reading_pauses_over_the_rate_until_the_client_has_credit_again() -> None:
    """Twice the rate at once is a burst; each message over it stops reading for its share of a second."""
    session = machine(msgs_per_s=10)
    assert flood(session, 20, START) == []
    assert flood(session, 1, START) == [PauseReading(START + 0.1)]
    assert flood(session, 1, START + 0.2) == []


def test_refused_messages_count_and_acks_do_not() -> None:
    """An ack is no work; a mistake is."""
    session = machine(msgs_per_s=1)
    for _ in range(50):
        assert session.receive(encode(Ack(bytes=0)), START) == [Pump()]
    assert len([session.receive(b'{"type":"x"}', START) for _ in range(2)]) == 2
    pause, refusal = session.receive(b'{"type":"x"}', START)
    assert pause == PauseReading(START + 1)
    assert code(refusal) == "unknown_type"


def test_pause_is_a_second_at_most() -> None:
    """So that the connection's end is seen in time."""
    session = machine(msgs_per_s=1)
    assert flood(session, 5, START)[-1] == PauseReading(START + 1.0)


def test_connection_ends_after_10_s_over_the_rate() -> None:
    """The client goes on as fast as it is read."""
    session = machine(msgs_per_s=10)
    flood(session, 21, START)
    now = START
    while now < START + 9.85:
        now += 0.1
        assert flood(session, 1, now)
    assert session.receive(encode(EMPTY_PING), START + 10) == [Close("rate_limited")]


def test_client_that_comes_back_to_the_rate_is_forgiven() -> None:
    """Ten seconds in a row are what counts."""
    session = machine(msgs_per_s=10)
    flood(session, 21, START)
    assert flood(session, 1, START + 5) == []
    assert flood(session, 60, START + 9)
    assert flood(session, 1, START + 11) != [Close("rate_limited")]
    assert session.phase is Phase.LIVE


# Uploads


def test_upload_is_stored_when_it_is_whole() -> None:
    """And its bytes count until a submit names it."""
    session = machine()
    assert session.receive(chunk(b"ab", total=3), START) == []
    assert session.receive(chunk(b"c", at=2, total=3), START) == [StoreUpload(Upload(UPLOAD, b"abc"))]
    assert "unreferenced=3" in repr(session)
    session.upload_referenced(UPLOAD)
    assert "unreferenced=0" in repr(session)


@pytest.mark.parametrize(
    "raw,refusal",
    [
        (chunk(b"a", at=1, total=2), "bad_chunk"),
        (chunk(b"", total=0), "bad_chunk"),
        (chunk(b"x" * 65), "payload_too_large"),
        (chunk(b"a", total=2**24 + 1), "payload_too_large"),
        (chunk(b"a", kind=Kind.FINAL), "bad_request"),
    ],
)
def test_bad_chunk_is_answered_and_the_connection_lives(raw: bytes, refusal: str) -> None:
    """With the upload's name."""
    session = machine(max_chunk=64)
    (effect,) = session.receive(raw, START)
    assert (code(effect), told(effect)["upload"]) == (refusal, UPLOAD)
    assert session.phase is Phase.LIVE


def test_chunk_beyond_its_total_ends_the_connection() -> None:
    """Such a header contradicts itself."""
    raw = bytearray(chunk(b"abc"))
    raw[16] = 2
    assert machine().receive(bytes(raw), START) == [Close("bad_message")]


def test_upload_that_stops_is_dropped_and_told_once() -> None:
    """After 30 s without a chunk."""
    session = machine()
    session.receive(chunk(b"a", total=9), START)
    run_until(session, START + 29.9)
    session.sent(START + 29.9)
    (effect,) = session.timeout(START + 30, 1)
    assert (code(effect), told(effect)["upload"]) == ("bad_chunk", UPLOAD)
    assert session.receive(chunk(b"b", at=1, total=9), START + 31) == []


# Time


def run_until(session: ServerSession, end: float) -> list[tuple[float, Effect]]:
    """Let time pass for a client that lives but says nothing; return what was done when."""
    done: list[tuple[float, Effect]] = []
    while (at := session.deadline()) <= end:
        session.byte_received(at)
        done += [(at - START, effect) for effect in session.timeout(at, 5)]
    session.byte_received(end)
    return done


def test_hello_must_come_within_10_s() -> None:
    """Bytes alone are not enough."""
    session = machine(Phase.NEW)
    session.byte_received(START + 9)
    assert session.deadline() == START + 10
    assert session.timeout(START + 9.99, 1) == []
    assert session.timeout(START + 10, 1) == [Close("hello_timeout")]


def test_heartbeat_comes_only_when_nothing_else_went_out() -> None:
    """Each 15 s of silence of ours."""
    session = machine()
    session.sent(START + 4)
    assert session.timeout(START + 18.9, 1) == []
    (effect,) = session.timeout(START + 19, 77)
    assert told(effect) == {"type": "ping", "time_ms": 77}
    assert session.timeout(START + 19, 77) == []
    session.sent(START + 20)
    assert session.timeout(START + 34.5, 1) == [Send(PING)]


def test_websocket_ping_goes_out_every_20_s_also_before_hello() -> None:
    """A client answers it without knowing, so that a live one is never silent."""
    pings = [at for at, effect in run_until(machine(), START + 100) if effect == Send(PING)]
    assert pings == [20, 40, 60, 80, 100]
    slow = Timing(hello=60)
    session = ServerSession(Limits(), slow, START, authenticated=True)
    assert session.timeout(START + 20, 1) == [Send(PING)]


def test_idle_connection_beats_every_15_s() -> None:
    """And does nothing else but ping."""
    beats = [at for at, effect in run_until(machine(), START + 60) if effect != Send(PING)]
    assert beats == [15, 30, 45, 60]


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.LIVE])
def test_silence_of_40_s_ends_the_connection(phase: Phase) -> None:
    """Any byte is life, no matter what it belongs to."""
    session = machine(phase)
    session.timeout(START + 20, 1)
    session.byte_received(START + 30)
    session.timeout(START + 69.9, 1)
    assert session.phase is phase
    assert session.timeout(START + 70, 1) == [Close("heartbeat_timeout")]


def test_credential_that_ends_is_told_30_s_ahead() -> None:
    """Once; then the connection closes so that the client comes back with a new one."""
    session = machine(Phase.OPENING)
    session.opened(HELLO, START + 33)
    assert session.deadline() == START + 3
    (effect,) = session.timeout(START + 3, 1)
    assert told(effect) == {"type": "goaway", "reason": "auth_expired", "retry_after_ms": 0}
    session.byte_received(START + 32)
    session.timeout(START + 32.9, 1)
    assert session.timeout(START + 33, 1) == [Close("auth_expired")]


def test_credential_that_is_almost_over_is_told_at_once() -> None:
    """The deadline lies in the past."""
    session = machine(Phase.OPENING)
    session.opened(HELLO, START + 10)
    assert session.deadline() == START - 20
    assert told(session.timeout(START, 1)[0])["reason"] == "auth_expired"
    assert session.deadline() == START + 10


def test_number_that_waits_30_s_ends_the_connection() -> None:
    """From the moment that it could not go out; a chunk or an event that goes begins the time anew."""
    session = machine()
    session.delivery.watch(JOB, 0, owner=True)
    tail = Tail(JOB, Unsigned())
    tail.append([accepted(), started()])
    session.delivery.held_up({JOB: tail}, START + 1)
    session.byte_received(START + 20)
    session.timeout(START + 30.9, 1)
    assert session.phase is Phase.LIVE
    assert session.timeout(START + 31, 1) == [Close("slow_consumer")]


def test_cap_that_is_over_makes_one_pump() -> None:
    """Also when the socket is full then: the timer does not spin."""
    session = machine(hello=Hello(v=1, previews=Previews(progress_max_hz=2)))
    session.delivery.watch(JOB, 0, owner=True)
    tail = Tail(JOB, Unsigned())
    tail.append([accepted(), started()])
    for step in (1, 2):
        tail.set_progress(progress(step))
        session.delivery.mark(JOB)
        list(session.delivery.pump({JOB: tail}, {}, START, 1))
    assert session.deadline() == START + 0.5
    assert session.timeout(START + 0.5, 1) == [Pump()]
    assert session.deadline() == START + 15


@dataclass
class Life:
    """A live machine, one job's tail, and a clock: what a connection may go through."""

    session: ServerSession = field(
        default_factory=lambda: machine(hello=Hello(v=1, previews=Previews(progress_max_hz=1)), msgs_per_s=1)
    )
    tail: Tail = field(default_factory=lambda: Tail(JOB, Unsigned()))
    now: float = START

    def act(self, action: str, seconds: float) -> None:
        self.now += seconds
        delivery = self.session.delivery
        match action:
            case "byte":
                self.session.byte_received(self.now)
            case "sent":
                self.session.sent(self.now)
            case "ping":
                self.session.receive(encode(EMPTY_PING), self.now)
            case "chunk":
                self.session.receive(chunk(b"a", total=9), self.now)
            case "append":
                self.tail.append([accepted() if self.tail.head == 0 else notice(self.tail.head + 1)])
            case "step":
                self.tail.set_progress(progress(1))
        delivery.watch(JOB, 0, owner=True) if JOB not in delivery.cursors else delivery.mark(JOB)
        if action == "pump":
            list(delivery.pump({JOB: self.tail}, {}, self.now, 1))
        delivery.held_up({JOB: self.tail}, self.now)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["byte", "sent", "ping", "chunk", "append", "step", "pump"]),
            st.sampled_from([0.0, 0.25, 1.0, 3.0, 9.0]),
        ),
        max_size=25,
    ),
    st.sampled_from([inf, START + 20, START + 60]),
)
def test_deadline_is_the_first_instant_at_which_something_is_due(
    actions: list[tuple[str, float]], auth_ends: float
) -> None:
    """Nothing is done before it, something at it, and afterwards it lies ahead."""
    life = Life()
    life.session._auth_ends = auth_ends
    for action, seconds in actions:
        life.act(action, seconds)
    session = life.session
    effects: list[Effect] = []
    while session.phase is not Phase.CLOSED:
        at = session.deadline()
        assert session.timeout(nextafter(at, -inf), 1) == []
        assert session.deadline() == at
        effects = session.timeout(at, 1)
        assert effects
        assert session.deadline() > at
    assert isinstance(effects[-1], Close)
    assert effects[-1].name in CLOSES


def test_connection_is_told_before_its_greatest_age_and_then_closed() -> None:
    """A client that is sent away for its age resumes on a fresh connection."""
    session = ServerSession(Limits(), Timing(max_age=100.0), START, authenticated=True)
    session.receive(encode(Hello(v=1)), START)
    session.opened(Hello(v=1))
    session.byte_received(START + 69)
    session.sent(START + 69)
    goaway = [told(effect) for effect in session.timeout(START + 70, 1) if effect != Send(PING)]
    assert goaway == [{"type": "goaway", "reason": "max_age", "retry_after_ms": 0}]
    session.byte_received(START + 99)
    assert session.timeout(START + 100, 1) == [Close("max_age")]
