"""Ways a request fails, and the forms in which each flavour tells of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from load.upstreams.faults import Refuse

Flavour = Literal["forge", "a1111", "sdnext"]
Json = dict[str, object]


class Refused(Exception):
    """A handler refuses the request with a status and one sentence."""

    def __init__(self, status: int, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Unrouted(Refused):
    """No route fits; the framework itself answers, in its own form whatever the flavour."""


class Raised(Exception):
    """Something inside the work raised; the exception's class and text are all that is told."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error
        self.message = message


@dataclass(slots=True)
class Problem:
    """One thing wrong with a body's shape."""

    kind: str
    place: tuple[str | int, ...]
    message: str
    given: object = None
    context: Json = field(default_factory=dict)


class Invalid(Exception):
    """The body's shape is wrong: 422 with a list."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


def told(error: Exception, flavour: Flavour) -> tuple[int, Json]:
    """The status and the body in which this flavour reports the error."""
    match error:
        case Invalid():
            return 422, {"detail": [_problem(problem, flavour) for problem in error.problems]}
        case Unrouted():
            return error.status, {"detail": error.detail}
        case Refused():
            return error.status, _refused(error, flavour)
        case Raised():
            return 500, _raised(error, flavour)
    raise error


def scripted(fault: Refuse) -> Refused | Raised:
    """The error a script asks for; an exception's class as its name makes it one from inside the work."""
    message = fault.message or "scripted by the stand-in"
    if fault.status == 500:
        return Raised(fault.name or "RuntimeError", message)
    wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
    return Refused(fault.status, message, *wait)


def _refused(error: Refused, flavour: Flavour) -> Json:
    if flavour == "forge":
        return {"detail": error.detail}
    told_as: Json = {"error": "HTTPException", "detail": error.detail, "body": "", "errors": ""}
    return told_as if flavour == "a1111" else _with_code(told_as, error.status, f"{error.status}: {error.detail}")


def _raised(error: Raised, flavour: Flavour) -> Json:
    told_as: Json = {"error": error.error, "detail": "", "body": ""}
    if flavour == "forge":
        return told_as | {"message": error.message}
    return told_as | {"errors": error.message} if flavour == "a1111" else _with_code(told_as, 500, error.message)


def _with_code(told_as: Json, code: int, errors: str) -> Json:
    return {
        "error": told_as["error"],
        "code": code,
        "detail": told_as["detail"],
        "body": told_as["body"],
        "errors": errors,
    }


# The older of the two validation libraries has names of its own.
_OLD = {
    "missing": ("value_error.missing", "field required"),
    "int_parsing": ("type_error.integer", "value is not a valid integer"),
    "int_type": ("type_error.integer", "value is not a valid integer"),
    "int_from_float": ("type_error.integer", "value is not a valid integer"),
    "float_parsing": ("type_error.float", "value is not a valid float"),
    "float_type": ("type_error.float", "value is not a valid float"),
    "bool_parsing": ("value_error.boolean", "value could not be parsed to a boolean"),
    "bool_type": ("value_error.boolean", "value could not be parsed to a boolean"),
    "string_type": ("type_error.str", "str type expected"),
    "list_type": ("type_error.list", "value is not a valid list"),
    "dict_type": ("type_error.dict", "value is not a valid dict"),
    "model_attributes_type": ("type_error.dict", "value is not a valid dict"),
}


def _problem(problem: Problem, flavour: Flavour) -> Json:
    if flavour != "forge":
        return _old_problem(problem)
    told_as: Json = {
        "type": problem.kind,
        "loc": list(problem.place),
        "msg": problem.message,
        "input": problem.given,
    }
    if problem.context:
        return told_as | {"ctx": problem.context}
    return told_as | {"url": f"https://errors.pydantic.dev/2.8/v/{problem.kind}"}


def _old_problem(problem: Problem) -> Json:
    if problem.kind == "json_invalid":
        message = str(problem.context.get("error"))
        return {"loc": list(problem.place), "msg": message, "type": "value_error.jsondecode", "ctx": {"msg": message}}
    kind, message = _OLD[problem.kind]
    return {"loc": list(problem.place), "msg": message, "type": kind}
