"""ComfyUI: its graphs, its socket of events, its history."""

from gateway.upstreams.comfyui.adapter import ComfyUI

__all__ = ["ComfyUI"]
