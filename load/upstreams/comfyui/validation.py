"""What the server finds wrong with a graph before it queues it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.plan import Graph
from load.upstreams.comfyui.spec import Config, Lists, NodeClass
from load.upstreams.comfyui.troubles import SERVER_ROOT

Problem = dict[str, Any]
Checked = dict[str, list[Problem]]

_LONG_LIST = 20
_MISSING = object()


class InvalidPrompt(Exception):
    """No output of the graph can run; `error` and `node_errors` are the 400's."""

    def __init__(self, error: Problem, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(error["message"])
        self.error = error
        self.node_errors = node_errors or {}


@dataclass(slots=True)
class Valid:
    """The outputs that can run, and what is wrong with the others."""

    outputs: list[str]
    node_errors: dict[str, Any]


def problem(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    """An error as the server writes it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def validate(
    graph: Graph,
    classes: Mapping[str, NodeClass],
    lists: Lists,
    folders: Folders,
) -> Valid:
    """Check a graph; raises `InvalidPrompt` when nothing of it can run.

    Values are converted in place where the server does so. A graph of another shape raises whatever it raises,
    and the server answers 500.
    """
    outputs = _outputs(graph, classes)
    if not outputs:
        raise InvalidPrompt(problem("prompt_no_outputs", "Prompt has no outputs"))
    return _Validation(graph, classes, lists, folders).run(outputs)


def _outputs(graph: Graph, classes: Mapping[str, NodeClass]) -> list[str]:
    found = []
    for name, node in graph.items():
        if "class_type" not in node:
            missing = "Cannot execute because a node is missing the class_type property."
            raise InvalidPrompt(problem("invalid_prompt", missing, f"Node ID '#{name}'"))
        if node["class_type"] not in classes:
            unknown = f"Cannot execute because node {node['class_type']} does not exist."
            raise InvalidPrompt(problem("invalid_prompt", unknown, f"Node ID '#{name}'"))
        if classes[node["class_type"]].output_node:
            found.append(name)
    return found


@dataclass(slots=True)
class _Validation:
    graph: Graph
    classes: Mapping[str, NodeClass]
    lists: Lists
    folders: Folders
    checked: dict[str, tuple[bool, list[Problem]]] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)

    def run(self, outputs: list[str]) -> Valid:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        details: list[str] = []
        for output in outputs:
            fine, reasons = self._try(output)
            if fine:
                good.append(output)
                continue
            details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
            self._collect(output, node_errors)
        if not good:
            failed = problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(details))
            raise InvalidPrompt(failed, node_errors)
        return Valid(good, node_errors)

    def _try(self, output: str) -> tuple[bool, list[Problem]]:
        try:
            return self._check(output)
        except (KeyError, IndexError, TypeError) as error:
            told = _exception(error)
            reason = problem(
                "exception_during_validation",
                "Exception when validating node",
                str(error),
                exception_type=told["exception_type"],
                traceback=told["traceback"],
            )
            self.checked[output] = (False, [reason])
            return self.checked[output]

    def _collect(self, output: str, node_errors: dict[str, Any]) -> None:
        for name, (fine, reasons) in self.checked.items():
            if fine or not reasons:
                continue
            entry = {"errors": reasons, "dependent_outputs": [], "class_type": self.graph[name]["class_type"]}
            node_errors.setdefault(name, entry)["dependent_outputs"].append(output)

    def _check(self, name: str) -> tuple[bool, list[Problem]]:
        if name in self.checked:
            return self.checked[name]
        if name in self.path:
            # The server recurses until Python stops it; what is left in the end is "invalid", without a reason.
            return False, []
        self.path.append(name)
        try:
            self.checked[name] = self._check_node(self.graph[name])
        finally:
            self.path.pop()
        return self.checked[name]

    def _check_node(self, node: Mapping[str, Any]) -> tuple[bool, list[Problem]]:
        kind, inputs = self.classes[node["class_type"]], node["inputs"]
        fine, problems = True, []
        for one in kind.inputs:
            value = inputs.get(one.name, _MISSING)
            config = one.config(self.lists)
            if value is _MISSING:
                if not one.optional:
                    message = "Required input is missing"
                    problems.append(problem("required_input_missing", message, one.name, input_name=one.name))
            elif isinstance(value, list):
                good, found = self._check_link(one.name, value, config)
                fine, problems = fine and good, problems + found
            else:
                problems += _check_value(inputs, one.name, config, own=kind.checked is not None)
        problems += self._check_own(kind, inputs)
        return fine and not problems, problems

    def _check_own(self, kind: NodeClass, inputs: Mapping[str, Any]) -> list[Problem]:
        wrong = kind.checked(self.folders, inputs) if kind.checked is not None else {}
        message = "Custom validation failed for node"
        return [
            problem("custom_validation_failed", message, f"{name} - {what}", input_name=name)
            for name, what in wrong.items()
        ]

    def _check_link(self, name: str, link: list[Any], config: Config) -> tuple[bool, list[Problem]]:
        known = {"input_name": name, "input_config": config}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return True, [problem("bad_linked_input", message, name, **known, received_value=link)]
        source, slot = link
        received = self.classes[self.graph[source]["class_type"]].outputs[slot]
        if received != config[0]:
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            message = "Return type mismatch between linked nodes"
            extra = {**known, "received_type": received, "linked_node": link}
            return True, [problem("return_type_mismatch", message, details, **extra)]
        try:
            return self._check(source)[0], []
        except (KeyError, IndexError, TypeError) as error:
            message = "Exception when validating inner node"
            extra = {**known, **_exception(error), "linked_node": link}
            reason = problem("exception_during_inner_validation", message, str(error), **extra)
            self.checked[source] = (False, [reason])
            return False, []


def _exception(error: Exception) -> dict[str, Any]:
    lines = [f'  File "{SERVER_ROOT}/execution.py", line {line}, in validate_inputs\n    ...\n' for line in (808, 788)]
    return {"exception_message": str(error), "exception_type": type(error).__name__, "traceback": lines}


_CONVERSIONS: Mapping[str, Any] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _check_value(inputs: Any, name: str, config: Config, *, own: bool) -> list[Problem]:
    kind, options = config
    known = {"input_name": name, "input_config": config}
    value = inputs[name]
    if isinstance(kind, str) and kind in _CONVERSIONS:
        try:
            value = inputs[name] = _CONVERSIONS[kind](value)
        except (ValueError, TypeError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            extra = {**known, "received_value": value, "exception_message": str(error)}
            return [problem("invalid_input_type", message, f"{name}, {value}, {error}", **extra)]
    if own:
        return []
    return _check_range(name, value, options, known) + _check_choice(name, value, config)


def _check_range(name: str, value: Any, options: Mapping[str, Any], known: dict[str, Any]) -> list[Problem]:
    found = []
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        found.append(problem("value_smaller_than_min", message, name, **known, received_value=value))
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        found.append(problem("value_bigger_than_max", message, name, **known, received_value=value))
    return found


def _check_choice(name: str, value: Any, config: Config) -> list[Problem]:
    choices = config[1]["options"] if config[0] == "COMBO" else config[0]
    if not isinstance(choices, list):
        return []
    with contextlib.suppress(TypeError):
        if value in choices:
            return []
    short = len(choices) <= _LONG_LIST
    told = str(choices) if short else f"(list of length {len(choices)})"
    extra = {"input_name": name, "input_config": config if short else None, "received_value": value}
    return [problem("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {told}", **extra)]
