"""Settings of models: the names that clients ask for, and the routes to them."""

from pathlib import Path

import pytest

from gateway.config import Config, Model, Route, load, load_with_origins
from tests.gateway.config_files import faults_of, write

UPSTREAMS = """[upstreams.a]
kind = "engine"
[upstreams.b]
kind = "comfyui"
"""
FAST = UPSTREAMS + "[models.fast]\n"
ROUTES_ALLOWED = "a list of one table or more, each with `upstream` and `model`"


def test_without_models_clients_ask_for_what_upstreams_offer() -> None:
    """Nothing has to be routed."""
    assert load(None, {}).models == Config().models == {}


def test_route_has_a_weight_and_a_group(tmp_path: Path) -> None:
    """Both have defaults; the order is kept."""
    text = """routes = [
  { upstream = "b", model = "sd/xl.safetensors", weight = 2.5 },
  { upstream = "a", model = "engine", group = 2 },
]"""
    assert load(write(tmp_path, FAST + text), {}).models == {
        "fast": Model((Route("b", "sd/xl.safetensors", 2.5, 1), Route("a", "engine", 1.0, 2)))
    }


def test_routes_may_be_tables_of_their_own(tmp_path: Path) -> None:
    """TOML has two ways to write a list of tables."""
    text = UPSTREAMS + '[[models."x/y.z".routes]]\nupstream = "a"\nmodel = "engine"\n'
    assert load(write(tmp_path, text), {}).models == {"x/y.z": Model((Route("a", "engine"),))}


def test_route_may_go_to_the_engine_that_nobody_configured(tmp_path: Path) -> None:
    """Where no upstream is configured there is one, `engine`."""
    path = write(tmp_path, '[models.fast]\nroutes = [{ upstream = "engine", model = "engine" }]')
    assert load(path, {}).models == {"fast": Model((Route("engine", "engine"),))}


def test_effective_models_are_a_settings_file(tmp_path: Path) -> None:
    """What `check-config` prints gives the same routes again, also of a name with dots."""
    text = UPSTREAMS + '[models."x/y.z"]\nroutes = [{ upstream = "a", model = "engine", weight = 3 }]'
    path = write(tmp_path, text)
    settings, effective = load_with_origins(path, {})
    [line] = [one.line() for one in effective if one.path.startswith("models.")]
    assert line.startswith('models."x/y.z".routes = [{ "upstream" = "a", ')
    assert line.endswith(f"# {path}")
    again = write(tmp_path, "\n".join(one.line() for one in effective))
    assert load(again, {}) == settings


@pytest.mark.parametrize(
    "text,fault",
    [
        ("models = 1", "models is no table; allowed: a table of models by name"),
        ("[models]\nfast = 1", "models.fast is no table; allowed: a table with `routes`"),
        (
            '[models."a b"]\nroutes = [{ upstream = "a", model = "x" }]',
            '"a b" is no name; allowed: 1-128 letters, digits, ., _, - and /',
        ),
        (
            f'[models."{"x" * 129}"]\nroutes = []',
            f'"{"x" * 56}... is no name; allowed: 1-128 letters, digits, ., _, - and /',
        ),
        (FAST + "routes = 1", f"models.fast.routes is no list of routes; allowed: {ROUTES_ALLOWED}"),
        (FAST + "routes = []", f"models.fast.routes is no list of routes; allowed: {ROUTES_ALLOWED}"),
        (FAST + 'routes = ["a"]', f"models.fast.routes is no list of routes; allowed: {ROUTES_ALLOWED}"),
        (FAST + 'routes.upstream = "a"', f"models.fast.routes is no list of routes; allowed: {ROUTES_ALLOWED}"),
        (
            FAST + 'routes = [{ upstream = "a", model = "x" }, { upstream = "c", model = "x" }]',
            'models.fast.routes[1].upstream is "c", which is no upstream; allowed: one of a, b',
        ),
        (
            FAST + 'routes = [{ upstream = "a" }]',
            f"models.fast.routes[0] has no model; allowed: {ROUTES_ALLOWED}",
        ),
        (
            FAST + 'routes = [{ model = "x" }]',
            f"models.fast.routes[0] has no upstream; allowed: {ROUTES_ALLOWED}",
        ),
        (
            FAST + 'routes = [{ upstream = "a", model = "x", weight = 0 }]',
            "models.fast.routes[0].weight is 0; allowed: a number above 0, up to 1000000",
        ),
        (
            FAST + 'routes = [{ upstream = "a", model = "x", wieght = 2 }]',
            "there is no setting models.fast.routes[0].wieght; did you mean models.fast.routes[0].weight?",
        ),
        (
            FAST + 'routes = [{ upstream = "a", model = "x" }, { upstream = "a", model = "y" }]',
            "models.fast.routes goes to one upstream twice; allowed: one route to each upstream",
        ),
        (
            FAST + 'rotes = 1\nroutes = [{ upstream = "a", model = "x" }]',
            "there is no setting models.fast.rotes; did you mean models.fast.routes?",
        ),
    ],
)
def test_fault_of_a_model_says_where_it_is(tmp_path: Path, text: str, fault: str) -> None:
    """A route is named by its place in the list."""
    assert faults_of(write(tmp_path, text)) == [f"safelight.toml: {fault}"]


def test_model_without_routes_is_refused(tmp_path: Path) -> None:
    """A name that leads nowhere is a mistake."""
    assert faults_of(write(tmp_path, FAST)) == [
        f"models.fast.routes: models.fast.routes is no list of routes; allowed: {ROUTES_ALLOWED}"
    ]


def test_route_to_a_wrong_upstream_is_no_second_fault(tmp_path: Path) -> None:
    """The upstream is there, if not as it should be."""
    text = '[upstreams.a]\nkind = "x"\n[models.fast]\nroutes = [{ upstream = "a", model = "x" }]'
    [fault] = faults_of(write(tmp_path, text))
    assert "upstreams.a.kind is" in fault


def test_environment_cannot_set_routes() -> None:
    """A variable can spell neither the names nor a list of tables."""
    environ = {"SAFELIGHT_MODELS__FAST__ROUTES": "a"}
    assert faults_of(None, environ) == ["SAFELIGHT_MODELS__FAST__ROUTES: there is no such setting"]
