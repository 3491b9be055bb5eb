"""What each dialect says where something goes wrong: literal tables, one a dialect, of the same situations.

A new dialect is a table, and a row of `DIALECTS` and of `MANNERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.answers import Answer

Said = tuple[int, str]
"""Status, and the dialect's name of what is wrong."""
DOCUMENTED: Final = (401, 402, 403, 404, 413, 422, 429, 500)

_STABILITY: Final[dict[str, Said]] = {
    "no credential": (401, "unauthorized"),
    "an unknown key": (401, "unauthorized"),
    "a token past its time": (401, "unauthorized"),
    "a token without the scope": (403, "permission_denied"),
    "a page of another origin": (403, "permission_denied"),
    "another host": (403, "permission_denied"),
    "no such path": (404, "not_found"),
    "another method": (405, "method_not_allowed"),
    "no JSON": (400, "bad_request"),
    "a long prompt": (400, "bad_request"),
    "a key of another body": (422, "idempotency_conflict"),
    "a large body": (413, "payload_too_large"),
    "large words": (413, "payload_too_large"),
    "a damaged picture": (400, "bad_request"),
    "too often": (429, "rate_limit_exceeded"),
    "too many at once": (429, "rate_limit_exceeded"),
    "a full queue": (503, "service_unavailable"),
    "a ledger that cannot follow": (503, "service_unavailable"),
    "a server that stops": (503, "service_unavailable"),
    "a vendor out of service": (503, "service_unavailable"),
    "an end by somebody else": (409, "canceled"),
}
STABILITY_V1: Final = _STABILITY | {
    "no such model": (404, "not_found"),
    "no such job": (404, "not_found"),
    "a wrong field": (400, "invalid_samples"),
    "a size that is not drawn": (400, "invalid_height_or_width"),
    "a large picture": (400, "invalid_file_size"),
    "no picture": (400, "invalid_mime_type"),
    "an empty budget": (402, "insufficient_balance"),
    "a price over the credential's": (402, "insufficient_balance"),
    "our own failure": (500, "server_error"),
    "a refused prompt": (400, "invalid_prompts"),
    "a vendor that failed": (500, "server_error"),
    "no memory": (500, "server_error"),
    "an unusable picture": (500, "server_error"),
    "a lost answer": (500, "server_error"),
    "a dead worker": (500, "server_error"),
    "a LoRA of another model": (422, "bad_request"),
}
STABILITY_V2BETA: Final = _STABILITY | {
    "no such job": (404, "generation_not_found"),
    "a wrong field": (400, "bad_request"),
    "a large picture": (413, "payload_too_large"),
    "no picture": (400, "bad_request"),
    "an empty budget": (402, "payment_required"),
    "a price over the credential's": (402, "payment_required"),
    "our own failure": (500, "internal_error"),
    "a refused prompt": (403, "content_moderation"),
    "a vendor that failed": (500, "internal_error"),
    "no memory": (500, "internal_error"),
    "an unusable picture": (500, "internal_error"),
    "a lost answer": (500, "internal_error"),
    "a dead worker": (500, "internal_error"),
    "a LoRA of another model": (400, "bad_request"),
}
OPENAI_IMAGES: Final[dict[str, Said]] = {
    "no credential": (401, "None"),
    "an unknown key": (401, "invalid_api_key"),
    "a token past its time": (401, "invalid_api_key"),
    "a token without the scope": (403, "permission_denied"),
    "a page of another origin": (403, "permission_denied"),
    "another host": (403, "permission_denied"),
    "no such path": (404, "unknown_url"),
    "no such model": (404, "model_not_found"),
    "no such job": (404, "not_found"),
    "another method": (405, "method_not_supported"),
    "no JSON": (400, "None"),
    "a wrong field": (400, "integer_below_min_value"),
    "a long prompt": (400, "string_above_max_length"),
    "a size that is not drawn": (400, "invalid_value"),
    "a key of another body": (409, "idempotency_conflict"),
    "a large body": (413, "request_too_large"),
    "large words": (413, "request_too_large"),
    "a large picture": (400, "image_too_large"),
    "no picture": (400, "unsupported_file_mimetype"),
    "a damaged picture": (400, "invalid_image_format"),
    "too often": (429, "rate_limit_exceeded"),
    "too many at once": (429, "rate_limit_exceeded"),
    "an empty budget": (429, "insufficient_quota"),
    "a price over the credential's": (400, "billing_hard_limit_reached"),
    "a full queue": (503, "slow_down"),
    "a ledger that cannot follow": (503, "slow_down"),
    "a server that stops": (503, "slow_down"),
    "our own failure": (500, "server_error"),
    "a refused prompt": (400, "moderation_blocked"),
    "a vendor that failed": (500, "server_error"),
    "a vendor out of service": (503, "server_error"),
    "no memory": (500, "server_error"),
    "an unusable picture": (500, "server_error"),
    "a lost answer": (500, "server_error"),
    "a dead worker": (500, "server_error"),
    "a LoRA of another model": (400, "invalid_value"),
    "an end by somebody else": (409, "canceled"),
}
A1111: Final[dict[str, Said]] = {
    "no credential": (401, ""),
    "an unknown key": (401, ""),
    "a token past its time": (401, ""),
    "a token without the scope": (403, ""),
    "a page of another origin": (403, ""),
    "another host": (403, ""),
    "no such path": (404, ""),
    "no such model": (404, ""),
    "no such job": (404, ""),
    "another method": (405, ""),
    "no JSON": (422, "json_invalid"),
    "a wrong field": (422, "int_type"),
    "a long prompt": (422, "string_too_long"),
    "a size that is not drawn": (422, "value_error"),
    "a key of another body": (409, ""),
    "a large body": (413, ""),
    "large words": (413, ""),
    "a large picture": (413, ""),
    "no picture": (422, ""),
    "a damaged picture": (422, ""),
    "too often": (429, ""),
    "too many at once": (429, ""),
    "an empty budget": (402, ""),
    "a price over the credential's": (402, ""),
    "a full queue": (503, "HTTPException"),
    "a ledger that cannot follow": (503, "HTTPException"),
    "a server that stops": (503, "HTTPException"),
    "our own failure": (500, "RuntimeError"),
    "a refused prompt": (422, ""),
    "a vendor that failed": (500, "RuntimeError"),
    "a vendor out of service": (503, "HTTPException"),
    "no memory": (500, "OutOfMemoryError"),
    "an unusable picture": (500, "RuntimeError"),
    "a lost answer": (500, "RuntimeError"),
    "a dead worker": (500, "RuntimeError"),
    "a LoRA of another model": (422, ""),
    "an end by somebody else": (500, "InterruptedError"),
}
"""Below 500 a name is the type of a field's entry, or empty where `detail` is a sentence."""
SAID: Final = {
    "stability_v1": STABILITY_V1,
    "stability_v2beta": STABILITY_V2BETA,
    "openai_images": OPENAI_IMAGES,
    "a1111": A1111,
}
UNSAID: Final = {
    ("stability_v2beta", "no such model"): "its forms name models of a list, and services, which all mean something",
    ("stability_v2beta", "a size that is not drawn"): "its forms name shapes",
}
"""Situations that nobody can bring about in a dialect, and why not."""
INSTEAD: Final[dict[tuple[str, int], tuple[str, int]]] = {
    ("openai_images", 402): ("an empty budget", 429),
    ("openai_images", 422): ("a wrong field", 400),
}
"""A status that a dialect does not know: a situation that has it elsewhere, and the status there."""

# ------------------------------------------------------------------------------------------------------------- shapes

_TYPES: Final = {
    "rate_limit_exceeded": "requests",
    "insufficient_quota": "insufficient_quota",
    "billing_hard_limit_reached": "billing_limit_user_error",
    "slow_down": "rate_limit_error",
    "server_error": "server_error",
    "moderation_blocked": "image_generation_user_error",
}


def of_stability_v1(answer: Answer) -> Said:
    """`{"id", "name", "message"}`, all of them texts that say something."""
    assert answer.json.keys() == {"id", "name", "message"}, answer.json
    assert all(isinstance(value, str) and value for value in answer.json.values())
    return answer.status, answer.json["name"]


def of_stability_v2beta(answer: Answer) -> Said:
    """`{"id", "name", "errors"}`, the last a list of texts."""
    assert answer.json.keys() == {"id", "name", "errors"}, answer.json
    assert answer.json["errors"]
    texts = [answer.json["id"], answer.json["name"], *answer.json["errors"]]
    assert all(isinstance(value, str) and value for value in texts), answer.json
    return answer.status, answer.json["name"]


def of_openai_images(answer: Answer) -> Said:
    """`{"error": {"message", "type", "param", "code"}}`, of which the last two may be null."""
    assert answer.json.keys() == {"error"}, answer.json
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["type"] == _TYPES.get(error["code"], "invalid_request_error"), error
    assert all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
    return answer.status, str(error["code"])


def of_a1111(answer: Answer) -> Said:
    """`{"detail"}` with a sentence or a list of entries; from 500 on what an exception comes to."""
    if answer.status >= 500:
        assert answer.json.keys() == {"error", "detail", "body", "errors"}, answer.json
        assert all(isinstance(value, str) for value in answer.json.values())
        return answer.status, answer.json["error"]
    assert answer.json.keys() == {"detail"}, answer.json
    detail = answer.json["detail"]
    if isinstance(detail, str):
        assert detail
        return answer.status, ""
    [entry] = detail
    assert {"type", "loc", "msg"} <= entry.keys()
    assert entry["loc"][0] == "body"
    return answer.status, entry["type"]


@dataclass(frozen=True, slots=True)
class Manners:
    """What else is a dialect's own about its refusals."""

    read: Callable[[Answer], Said]
    """Returns what an answer says, which has the one shape."""
    challenge: str
    lost: str
    """A path that begins as the dialect's do, and leads nowhere."""
    job: str
    wrong: Mapping[str, Any] = field(default_factory=lambda: {"n": 0})
    """A param that the dialect has a word for, with a value that it refuses."""


MANNERS: Final = {
    "stability_v1": Manners(of_stability_v1, "Bearer", "/v1/engines/unheard-of", "/v1/generation/{}/status"),
    "stability_v2beta": Manners(
        of_stability_v2beta, "Bearer", "/v2beta/image-to-video", "/v2beta/results/{}", {"seed": -1}
    ),
    "openai_images": Manners(of_openai_images, "Bearer", "/v1/images/variations", "/v1/images/generations/{}"),
    "a1111": Manners(of_a1111, "Basic", "/sdapi/v1/unheard-of", "/sdapi/v1/jobs/{}"),
}
