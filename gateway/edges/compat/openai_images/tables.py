"""OpenAI's Images API as data: its words for our errors and our params.

Statuses, types and codes are those that the vendor's documents and its Python client have; where neither has one, they
are what servers that speak the dialect answer. The vendor says 429 of an empty account, where others say 402.
"""

from typing import Final

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
ERRORS: Final[dict[str, tuple[int, str, str | None]]] = {
    "bad_request": (400, _INVALID, None),
    "unknown_type": (400, _INVALID, None),
    "unsupported_version": (400, _INVALID, None),
    "invalid_param": (400, _INVALID, "invalid_value"),  # or what `SENTENCES` says
    "prompt_too_long": (400, _INVALID, "string_above_max_length"),
    "resolution_not_supported": (400, _INVALID, "invalid_value"),
    "payload_too_large": (413, _INVALID, "request_too_large"),  # of a picture it is 400 `image_too_large`
    "unsupported_media": (400, _INVALID, "unsupported_file_mimetype"),
    "image_decode_failed": (400, _INVALID, "invalid_image_format"),
    "bad_chunk": (400, _INVALID, None),
    "unauthorized": (401, _INVALID, "invalid_api_key"),  # null where there is no key at all
    "token_expired": (401, _INVALID, "invalid_api_key"),
    "forbidden": (403, _INVALID, "permission_denied"),
    "job_not_found": (404, _INVALID, "not_found"),
    "asset_not_found": (404, _INVALID, "not_found"),
    "idempotency_conflict": (409, _INVALID, "idempotency_conflict"),
    "expired": (410, _INVALID, "expired"),
    "not_found": (404, _INVALID, "unknown_url"),
    "method_not_allowed": (405, _INVALID, "method_not_supported"),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "concurrency_limit": (429, "requests", "rate_limit_exceeded"),
    "queue_full": (503, "rate_limit_error", "slow_down"),
    "overloaded": (503, "rate_limit_error", "slow_down"),
    "quota_exceeded": (429, "insufficient_quota", "insufficient_quota"),
    "insufficient_credits": (429, "insufficient_quota", "insufficient_quota"),
    "max_cost_exceeded": (400, "billing_limit_user_error", "billing_hard_limit_reached"),
    "model_not_found": (404, _INVALID, "model_not_found"),
    "model_unavailable": (503, _SERVER, "server_error"),
    "adapter_not_found": (400, _INVALID, "invalid_value"),
    "adapter_incompatible": (400, _INVALID, "invalid_value"),
    "sampler_not_supported": (400, _INVALID, "invalid_value"),
    "task_not_supported": (400, _INVALID, "invalid_value"),
    "out_of_memory": (500, _SERVER, "server_error"),
    "worker_lost": (500, _SERVER, "server_error"),
    "outcome_unknown": (500, _SERVER, "server_error"),
    "deadline_exceeded": (504, _SERVER, "server_error"),
    "invalid_output": (500, _SERVER, "server_error"),
    "content_filtered": (400, "image_generation_user_error", "moderation_blocked"),  # of dall-e `content_policy_...`
    "upstream_error": (500, _SERVER, "server_error"),
    "internal": (500, _SERVER, "server_error"),
    "canceled": (409, _INVALID, "canceled"),
    "wait_over": (408, _SERVER, "timeout"),
}
"""Our code -> status, `type` and `code`."""

SENTENCES: Final = (
    ("missing required field", "missing_required_parameter"),
    ("unknown field", "unknown_parameter"),
    ("array of length <=", "array_above_max_length"),
    ("array of length >=", "empty_array"),
    ("of length <=", "string_above_max_length"),
    ("of length >=", "string_below_min_length"),
    ("Expected int <=", "integer_above_max_value"),
    ("Expected int >=", "integer_below_min_value"),
    ("Expected", "invalid_type"),
)
"""What stands in the sentence about a wrong field -> the vendor's code for it; the first that fits."""

FIELDS: Final = {
    "width": "size",
    "height": "size",
    "steps": "quality",
    "strength": "input_fidelity",
    "task": "model",
    "inputs": "image",
}
"""Our names for what is wrong -> the vendor's, where they differ."""

QUALITIES: Final = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.0}
"""A quality -> how many of the model's usual steps it takes; `medium`, `standard` and `auto` are the usual ones."""

FIDELITIES: Final = {"high": 0.35, "low": 0.75}
"""How true a picture stays to the one that it is made of -> `strength`, where 1 ignores that."""

TASKS: Final = {(False, False): ("img2img", "reference"), (False, True): ("inpaint", "reference")}
"""(Several pictures, a mask) -> what an edit may be, the first that a model can do; several are always references."""

MODELS_WITH_URLS: Final = "dall-e-"
"""How the names begin of the models that answered with addresses unless they were asked for base64."""
ALPHA_IS_MASK: Final = "dall-e-2"
"""The model for which the picture's own transparency is the mask where none is sent."""

MAX_IMAGES: Final = 16
"""Pictures in one edit."""
