"""`safelight upstream probe` of an address without settings: which kind of upstream it is."""

import json
from pathlib import Path

from gateway import config
from gateway.ports import Findings
from tests.gateway.cli.boxes import Boxes
from tests.gateway.cli.scripted import run


def test_every_kind_is_tried_at_an_address(box: Boxes) -> None:
    """A kind that says that it is another is passed over; the one that is well is named, and what to write."""
    box(probe=Findings("no such server", (), ("it is not one of mine",)), models=())
    found = box(config.SdCpp)
    done = run("upstream", "probe", "127.0.0.1:1234/?theme=dark", "--generate")
    assert done.exit_code == 0, done.output
    assert "http://127.0.0.1:1234 is sdcpp" in done.stdout
    assert '  kind = "sdcpp"\n  base_url = "http://127.0.0.1:1234"\n' in done.stdout
    assert Path("probe-sdcpp.png").exists()
    assert found["keys"] == ["", ""]


def test_kind_with_problems_is_taken_if_it_offers_something(box: Boxes) -> None:
    """Those after it in the table may speak its language as well, and are not asked."""
    box(probe=Findings("a double", (), ("it is slow",)))
    later = box(config.SdCpp)
    done = run("upstream", "probe", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "http://127.0.0.1:9 is comfyui" in done.stdout
    assert "problem: it is slow" in done.stdout
    assert later["keys"] == []


def test_address_where_nothing_is_known_is_told_with_each_reason(box: Boxes) -> None:
    """One line for each kind, and where a key would go."""
    box(probe=ValueError("not JSON"))
    done = run("upstream", "probe", "http://127.0.0.1:9")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing at http://127.0.0.1:9 can be used as an upstream; what each kind found:" in done.stderr
    assert "  comfyui: what it answers is not understood (ValueError: not JSON)" in done.stderr
    assert "  stability_v1: there is no connection" in done.stderr
    assert "is probed by its name in the settings" in done.stderr
    as_json = run("upstream", "probe", "http://127.0.0.1:9", "--json")
    assert {"stability_v1", "comfyui"} <= set(json.loads(as_json.stdout)["tried"])
    assert as_json.exit_code == 1
