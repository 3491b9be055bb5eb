"""How `safelight generate` ends: its exit statuses, and what a person is told where it did not end well."""

from gateway.cli.basics import CANCELED, FAILED, REFUSED
from gateway.cli.job import Course
from protocol.errors import ERRORS
from protocol.messages import Canceled, Completed, ErrorBody, Failed, Snapshot
from protocol.refusals import Closed


class Trouble(Exception):
    """The command ends with this status; the text says what is wrong, and what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def why_refused(error: ErrorBody, origin: str) -> tuple[int, str]:
    """Return the status and the sentence for a refusal; `origin` is where the key was found."""
    if error.code in {"unauthorized", "token_expired"}:
        return REFUSED, wrong_key(origin)
    status = FAILED if error.code in ERRORS and ERRORS[error.code].group == "run" else REFUSED
    return status, f"refused ({_reason(error)}"


def why_lost(course: Course) -> str:
    """Say in brackets how the connection was lost, if that says anything."""
    reason = "" if course.offline is None else course.offline.reason
    # That nobody listens there has been said already.
    return "" if not reason or reason.startswith("ConnectionRefusedError") else f" ({reason})"


def why_closed(closed: Closed, origin: str) -> tuple[int, str]:
    """Return the status and the sentence for a session that ended; `origin` as in `why_refused`."""
    return (REFUSED, wrong_key(origin)) if closed.code == 4502 else (FAILED, f"the session ended: {closed}")


def wrong_key(origin: str) -> str:
    """Say what to do about a key that is not accepted; `origin` is where it was found."""
    return (
        f"the gateway does not accept the key from {origin}; set SAFELIGHT_API_KEY to a key of this "
        "gateway, or name its data folder with --data"
    )


def _reason(error: ErrorBody) -> str:
    """Say what was wrong where, and what is allowed, or what the registry advises."""
    details = error.details if isinstance(error.details, dict) else {}
    where = f" at {details['path']}" if "path" in details else ""
    facts = [f"{name.replace('_', ' ')}: {_listed(one)}" for name, one in details.items() if name != "path"]
    if not facts and error.code in ERRORS:
        facts = [ERRORS[error.code].advice]
    return "; ".join([f"{error.code}{where}): {error.message.rstrip('.')}", *facts])


def _listed(fact: object) -> str:
    return ", ".join(str(one) for one in fact) if isinstance(fact, list) else str(fact)


def check_end(course: Course) -> None:
    """Raise `Trouble` unless the job ended well and nobody wanted it canceled."""
    end = course.end
    steps = f" at step {course.step} of {course.steps}" if course.steps else ""
    match end:
        case Failed():
            raise Trouble(FAILED, f"failed ({_reason(end.error)}; {course.cost_text()}")
        case Canceled():
            raise Trouble(CANCELED, f"canceled by {end.by}{steps}; {course.cost_text()}")
        case Snapshot(state="failed", error=ErrorBody() as error):
            raise Trouble(FAILED, f"failed ({_reason(error)}")
        case Snapshot(state="canceled"):
            raise Trouble(CANCELED, "canceled")
        case Completed() | Snapshot(state="completed"):
            pass
        case _:
            raise Trouble(FAILED, "the job's end could not be read; use a client of the gateway's version")
    if course.is_canceled:
        raise Trouble(CANCELED, "the job was done before it could be canceled")
    if not course.pictures:
        raise Trouble(FAILED, "no picture came: each was filtered; change the prompt")
