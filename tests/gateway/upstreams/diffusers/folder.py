"""The folder of tiny models, made once for each version of the program that makes them."""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAM = "tests.gateway.upstreams.diffusers.tiny"


@functools.cache
def tiny_models() -> Path:
    """Return the folder with `sd`, `xl`, `flux`, `canny`, `taesd`, `ink.safetensors` and `wool.v2.safetensors`."""
    one_thread_each()
    version = hashlib.sha256(Path(__file__).with_name("tiny.py").read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"safelight-tiny-{os.getuid()}-{version}"
    if not folder.is_dir():
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run([sys.executable, "-m", _PROGRAM, made], env=environment, check=True, capture_output=True)
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; its models are the same.
            assert folder.is_dir()
    return folder


def one_thread_each() -> None:
    """Let torch use one thread: on a busy machine several wait for each other most of the time."""
    os.environ["OMP_NUM_THREADS"] = "1"
