"""What the server tells of itself: its features, its machine, its nodes and its models."""

from __future__ import annotations

from typing import Any

from load.upstreams.comfyui.answers import empty, json_answer
from load.upstreams.comfyui.executor import Settings
from load.upstreams.comfyui.spec import Lists
from load.upstreams.comfyui.troubles import SERVER_ROOT
from load.upstreams.comfyui.values import MODEL_FOLDERS
from load.upstreams.wire import Answer

_MEMORY = 25_276_502_016
_SYSTEM = {
    "os": "posix",
    "ram_total": _MEMORY,
    "ram_free": _MEMORY,
    "comfyui_version": None,
    "required_frontend_version": "1.27.10",
    "installed_templates_version": None,
    "required_templates_version": "0.1.95",
    "python_version": "3.11.7 (stand-in)",
    "pytorch_version": "2.13.0+cpu",
    "embedded_python": False,
    "argv": ["main.py", "--output-directory", f"{SERVER_ROOT}/output"],
}
_AMOUNTS = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")
_DEVICE = {"name": "cpu", "type": "cpu", "index": None, **dict.fromkeys(_AMOUNTS, _MEMORY)}


class Facts:
    """Answers that no prompt changes."""

    def __init__(self, settings: Settings, version: str | None, max_upload_bytes: int) -> None:
        self._settings, self._version = settings, version
        self.max_upload_bytes = max_upload_bytes

    def features(self) -> dict[str, Any]:
        """What the server can, as `/features` and the first message of a socket tell it."""
        return {"supports_preview_metadata": True, "max_upload_size": self.max_upload_bytes}

    def system_stats(self) -> dict[str, Any]:
        """The versions and the memory; a server that tells no version leaves the name out."""
        system = _SYSTEM | {"comfyui_version": self._version}
        if self._version is None:
            del system["comfyui_version"]
        return {"system": system, "devices": [_DEVICE]}

    def object_info(self, path: str) -> dict[str, Any]:
        """All node classes, or the one the path names."""
        _, _, name = path.removeprefix("/object_info").partition("/")
        classes, lists = self._settings.classes, self.lists()
        if name:
            return {name: classes[name].describe(lists)} if name in classes else {}
        return {name: kind.describe(lists) for name, kind in classes.items()}

    def models(self, path: str) -> Answer:
        """The folders of models, or the names in the one the path names."""
        _, _, folder = path.removeprefix("/models").partition("/")
        if not folder:
            return json_answer(list(MODEL_FOLDERS))
        names = self._settings.library.folder(folder)
        return empty(404) if names is None else json_answer(names)

    def lists(self) -> Lists:
        """What the choices of inputs are made from."""
        folders = {name: self._settings.library.folder(name) or [] for name in MODEL_FOLDERS}
        return Lists(folders, self._settings.folders.names("input"))
