"""A wish made to fit the model that its name means: what that has no use for is left out and told. No I/O."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.core.aliases import Aliases
from gateway.core.models import Model
from gateway.core.params import CONTROLS
from gateway.edges.compat.dialect import Sent, Wish

MOST_GUIDANCE: Final = 100.0
"""Of any model."""


def fitted(wish: Wish, aliases: Aliases, models: Mapping[str, Model]) -> tuple[Wish, frozenset[str]]:
    """Return the wish for the model that its name means, and the hints that were left out.

    A name that means no model, or one without the task, stays as it is: admission says why not.
    """
    name = _meant(wish, aliases, models)
    model = None if name is None else models.get(name)
    if model is None or wish.task not in model.tasks:
        return replace(wish, model=name), frozenset()
    known = _known(wish, model)
    ignored = {key for key in wish.hints - known if wish.params.get(key) is not None}
    params = {key: value for key, value in wish.params.items() if key not in ignored}
    if "negative_prompt" in wish.hints - known and (parts := params.get("prompts")):
        params["prompts"] = [part for part in parts if part.get("weight", 1) >= 0]
        ignored |= {"negative_prompt"} if len(params["prompts"]) < len(parts) else set()
    params |= _defaults(wish, known, params) | _bounded(wish, model, params)
    sent = tuple(_named_as_by(model, one) for one in wish.sent)
    return replace(wish, model=name, params=params, sent=sent), frozenset(ignored)


def _meant(wish: Wish, aliases: Aliases, models: Mapping[str, Model]) -> str | None:
    name = aliases.find(wish.model, wish.task, models)
    is_unable = name is not None and name in models and wish.task not in models[name].tasks
    return aliases.find(None, wish.task, models) if is_unable and wish.goes_anywhere else name


def _known(wish: Wish, model: Model) -> frozenset[str]:
    """The params that the model has a use for in this task."""
    known = model.effects(wish.task, {one.role for one in wish.sent})
    if "prompt" in known:
        known |= {"prompts"}
    return known - {"style"} if wish.has_preset and wish.params.get("style") not in model.styles else known


def _defaults(wish: Wish, known: frozenset[str], params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wish.defaults.items() if key in known and params.get(key) is None}


def _bounded(wish: Wish, model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """How hard a prompt pulls is a hint: dialects have a scale of their own for it, and a model takes what it can.

    What no model at all takes is left for admission to refuse.
    """
    guidance: float | None = params.get("guidance")
    if guidance is None or "guidance" not in wish.hints or not 0 <= guidance <= MOST_GUIDANCE:
        return {}
    low, high = model.guidance
    return {"guidance": min(max(guidance, low), high)}


def _named_as_by(model: Model, one: Sent) -> Sent:
    """Name a control image as the model does, and what makes it of a picture."""
    if one.role not in CONTROLS:
        return one
    made_by = one.role if one.is_raw and one.role in model.preprocessors else one.preprocessor
    is_any = one.role not in model.controls and "control" in model.controls
    return replace(one, role="control" if is_any else one.role, preprocessor=made_by)
