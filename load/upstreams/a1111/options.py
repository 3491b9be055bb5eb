"""The server's options: global and lasting."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from load.upstreams.a1111.errors import Flavour
from load.upstreams.a1111.listings import title_of


def default_options(flavour: Flavour, models: Collection[str], *, previews: bool) -> dict[str, Any]:
    """The options of a fresh server that matter here, and a few of those that don't."""
    return {
        "samples_save": True,
        "samples_format": "jpg" if flavour == "sdnext" else "png",
        "jpeg_quality": 90 if flavour == "sdnext" else 80,
        "return_grid": True,
        "grid_save": True,
        "sd_model_checkpoint": title_of(next(iter(models))) if models else None,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "live_previews_enable": previews,
        "live_previews_image_format": "png",
        "show_progress_grid": True,
        "show_progress_every_n_steps": 10,
        "show_progress_type": "Approx NN",
        "api_enable_requests": False,
        "api_forbid_local_requests": True,
        "control_net_unit_count": 3,
    }
