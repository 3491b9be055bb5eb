"""A stand-in of ComfyUI: its queue, its graphs, its HTTP and WebSocket dialect on a real socket.

    async with ComfyUI(step_time=0.005) as standin:
        ...  # speak to standin.url, then look at standin.jobs and standin.requests

From a shell, `python -m load.upstreams.comfyui --port 8188` prints one line of JSON with the address when it is
ready and runs until SIGTERM. What its behaviour rests on stands in this package's PROVENANCE.md.
"""

from load.upstreams.comfyui.executor import Moment
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.nodes import HINT_SHARE, colour
from load.upstreams.comfyui.nodes_image import TINY_CLASSES
from load.upstreams.comfyui.server import ComfyUI
from load.upstreams.comfyui.troubles import (
    OUT_OF_MEMORY,
    Crash,
    Fail,
    LateHistory,
    LoseFiles,
    NoPreviews,
    Pause,
    PromptRule,
    SocketRule,
    Vanish,
)
from load.upstreams.comfyui.values import Checkpoint, Library

__all__ = [
    "HINT_SHARE",
    "OUT_OF_MEMORY",
    "TINY_CLASSES",
    "Checkpoint",
    "ComfyUI",
    "Crash",
    "Fail",
    "Job",
    "LateHistory",
    "Library",
    "LoseFiles",
    "Moment",
    "NoPreviews",
    "Pause",
    "PromptRule",
    "SocketRule",
    "Vanish",
    "colour",
]
