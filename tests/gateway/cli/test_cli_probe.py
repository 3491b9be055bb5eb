"""`safelight upstream probe` of upstreams in the settings: the engine, the stand-in of a vendor, and doubles."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.reports import Outcome, UpstreamFault
from gateway.ports import Findings
from load.upstreams.stability_v1 import StabilityV1
from tests.gateway.cli.boxes import COMFY, Boxes, probe
from tests.gateway.cli.scripted import PNG, run
from tests.gateway.cli.threads import in_a_thread

KEY = {"VENDOR_KEY": "sk-test"}
VENDOR = '[upstreams.vendor]\nkind = "stability_v1"\napi_key_env = "VENDOR_KEY"\nbase_url = "{url}"\n'
PAIR = '[upstreams.pair]\nkind = "comfyui"\napi_key_env = ["KEY_A", "KEY_B"]\n'


def test_engine_is_well_and_makes_a_picture() -> None:
    """Without any settings, as after a first start."""
    done = run("upstream", "probe", "engine", "--generate")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == ["engine (engine)", "  the embedded engine"]
    assert "    icons          controlnet,img2img,inpaint,reference,txt2img,upscale  free" in lines
    assert "  no problems" in lines
    assert lines[-1].startswith("probe-engine.png  64x64  icons  ")
    assert lines[-1].endswith(" s  1 of 1 step, 1 preview")
    assert Path("probe-engine.png").read_bytes().startswith(b"\x89PNG")
    assert "denoising, 100 % of 1 step" in done.stderr


def test_vendor_is_looked_at_for_nothing() -> None:
    """The balance and the engines are asked for; no picture is made, no key is printed."""
    with in_a_thread(StabilityV1) as standin:
        done = probe(VENDOR.format(url=standin.url), "vendor", env=KEY)
        assert standin.calls == 0
    assert done.exit_code == 0, done.output
    assert "1000.0 credits left" in done.stdout
    assert "stable-diffusion-v1-6" in done.stdout
    assert "0.009 USD" in done.stdout
    assert "sk-test" not in done.output


def test_wrong_key_is_told_with_where_it_stands() -> None:
    """One sentence, and what to mend."""
    with in_a_thread(StabilityV1) as standin:
        done = probe(VENDOR.format(url=standin.url), "vendor", env={"VENDOR_KEY": "sk-wrong"})
    assert done.exit_code == 1
    assert "problem: the vendor does not accept our credential; HTTP 401" in done.stdout
    assert "See whether `api_key_env` or `api_key_file` names the right key." in done.stdout
    assert "sk-wrong" not in done.output


def test_billed_picture_is_asked_about() -> None:
    """Whoever is not asked, or says no, spends nothing."""
    with in_a_thread(StabilityV1) as standin:
        settings = VENDOR.format(url=standin.url) + 'engines = { "stable-diffusion-v1-6" = 9000 }\n'
        silent = probe(settings, "vendor", "--generate", env=KEY)
        refused = probe(settings, "vendor", "--generate", env=KEY, stdin="n\n")
        assert standin.calls == 0
        agreed = probe(settings, "vendor", "--generate", env=KEY, stdin="y\n")
        assert standin.calls == 1
        done = probe(settings, "vendor", "--generate", "--yes", "-o", "mine.png", env=KEY)
        assert standin.calls == 2
    assert silent.exit_code == 2
    assert "costs 0.009 USD; agree to that with --yes" in silent.stderr
    assert "A picture of stable-diffusion-v1-6 costs 0.009 USD. Make one?" in refused.stderr
    assert (refused.exit_code, refused.stdout.splitlines()[-1]) == (0, "no picture was made")
    assert agreed.exit_code == 0
    assert Path("probe-vendor.png").exists()
    assert "mine.png  320x320  stable-diffusion-v1-6" in done.stdout
    assert "0 of 10 steps, 0 previews" in done.stdout
    assert Path("mine.png").exists()


def test_missing_server_is_told_with_its_address() -> None:
    """Nobody listens there."""
    done = probe(VENDOR.format(url="http://127.0.0.1:9"), "vendor", env=KEY)
    assert done.exit_code == 1
    assert "there is no connection to the vendor" in done.stdout
    assert "See whether it runs at http://127.0.0.1:9, and whether this machine may reach it." in done.stdout


def test_every_account_is_looked_at(box: Boxes) -> None:
    """One of two keys may be wrong."""
    noted = box()
    done = probe(PAIR, "pair", env={"KEY_A": "a", "KEY_B": "b"})
    assert done.exit_code == 0, done.output
    assert noted["keys"] == ["a", "b"]
    assert [line for line in done.stdout.splitlines() if line.startswith("account")] == [
        "account KEY_A",
        "account KEY_B",
    ]
    assert len(noted["closed"]) == 2


def test_least_that_a_model_allows_is_asked_for(box: Boxes) -> None:
    """The smallest edge that fits, the fewest steps, one picture."""
    noted = box()
    done = probe(COMFY, "box", "--generate")
    assert done.exit_code == 0, done.output
    [order] = noted["orders"]
    request = order.request
    assert (request.task, request.width, request.height, request.steps, request.n) == ("txt2img", 64, 64, 2, 1)
    assert (order.count, order.seed) == (1, request.seed)
    assert done.stdout.splitlines()[-1].endswith("2 of 2 steps, 1 preview")
    assert Path("probe-box.png").read_bytes() == PNG


def test_json_is_one_object(box: Boxes) -> None:
    """All that the text says."""
    box(probe=Findings("a double", ("a fact",), ("it is slow: buy another",)))
    done = probe(COMFY, "box", "--generate", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (told["upstream"], told["kind"], told["address"]) == ("box", "comfyui", "http://127.0.0.1:8188")
    [account] = told["accounts"]
    assert (account["server"], account["facts"]) == ("a double", ["a fact"])
    assert account["problems"] == ["it is slow: buy another"]
    assert [model["id"] for model in account["models"]] == ["draft"]
    assert told["picture"]["path"] == "probe-box.png"
    assert (told["picture"]["steps_seen"], told["picture"]["previews"]) == (2, 1)


LOST = UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", "the connection broke", details={"cause": "Reset"})
LOCKED = UpstreamFault(
    Outcome.REFUSED, "model_unavailable", "the limit is used up", locked_out=True, retry_after_seconds=9
)


@pytest.mark.parametrize(
    "told,problem",
    [
        (
            {"probe": LOST},
            "the connection broke; Reset. Try again; or see whether http://127.0.0.1:8188 is the address",
        ),
        ({"probe": LOCKED}, "the limit is used up. Wait 9 seconds, and try again."),
        ({"probe": TimeoutError()}, "it did not answer within 60 seconds; see whether http://127.0.0.1:8188 is"),
        ({"probe": KeyError("system")}, "what it answers is not understood (KeyError: 'system'); see whether"),
        ({"refresh": LOST}, "it does not tell what it offers: the connection broke; Reset."),
        ({"models": ()}, "it offers no models; install one there, or name one in the settings"),
        ({"probe": Findings("x", (), ("a node is missing: install it",))}, "a node is missing: install it"),
    ],
)
def test_problems_are_told_in_plain_words(box: Boxes, told: dict[str, Any], problem: str) -> None:
    """Whatever is wrong: status 1, a sentence with what to do, no traceback, and nothing left open."""
    noted = box(**told)
    done = probe(COMFY, "box")
    assert done.exit_code == 1
    assert f"  problem: {problem}" in done.stdout
    assert noted["closed"] == ["box"]


@pytest.mark.parametrize(
    "told,problem",
    [
        ({"run": LOST}, "no picture was made: the connection broke"),
        ({"empty": True}, "the upstream ended without a picture"),
        ({"models": ()}, "no picture was made: no model here does txt2img"),
    ],
)
def test_picture_that_is_not_made_is_told(box: Boxes, told: dict[str, Any], problem: str) -> None:
    """What was found out before is still printed."""
    box(**told)
    done = probe(COMFY, "box", "--generate")
    assert done.exit_code == 1
    assert "a double 1.2" in done.stdout
    assert f"safelight: {problem}" in done.stderr
    assert not list(Path().glob("probe-*"))


def test_picture_that_cannot_be_kept_is_told(box: Boxes) -> None:
    """Before it is made where that can be seen before."""
    noted = box()
    done = probe(COMFY, "box", "--generate", "-o", "gone/x.png")
    assert (done.exit_code, noted["orders"]) == (2, [])
    assert "there is no folder gone" in done.stderr
    done = probe(COMFY, "box", "--generate", "-o", f"{'x' * 300}.png")
    assert done.exit_code == 1
    assert "x.png cannot be written (File name too long); write elsewhere with -o" in done.stderr


def test_ctrl_c_ends_the_picture_and_leaves(box: Boxes) -> None:
    """The adapter is told to stop, and nothing is left open."""
    noted = box(hangs=True)
    done = probe(COMFY, "box", "--generate")
    assert done.exit_code == 130
    assert done.stderr.endswith("safelight: left\n")
    assert noted["closed"] == ["box", "stopped", "box"]


@pytest.mark.parametrize(
    "what,told",
    [
        ("nope", "there is no upstream nope in the settings; there are: box; or give a URL"),
        ("ftp://x", "'ftp://x' is no address; write it as http://127.0.0.1:8188"),
    ],
)
def test_what_is_asked_wrongly_is_refused(box: Boxes, what: str, told: str) -> None:
    """With status 2 and what there is."""
    box()
    done = probe(COMFY, what)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr


def test_settings_that_make_no_adapter_are_told(box: Boxes) -> None:
    """What the settings let pass may still be refused by the adapter, or be of a kind that is not there."""
    done = probe(COMFY, "box")
    assert done.exit_code == 2
    assert "this version cannot speak to upstreams of kind comfyui" in done.stderr
    box(built=ValueError("a template has no output"))
    done = probe(COMFY, "box", "--generate")
    assert done.exit_code == 1
    assert "problem: the settings of box cannot be used: a template has no output" in done.stdout


def test_faults_of_the_settings_are_told() -> None:
    """As for `serve`."""
    done = probe(VENDOR.format(url="http://127.0.0.1:9"), "vendor")
    assert done.exit_code == 2
    assert "VENDOR_KEY" in done.stderr or "upstreams.vendor" in done.stderr
