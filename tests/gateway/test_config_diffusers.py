"""The settings of a model on this machine."""

from pathlib import Path

from gateway import config
from gateway.builders import accounts_of
from gateway.config import load
from tests.gateway.config_files import faults_of, write


def test_folder_is_all_that_is_needed(tmp_path: Path) -> None:
    """It becomes one upstream with one account, which fetches nothing."""
    path = write(tmp_path, '[upstreams.attic]\nkind = "diffusers"\nmodel = "/models/sd15"\n')
    settings = load(path, {}).upstreams["attic"]
    assert isinstance(settings, config.Diffusers)
    assert (settings.download, settings.processes, settings.previews) == (False, 1, "linear")
    assert list(accounts_of("attic", settings)) == ["default"]


def test_everything_that_is_wrong_is_told(tmp_path: Path) -> None:
    """What is missing, what contradicts, what nobody can ask for."""
    text = """
[upstreams.attic]
kind = "diffusers"
previews = "tiny"
controls = { cany = "/models/canny" }
device = "tpu"
"""
    faults = "\n".join(faults_of(write(tmp_path, text)))
    assert "upstreams.attic has no model" in faults
    assert "`tiny_decoder` with its folder" in faults
    assert '"cany"' in faults or "'cany'" in faults
    assert "upstreams.attic.device" in faults
