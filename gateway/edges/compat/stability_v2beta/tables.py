"""Stability AI's v2beta as data: its words for our errors, our params and our models.

Statuses and names are those of the published specification and of live answers where these have them; where they have
none they are v1's. Neither knows 402's neighbours 405, 408, 409, 503 and 504, nor a 422 about a key.
"""

from typing import Final

_BAD: Final = (400, "bad_request")
_ERROR: Final = (500, "internal_error")
ERRORS: Final[dict[str, tuple[int, str]]] = {
    "bad_request": _BAD,
    "unknown_type": _BAD,
    "unsupported_version": _BAD,
    "invalid_param": _BAD,
    "prompt_too_long": _BAD,
    "resolution_not_supported": _BAD,
    "payload_too_large": (413, "payload_too_large"),  # of a picture's edges it is `bad_request`
    "unsupported_media": _BAD,
    "image_decode_failed": _BAD,
    "bad_chunk": _BAD,
    "unauthorized": (401, "unauthorized"),
    "token_expired": (401, "unauthorized"),
    "forbidden": (403, "permission_denied"),
    "job_not_found": (404, "generation_not_found"),
    "asset_not_found": (404, "not_found"),
    "idempotency_conflict": (422, "idempotency_conflict"),  # 422 as in the IETF's draft of the header
    "expired": (404, "generation_not_found"),  # the vendor does not tell what it forgot from what it never knew
    "not_found": (404, "not_found"),
    "method_not_allowed": (405, "method_not_allowed"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "concurrency_limit": (429, "rate_limit_exceeded"),
    "queue_full": (503, "service_unavailable"),
    "overloaded": (503, "service_unavailable"),
    "quota_exceeded": (429, "quota_exceeded"),
    "insufficient_credits": (402, "payment_required"),
    "max_cost_exceeded": (402, "payment_required"),
    "model_not_found": (404, "not_found"),
    "model_unavailable": (503, "service_unavailable"),
    "adapter_not_found": (404, "not_found"),
    "adapter_incompatible": _BAD,
    "sampler_not_supported": _BAD,
    "task_not_supported": (404, "not_found"),
    "out_of_memory": _ERROR,
    "worker_lost": _ERROR,
    "outcome_unknown": _ERROR,
    "deadline_exceeded": (504, "deadline_exceeded"),
    "invalid_output": _ERROR,
    "content_filtered": (403, "content_moderation"),
    "upstream_error": _ERROR,
    "internal": _ERROR,
    "canceled": (409, "canceled"),
    "wait_over": (408, "request_timeout"),
}
"""Our code -> status and `name`."""

FIELDS: Final = {
    "guidance": "cfg_scale",
    "prompts": "prompt",
    "style": "style_preset",
    "search": "search_prompt",
    "expand": "left, right, up, down",
    "width": "aspect_ratio",
    "height": "aspect_ratio",
    "scale": "image",
    "inputs": "image",
}
"""Our names for what is wrong -> the vendor's, where they differ."""

RATIOS: Final = {
    "21:9": 21 / 9,
    "16:9": 16 / 9,
    "3:2": 3 / 2,
    "5:4": 5 / 4,
    "1:1": 1.0,
    "4:5": 4 / 5,
    "2:3": 2 / 3,
    "9:16": 9 / 16,
    "9:21": 9 / 21,
}
"""`aspect_ratio` -> how many times the height the width is."""

SUCCESSORS: Final = {
    "sd3-large": "sd3.5-large",
    "sd3-large-turbo": "sd3.5-large-turbo",
    "sd3-medium": "sd3.5-medium",
}
"""Models of `generate/sd3` that the vendor serves by others since 2025."""

CORE: Final = "stable-image-core"
ULTRA: Final = "stable-image-ultra"
SERVICES: Final = "stable-image"
"""The model that all services but `generate/` are, as the gateway's own adapter of the vendor names it."""
SD3: Final = "sd3.5-large"
"""What `generate/sd3` takes if nobody says."""

HINTS: Final = frozenset({"guidance", "negative_prompt", "style"})
"""What is left out where a model has no use for it."""
OF_UPSCALES: Final = HINTS | {"prompt", "seed"}
"""As `HINTS`, of upscales: most models enlarge what there is, and need neither words nor chance."""

UNKNOWN: Final = {
    "edit/erase": "nothing here erases: edit/inpaint takes words for what shall be there instead",
    "edit/search-and-recolor": "nothing here changes colours: edit/search-and-replace puts another thing in its place",
    "edit/replace-background-and-relight": "nothing here lights a picture anew",
}
"""The vendor's services that no kind of work here does, and what is said of them."""
