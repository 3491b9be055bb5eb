"""Keys of vendors: where they are read, and that nothing repeats them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import ComfyUI, HttpUpstream, StabilityV1, load, load_with_origins
from tests.gateway.config_files import VENDOR, VENDOR_KEY, faults_of, write


def test_vendors_key_comes_from_a_file(tmp_path: Path) -> None:
    """A mounted secret is read, without the newline that editors leave."""
    (tmp_path / "key").write_text("sk-from-file-1234\n")
    path = write(tmp_path, f'[upstreams.vendor]\nkind = "stability_v1"\napi_key_file = "{tmp_path}/key"\n')
    vendor = load(path, {}).upstreams["vendor"]
    assert isinstance(vendor, StabilityV1)
    assert vendor.credentials[0].key() == "sk-from-file-1234"


def test_secret_is_in_no_text_of_the_settings(tmp_path: Path) -> None:
    """Neither `repr` nor the effective settings show a vendor's key."""
    settings, effective = load_with_origins(write(tmp_path, VENDOR), VENDOR_KEY)
    shown = repr(settings) + str(effective) + "\n".join(one.line() for one in effective)
    assert "planted" not in shown
    assert "# upstreams.vendor.credentials.default = ***  # variable VENDOR_KEY" in shown


@pytest.mark.parametrize(
    "text,environ",
    [
        ('[upstreams.x]\nkind = "stability_v1"\napi_key = "sk-leaked-12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "sk-leaked-12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "leaked12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_file = "leaked12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = "K"', {"K": " "}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = ["K", "leaked12345"]', {"K": "sk-1"}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = ["K", "sk-leaked-1"]', {"K": "sk-1"}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_file = ["leaked12345", "leaked12346"]', {}),
        ('[upstreams.x]\nkind = "stability_v1"\napi_key_env = ["A", "B"]', {"A": "sk-leaked-1", "B": "sk-leaked-1"}),
        ('[upstreams.x]\nkind = "a1111"\npassword = "leaked12345"', {}),
        ('[upstreams.x]\nkind = "stability_v1"', {"SAFELIGHT_UPSTREAMS__X__API_KEY_ENV": "sk-leaked-12345"}),
        ('[upstreams.x]\nkind = "stability_v1"', {"SAFELIGHT_UPSTREAMS__X__API_KEY": "sk-leaked-12345"}),
    ],
)
def test_key_in_the_wrong_place_is_refused_and_not_repeated(
    tmp_path: Path, text: str, environ: Mapping[str, str]
) -> None:
    """A key that was pasted where its place is asked for does not end in a terminal or a log."""
    faults = faults_of(write(tmp_path, text), environ)
    assert faults
    assert "leaked" not in "".join(faults)


@pytest.mark.parametrize(
    "content,fault", [(b"", "is empty"), (b"two words", "more than one word"), (b"\xff", "it is not ASCII text")]
)
def test_key_file_without_one_key_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    """What can't be a key is told now, not by the vendor later."""
    (tmp_path / "key").write_bytes(content)
    path = write(tmp_path, f'[upstreams.x]\nkind = "stability_v1"\napi_key_file = "{tmp_path}/key"')
    [line] = faults_of(path)
    assert line.startswith("safelight.toml: the file that upstreams.x.api_key_file names")
    assert fault in line


# --- several accounts ---


def accounts_of(path: Path | None, environ: Mapping[str, str], name: str = "vendor") -> dict[str, str]:
    """Return the keys of an upstream by the names of its accounts."""
    upstream = load(path, environ).upstreams[name]
    assert isinstance(upstream, HttpUpstream)
    return {one.name: one.key() for one in upstream.credentials}


TWO_KEYS = {"KEY_A": "sk-planted-a", "KEY_B": "sk-planted-b"}
TWO_VENDOR_KEYS = VENDOR.replace('"VENDOR_KEY"', '["KEY_A", "KEY_B"]')


def test_only_account_is_called_default_however_its_place_is_written(tmp_path: Path) -> None:
    """A list of one is that one: what the ledger remembers of the account goes by its name."""
    assert accounts_of(write(tmp_path, VENDOR), VENDOR_KEY) == {"default": VENDOR_KEY["VENDOR_KEY"]}
    as_list = VENDOR.replace('"VENDOR_KEY"', '["VENDOR_KEY"]')
    assert accounts_of(write(tmp_path, as_list), VENDOR_KEY) == {"default": VENDOR_KEY["VENDOR_KEY"]}


def test_each_of_several_variables_makes_an_account_of_its_name(tmp_path: Path) -> None:
    """The list's order is kept."""
    found = accounts_of(write(tmp_path, TWO_VENDOR_KEYS), TWO_KEYS)
    assert list(found.items()) == list(TWO_KEYS.items())


def test_variable_names_several_variables_with_commas(tmp_path: Path) -> None:
    """A container gives the list in one text."""
    environ = {**TWO_KEYS, "SAFELIGHT_UPSTREAMS__VENDOR__API_KEY_ENV": "KEY_A, KEY_B"}
    assert accounts_of(write(tmp_path, VENDOR), environ) == TWO_KEYS


def test_each_of_several_files_makes_an_account_of_its_stem(tmp_path: Path) -> None:
    """Mounted secrets are told apart by their names, without folder and ending."""
    (tmp_path / "team.key").write_text("sk-team\n")
    (tmp_path / "lab").write_text("sk-lab")
    text = f"""[upstreams.vendor]\nkind = "stability_v1"\napi_key_file = ["{tmp_path}/team.key", "{tmp_path}/lab"]"""
    assert accounts_of(write(tmp_path, text), {}) == {"team": "sk-team", "lab": "sk-lab"}


def test_effective_settings_name_each_account_and_show_no_key(tmp_path: Path) -> None:
    """Whoever checks the settings sees where each key was read."""
    settings, effective = load_with_origins(write(tmp_path, TWO_VENDOR_KEYS), TWO_KEYS)
    lines = [one.line() for one in effective]
    assert 'upstreams.vendor.api_key_env = ["KEY_A", "KEY_B"]' in "\n".join(lines)
    assert "# upstreams.vendor.credentials.KEY_A = ***  # variable KEY_A" in lines
    assert "# upstreams.vendor.credentials.KEY_B = ***  # variable KEY_B" in lines
    assert "planted" not in repr(settings) + "".join(lines)


def test_local_upstream_without_a_key_has_one_account(tmp_path: Path) -> None:
    """A server of one's own wants none."""
    settings, effective = load_with_origins(write(tmp_path, '[upstreams.comfy]\nkind = "comfyui"'), {})
    assert isinstance(settings.upstreams["comfy"], ComfyUI)
    assert [(one.name, one.key()) for one in settings.upstreams["comfy"].credentials] == [("default", "")]
    assert "# upstreams.comfy.credentials.default is not set  # default" in [one.line() for one in effective]


def test_local_upstream_may_have_keys(tmp_path: Path) -> None:
    """A proxy before it may ask for one."""
    text = '[upstreams.comfy]\nkind = "comfyui"\napi_key_env = "KEY_A"'
    assert accounts_of(write(tmp_path, text), TWO_KEYS, "comfy") == {"default": "sk-planted-a"}


@pytest.mark.parametrize("kind", ["stability_v1", "stability_v2beta", "openai_images"])
def test_hosted_upstream_without_a_key_is_refused(tmp_path: Path, kind: str) -> None:
    """Each of its calls would be refused; an empty list is no key either."""
    text = f'[upstreams.x]\nkind = "{kind}"\napi_key_env = []\n' + ("discover = true" if "openai" in kind else "")
    assert faults_of(write(tmp_path, text)) == [
        "safelight.toml: upstreams.x has no API key; allowed: api_key_env or api_key_file"
    ]


@pytest.mark.parametrize(
    "names,environ,fault",
    [
        (
            '["KEY_A", "KEY_C"]',
            TWO_KEYS,
            """the variable that upstreams.vendor.api_key_env[1] names is not set, or empty; \
allowed: a variable with the API key""",
        ),
        (
            '["KEY_A", "KEY_A"]',
            TWO_KEYS,
            "upstreams.vendor.api_key_env has the same name twice; allowed: a name of its own for each account",
        ),
        (
            '["KEY_A", "KEY_B"]',
            {"KEY_A": "sk-1", "KEY_B": "sk-1"},
            "upstreams.vendor.api_key_env has the same key twice; allowed: a key of its own for each account",
        ),
        (
            '["KEY_A", 5]',
            TWO_KEYS,
            "upstreams.vendor.api_key_env is wrong; allowed: the name of an environment variable, or a list of such",
        ),
    ],
)
def test_fault_of_several_keys_names_the_field(
    tmp_path: Path, names: str, environ: Mapping[str, str], fault: str
) -> None:
    """Which of them it is goes by its place in the list: its text may be a key."""
    path = write(tmp_path, VENDOR.replace('"VENDOR_KEY"', names))
    assert faults_of(path, environ) == [f"safelight.toml: {fault}"]


def test_files_whose_names_cannot_tell_accounts_apart_are_refused(tmp_path: Path) -> None:
    """The names are shown in metrics and limits, and kept in the ledger."""
    (tmp_path / "a").mkdir()
    for file in ("key", "a/key", "my key"):
        (tmp_path / file).write_text(f"sk-{file[0]}")
    text = '[upstreams.x]\nkind = "stability_v1"\napi_key_file = ["{0}/key", "{0}/{1}"]'
    [twice] = faults_of(write(tmp_path, text.format(tmp_path, "a/key")))
    assert "upstreams.x.api_key_file has the same name twice" in twice
    [odd] = faults_of(write(tmp_path, text.format(tmp_path, "my key")))
    assert "upstreams.x.api_key_file names a file that cannot name an account" in odd


def test_user_and_password_of_a_web_ui_come_together(tmp_path: Path) -> None:
    """One without the other is a mistake, and not a server without a password."""
    text = '[upstreams.x]\nkind = "a1111"\n'
    both = text + 'user = "me"\napi_key_env = "KEY_A"'
    assert accounts_of(write(tmp_path, both), TWO_KEYS, "x") == {"default": "sk-planted-a"}
    [no_password] = faults_of(write(tmp_path, text + 'user = "me"'), TWO_KEYS)
    assert no_password.endswith("upstreams.x has no API key; allowed: api_key_env or api_key_file")
    [no_user] = faults_of(write(tmp_path, text + 'api_key_env = "KEY_A"'), TWO_KEYS)
    assert "upstreams.x has an API key without a user" in no_user
