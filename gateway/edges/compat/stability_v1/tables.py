"""Stability AI's REST v1 as data: its words for our errors, our samplers and our params.

Statuses and names are those of the published specification where it has them; where it has none they are marked. The
specification knows no 402, 408, 413, 422, 429 and 503.
"""

from typing import Final

ERRORS: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (400, "bad_request"),
    "unknown_type": (400, "bad_request"),
    "unsupported_version": (400, "bad_request"),
    "invalid_param": (400, "bad_request"),  # or the name of `NAMED`
    "prompt_too_long": (400, "bad_request"),
    "resolution_not_supported": (400, "invalid_height_or_width"),
    "payload_too_large": (413, "payload_too_large"),  # of a picture it is `invalid_file_size`
    "unsupported_media": (400, "invalid_mime_type"),
    "image_decode_failed": (400, "bad_request"),
    "bad_chunk": (400, "bad_request"),
    "unauthorized": (401, "unauthorized"),
    "token_expired": (401, "unauthorized"),
    "forbidden": (403, "permission_denied"),
    "job_not_found": (404, "not_found"),
    "asset_not_found": (404, "not_found"),
    "idempotency_conflict": (422, "idempotency_conflict"),  # 422 as in the IETF's draft of the header
    "expired": (410, "expired"),
    "not_found": (404, "not_found"),
    "method_not_allowed": (405, "method_not_allowed"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "concurrency_limit": (429, "rate_limit_exceeded"),
    "queue_full": (503, "service_unavailable"),
    "overloaded": (503, "service_unavailable"),
    "quota_exceeded": (429, "quota_exceeded"),
    "insufficient_credits": (402, "insufficient_balance"),
    "max_cost_exceeded": (402, "insufficient_balance"),
    "model_not_found": (404, "not_found"),
    "model_unavailable": (503, "service_unavailable"),
    "adapter_not_found": (404, "not_found"),
    "adapter_incompatible": (422, "bad_request"),
    "sampler_not_supported": (400, "bad_request"),
    "task_not_supported": (404, "not_found"),
    "out_of_memory": (500, "server_error"),
    "worker_lost": (500, "server_error"),
    "outcome_unknown": (500, "server_error"),
    "deadline_exceeded": (504, "deadline_exceeded"),
    "invalid_output": (500, "server_error"),
    "content_filtered": (400, "invalid_prompts"),
    "upstream_error": (500, "server_error"),
    "internal": (500, "server_error"),
    "canceled": (409, "canceled"),
    "wait_over": (408, "request_timeout"),
}
"""Our code -> status and `name`."""

FIELDS: Final = {
    "guidance": "cfg_scale",
    "n": "samples",
    "prompt": "text_prompts",
    "prompts": "text_prompts",
    "negative_prompt": "text_prompts",
    "strength": "image_strength",
    "style": "style_preset",
    "scale": "width",
    "model": "engine_id",
    "task": "engine_id",
}
"""Our names for what is wrong -> the vendor's, where they differ."""

NAMED: Final = {
    "samples": "invalid_samples",
    "width": "invalid_height_or_width",
    "height": "invalid_height_or_width",
    "mask_image": "invalid_mask_image",
}
"""Fields whose wrong values have an error name of their own."""

WHOLE: Final = ("body", "params")
"""What is too large as a whole; anything else that is too large is a picture."""

SAMPLERS: Final = {
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "K_DPMPP_2M": "dpmpp_2m",
    "K_DPMPP_2S_ANCESTRAL": "dpmpp_2s_a",
    "K_DPM_2": "dpm2",
    "K_DPM_2_ANCESTRAL": "dpm2_a",
    "K_EULER": "euler",
    "K_EULER_ANCESTRAL": "euler_a",
    "K_HEUN": "heun",
    "K_LMS": "lms",
}
"""The vendor's samplers -> ours."""

CONTROLS: Final = {
    "canny": "canny",
    "depth": "depth",
    "hed": "hed",
    "lineart": "lineart",
    "mlsd": "mlsd",
    "normal": "normal",
    "normalbae": "normal",
    "normal_map": "normal",
    "openpose": "pose",
    "pose": "pose",
    "scribble": "scribble",
    "seg": "segmentation",
    "segmentation": "segmentation",
    "shuffle": "shuffle",
    "sketch": "sketch",
    "softedge": "softedge",
    "tile": "tile",
}
"""`controlnet_type` -> our kinds of control images."""

HINTS: Final = frozenset({"guidance", "negative_prompt", "sampler", "style"})
"""What is left out where a model has no use for it: the vendor's own engines make of these what they can."""
