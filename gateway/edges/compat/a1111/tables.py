"""The web UI's API as data: its words for our errors, params, samplers, schedulers and control images."""

from typing import Final

ERRORS: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (422, "value_error"),  # broken JSON is `json_invalid`
    "unknown_type": (400, ""),
    "unsupported_version": (400, ""),
    "invalid_param": (422, "value_error"),  # or one of `TYPES`
    "prompt_too_long": (422, "string_too_long"),
    "resolution_not_supported": (422, "value_error"),
    "payload_too_large": (413, ""),
    "unsupported_media": (422, ""),
    "image_decode_failed": (422, ""),  # the web UI has 500 here, which clients and proxies repeat
    "bad_chunk": (400, ""),
    "unauthorized": (401, ""),
    "token_expired": (401, ""),
    "forbidden": (403, ""),
    "job_not_found": (404, ""),
    "asset_not_found": (404, ""),
    "idempotency_conflict": (409, ""),
    "expired": (410, ""),
    "not_found": (404, ""),
    "method_not_allowed": (405, ""),
    "rate_limited": (429, ""),
    "concurrency_limit": (429, ""),
    "queue_full": (503, "HTTPException"),
    "overloaded": (503, "HTTPException"),
    "quota_exceeded": (429, ""),
    "insufficient_credits": (402, ""),
    "max_cost_exceeded": (402, ""),
    "model_not_found": (404, ""),
    "model_unavailable": (503, "HTTPException"),
    "adapter_not_found": (404, ""),
    "adapter_incompatible": (422, ""),
    "sampler_not_supported": (400, ""),
    "task_not_supported": (422, ""),
    "out_of_memory": (500, "OutOfMemoryError"),
    "worker_lost": (500, "RuntimeError"),
    "outcome_unknown": (500, "RuntimeError"),
    "deadline_exceeded": (504, "TimeoutError"),
    "invalid_output": (500, "RuntimeError"),
    "content_filtered": (422, ""),
    "upstream_error": (500, "RuntimeError"),
    "internal": (500, "RuntimeError"),
    "canceled": (500, "InterruptedError"),  # an interrupt at this door is answered as the web UI does, with 200
    "wait_over": (504, "TimeoutError"),
}
"""Our code -> status, and what it is called.

From 500 on that is the class in `{"error", "detail", "body", "errors"}`; below, the type of the one entry of a `detail`
that is a list, or nothing where `detail` is a sentence. The web UI knows no 402, 403, 409, 410, 413, 429, 503 and 504.
"""

SAID: Final = {
    "image_decode_failed": "Invalid encoded image",
    "unsupported_media": "Invalid encoded image",
    "not_found": "Not Found",
    "method_not_allowed": "Method Not Allowed",
    "sampler_not_supported": "Sampler not found",
}
"""Sentences that clients of the web UI may know."""

TYPES: Final = {
    "Expected int": "int_type",
    "Expected float": "float_type",
    "Expected bool": "bool_type",
    "Expected str": "string_type",
    "Expected array": "list_type",
    "Expected object": "dict_type",
    "Object missing": "missing",
}
"""Beginnings of what is said of a wrong value -> the type that the web UI's framework gives it."""

NAMES: Final = {
    "guidance": "cfg_scale",
    "n": "batch_size",
    "strength": "denoising_strength",
    "sampler": "sampler_name",
    "style": "styles",
    "loras": "prompt",
    "prompts": "prompt",
    "scale": "upscaling_resize",
    "model": "override_settings",
    "task": "override_settings",
    "inputs": "alwayson_scripts",
}
"""Our names for what is wrong -> the web UI's, where they differ."""

HINTS: Final = frozenset({"guidance", "loras", "negative_prompt", "sampler", "scheduler", "style", "tiling"})
"""What is left out where a model has no use for it: clients of the web UI send most of these with each request."""

SAMPLERS: Final = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "lms": "LMS",
}
"""Our samplers -> the web UI's; a model's other samplers go by their own names."""
ALIASES: Final = {
    "euler_ancestral": "euler_a",
    "dpm_2": "dpm2",
    "dpm_2_a": "dpm2_a",
    "dpm_2_ancestral": "dpm2_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
}
"""Other names of our samplers, each with or without `k_` in front."""

SCHEDULERS: Final = {
    "automatic": "Automatic",
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "ddim": "DDIM",
    "ddim_uniform": "DDIM Uniform",
    "beta": "Beta",
}
"""Names of schedulers -> what they are shown as; both are taken, and so are a model's others."""

CONTROLS: Final = (
    ("canny", "canny"),
    ("depth", "depth"),
    ("lineart", "lineart"),
    ("mlsd", "mlsd"),
    ("normal", "normal"),
    ("openpose", "pose"),
    ("pose", "pose"),
    ("scribble", "scribble"),
    ("_seg", "segmentation"),
    ("segmentation", "segmentation"),
    ("shuffle", "shuffle"),
    ("softedge", "softedge"),
    ("hed", "hed"),
    ("sketch", "sketch"),
    ("structure", "structure"),
    ("style", "style"),
    ("tile", "tile"),
)
"""What the name of a ControlNet model contains -> the kind of control image; the first that fits counts."""
