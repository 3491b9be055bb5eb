"""Settings of upstreams: what each kind has, and what only it is checked for."""

from pathlib import Path

import msgspec
import pytest

from gateway import config
from gateway.config import (
    A1111,
    STABILITY_V1_ENGINES,
    STABILITY_V2BETA_PRICES,
    Bucket,
    ComfyUI,
    Engine,
    HttpUpstream,
    OpenAIImages,
    SdCpp,
    StabilityV1,
    StabilityV2Beta,
    Window,
    load,
)
from gateway.upstreams.stability_v1.models import SIZES
from tests.gateway.config_files import VENDOR, VENDOR_KEY, faults_of, write


def test_vendor_has_its_documented_defaults(tmp_path: Path) -> None:
    """A kind and a key are enough for an upstream."""
    vendor = load(write(tmp_path, VENDOR), VENDOR_KEY).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.credentials[0].key() == "sk-planted-0123456789"
    assert vendor.limit == Window(window=150, period_ms=10_000, delay_bound_ms=250, lockout_ms=60_000)
    assert vendor.breaker == config.Breaker(failures=5, open_ms=30_000)
    assert vendor.engines.keys() <= set(STABILITY_V1_ENGINES)


def test_configured_engines_are_those_the_adapter_knows() -> None:
    """The list that the settings check against is the adapter's."""
    assert set(STABILITY_V1_ENGINES) == SIZES.keys()


def test_configured_upstreams_take_the_place_of_the_engine(tmp_path: Path) -> None:
    """The embedded engine is there unless something else is named; both together must be."""
    path = write(tmp_path, VENDOR + '[upstreams.house]\nkind = "engine"\nprocesses = 3\n')
    upstreams = load(path, VENDOR_KEY).upstreams
    assert upstreams.keys() == {"vendor", "house"}
    assert upstreams["house"] == Engine(processes=3)


def test_upstream_has_a_bucket_in_place_of_a_window(tmp_path: Path) -> None:
    """`bucket_per_s` or `burst` says which kind of limit the vendor has."""
    path = write(tmp_path, VENDOR + "limit = { bucket_per_s = 5, burst = 10 }\n")
    vendor = load(path, VENDOR_KEY).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.limit == Bucket(bucket_per_s=5.0, burst=10)


def test_environment_changes_an_upstream_by_its_name(tmp_path: Path) -> None:
    """A variable can't spell a hyphen, so an underscore stands for it; prices are `engine=price`."""
    path = write(tmp_path, VENDOR.replace("upstreams.vendor", "upstreams.my-vendor"))
    environ = {
        **VENDOR_KEY,
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__TIMEOUT_MS": "5000",
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__BREAKER__FAILURES": "2",
        "SAFELIGHT_UPSTREAMS__MY_VENDOR__ENGINES": "stable-diffusion-v1-6=7",
    }
    vendor = load(path, environ).upstreams["my-vendor"]
    assert isinstance(vendor, StabilityV1)
    assert (vendor.timeout_ms, vendor.breaker.failures) == (5000, 2)
    assert vendor.engines == {"stable-diffusion-v1-6": 7}


def test_environment_alone_makes_an_upstream() -> None:
    """A container needs no file."""
    settings = load(None, {"SAFELIGHT_UPSTREAMS__HOUSE__KIND": "engine"})
    assert settings.upstreams == {"house": Engine()}


# --- the other kinds ---

HOSTED = 'api_key_env = "VENDOR_KEY"\n'
EXPORTED = "a file that ComfyUI exported in its API format"
WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}


def upstream_of(folder: Path, kind: str, text: str = "") -> HttpUpstream:
    """Return the only upstream of a file."""
    found = load(write(folder, f'[upstreams.x]\nkind = "{kind}"\n{text}'), VENDOR_KEY).upstreams["x"]
    assert isinstance(found, HttpUpstream)
    return found


@pytest.mark.parametrize(
    "kind,text,url,concurrency,limit",
    [
        ("comfyui", "", "http://127.0.0.1:8188", 4, None),
        ("a1111", "", "http://127.0.0.1:7860", 1, None),
        ("sdcpp", "", "http://127.0.0.1:1234", 4, None),
        ("openai_images", HOSTED + "discover = true", "https://api.openai.com", 64, None),
        ("stability_v2beta", HOSTED, "https://api.stability.ai", 64, Window()),
    ],
)
def test_kind_has_its_documented_defaults(
    tmp_path: Path, kind: str, text: str, url: str, concurrency: int, limit: Window | None
) -> None:
    """A kind, and a key where the vendor wants one, are enough."""
    found = upstream_of(tmp_path, kind, text)
    assert found.kind == kind
    assert (found.base_url, found.concurrency, found.limit) == (url, concurrency, limit)
    assert found.breaker == config.Breaker()


def test_every_kind_takes_what_is_common_to_them(tmp_path: Path) -> None:
    """The fields of `HttpUpstream` are settings of each kind."""
    text = 'base_url = "http://10.0.0.5:1"\ntimeout_ms = 5\nconcurrency = 2\nlimit = { burst = 3 }\n'
    found = upstream_of(tmp_path, "sdcpp", text + "breaker.failures = 1")
    assert found == SdCpp(
        base_url="http://10.0.0.5:1",
        timeout_ms=5,
        concurrency=2,
        limit=Bucket(burst=3),
        breaker=config.Breaker(failures=1),
    )


def test_environment_sets_an_optional_limit() -> None:
    """A table within an upstream's is reached as any setting is."""
    environ = {"SAFELIGHT_UPSTREAMS__X__KIND": "comfyui", "SAFELIGHT_UPSTREAMS__X__LIMIT__WINDOW": "7"}
    found = load(None, environ).upstreams["x"]
    assert isinstance(found, ComfyUI)
    assert found.limit == Window(window=7)


def test_comfyui_has_its_own_settings(tmp_path: Path) -> None:
    """A workflow's file is read with the settings, so that its faults are told before the start."""
    (tmp_path / "flow.json").write_bytes(msgspec.json.encode(WORKFLOW))
    text = f"""checkpoints = ["sd/xl.safetensors"]
templates = {{ "portrait/fast" = "{tmp_path}/flow.json" }}
reconnect_ms = 50
max_answer_bytes = 4096"""
    found = upstream_of(tmp_path, "comfyui", text)
    assert isinstance(found, ComfyUI)
    assert found.checkpoints == ("sd/xl.safetensors",)
    assert found.workflows == {"portrait/fast": WORKFLOW}
    assert (found.reconnect_ms, found.max_answer_bytes) == (50, 4096)


def test_environment_gives_templates_as_names_and_paths(tmp_path: Path) -> None:
    """`name=path`, separated by commas; empty text is none."""
    (tmp_path / "flow.json").write_bytes(msgspec.json.encode(WORKFLOW))
    environ = {"SAFELIGHT_UPSTREAMS__X__KIND": "comfyui"}
    found = load(None, {**environ, "SAFELIGHT_UPSTREAMS__X__TEMPLATES": f"a = {tmp_path}/flow.json,"}).upstreams["x"]
    assert isinstance(found, ComfyUI)
    assert found.workflows == {"a": WORKFLOW}
    assert load(None, {**environ, "SAFELIGHT_UPSTREAMS__X__TEMPLATES": ""}).upstreams["x"] == ComfyUI()


@pytest.mark.parametrize(
    "content,fault",
    [
        (None, "cannot be read (No such file or directory)"),
        (b"{", "is not JSON"),
        (b"[]", "is no workflow in the API format"),
        (b"{}", "is no workflow in the API format"),
        (b'{"nodes": [], "links": []}', "is no workflow in the API format"),
    ],
)
def test_template_that_is_no_workflow_is_refused(tmp_path: Path, content: bytes | None, fault: str) -> None:
    """Most of all the editor's own format, which looks much the same."""
    if content is not None:
        (tmp_path / "flow.json").write_bytes(content)
    path = write(tmp_path, f'[upstreams.x]\nkind = "comfyui"\ntemplates = {{ a = "{tmp_path}/flow.json" }}')
    assert faults_of(path) == [
        f'safelight.toml: upstreams.x.templates has "a", whose file {fault}; allowed: {EXPORTED}'
    ]


def test_a1111_has_its_own_settings(tmp_path: Path) -> None:
    """They are documented one by one in README."""
    text = 'flavour = "forge"\ncheckpoints = ["a.ckpt"]\npoll_ms = 500\npreviews = false'
    assert upstream_of(tmp_path, "a1111", text) == A1111(
        flavour="forge", checkpoints=("a.ckpt",), poll_ms=500, previews=False
    )


def test_stability_v2beta_offers_what_has_a_price(tmp_path: Path) -> None:
    """By default all that the gateway knows, at the vendor's list prices."""
    every = upstream_of(tmp_path, "stability_v2beta", HOSTED)
    assert isinstance(every, StabilityV2Beta)
    assert every.prices == STABILITY_V2BETA_PRICES
    one = upstream_of(tmp_path, "stability_v2beta", HOSTED + "prices = { inpaint = 7 }")
    assert isinstance(one, StabilityV2Beta)
    assert one.prices == {"inpaint": 7}


def test_openai_images_has_its_own_settings(tmp_path: Path) -> None:
    """A server of one's own needs no key, but an address."""
    text = """base_url = "http://127.0.0.1:8000"
dialect = "vllm"
models = { "Tongyi/Z-Image" = 0 }
result_hosts = ["files.example"]
stream = false"""
    assert upstream_of(tmp_path, "openai_images", text) == OpenAIImages(
        base_url="http://127.0.0.1:8000",
        dialect="vllm",
        models={"Tongyi/Z-Image": 0},
        result_hosts=("files.example",),
        stream=False,
    )


@pytest.mark.parametrize(
    "kind,text,fault",
    [
        ("a1111", "poll_ms = 100", "upstreams.x.poll_ms is 100; allowed: an integer from 250 to 500"),
        ("a1111", 'flavour = "x"', 'upstreams.x.flavour is "x"; allowed: one of auto, a1111, forge, sdnext'),
        (
            "stability_v2beta",
            HOSTED + "poll_ms = 9999",
            "upstreams.x.poll_ms is 9999; allowed: an integer from 10000 to 600000",
        ),
        (
            "stability_v2beta",
            HOSTED + "prices = { sdxl = 1 }",
            f'upstreams.x.prices has "sdxl"; allowed: {", ".join(STABILITY_V2BETA_PRICES)}',
        ),
        (
            "openai_images",
            HOSTED,
            "upstreams.x offers nothing; allowed: `models` with their prices, or `discover = true`",
        ),
        (
            "openai_images",
            HOSTED + 'models = { "" = 1 }',
            'upstreams.x.models is { "" = 1 }; allowed: a table of models, each with its price',
        ),
        (
            "openai_images",
            'dialect = "sglang"\ndiscover = true',
            "upstreams.x speaks sglang and has no base_url; allowed: the address of your server",
        ),
        (
            "comfyui",
            "templates = { 'a b' = 'x' }",
            'upstreams.x.templates is { "a b" = "x" }; allowed: a table of names, each with the path of a file',
        ),
        ("sdcpp", "prices = { a = 1 }", "there is no setting upstreams.x.prices; it is for stability_v2beta"),
        ("comfyui", "limit = 5", "upstreams.x.limit is no table; allowed: a table of settings"),
    ],
)
def test_fault_of_a_kind_says_what_is_allowed(tmp_path: Path, kind: str, text: str, fault: str) -> None:
    """What a kind does not know is refused, and what it knows is held in its bounds."""
    path = write(tmp_path, f'[upstreams.x]\nkind = "{kind}"\n{text}')
    assert faults_of(path, VENDOR_KEY) == [f"safelight.toml: {fault}"]
