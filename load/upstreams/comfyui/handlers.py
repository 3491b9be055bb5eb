"""The handlers of all paths but the WebSocket's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from load.upstreams.comfyui import files_http
from load.upstreams.comfyui.answers import SERVER, empty, json_answer, plain, trouble
from load.upstreams.comfyui.executor import Settings
from load.upstreams.comfyui.facts import Facts
from load.upstreams.comfyui.records import Records
from load.upstreams.comfyui.requests import KNOWN_PATHS, is_foreign, without_api
from load.upstreams.comfyui.validation import InvalidPrompt, problem, validate
from load.upstreams.comfyui.worker import Worker
from load.upstreams.standin import Exchange
from load.upstreams.tally import Tally
from load.upstreams.wire import Answer

_NO_UPGRADE = 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'


class Handlers:
    """Answers requests from what one start of the server has in memory."""

    def __init__(self, settings: Settings, facts: Facts, worker: Worker, records: Records, tally: Tally) -> None:
        self._settings, self._facts = settings, facts
        self._worker, self._records, self._tally = worker, records, tally
        self._next_number = 0
        self._handlers: Mapping[str, Callable[[Exchange], Answer]] = {
            "prompt": self._take_prompt,
            "prompt_info": lambda _: json_answer(worker.queue_info()),
            "queue": lambda _: json_answer(worker.queue.told()),
            "queue_edit": self._edit_queue,
            "interrupt": self._interrupt,
            "history": self._history,
            "history_edit": self._edit_history,
            "view": self._view,
            "upload_image": lambda exchange: self._upload(exchange, mask=False),
            "upload_mask": lambda exchange: self._upload(exchange, mask=True),
            "free": self._free,
            "system_stats": lambda _: json_answer(facts.system_stats()),
            "features": lambda _: _no_route() if settings.old else json_answer(facts.features()),
            "object_info": lambda exchange: json_answer(facts.object_info(_path(exchange))),
            "models": lambda exchange: facts.models(_path(exchange)),
            "embeddings": lambda _: json_answer([]),
            "extensions": lambda _: json_answer([]),
            "ws": lambda _: plain(400, _NO_UPGRADE),
            "wrong_method": lambda exchange: _wrong_method(_path(exchange)),
            "unknown": lambda _: _no_route(),
        }

    def answer(self, exchange: Exchange) -> Answer:
        """The answer of the path's handler, or of the framework around it."""
        if is_foreign(exchange.request):
            return empty(403)
        most, given = self._facts.max_upload_bytes, len(exchange.body)
        if given > most:
            return plain(413, f"Maximum request body size {most} exceeded, actual body size {given}")
        try:
            return self._handlers[exchange.asked.operation](exchange)
        except InvalidPrompt as error:
            return json_answer({"error": error.error, "node_errors": error.node_errors}, 400)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return trouble()

    def _take_prompt(self, exchange: Exchange) -> Answer:
        body = json.loads(exchange.body)
        number = self._number(body)
        if "prompt" not in body:
            if self._settings.old:
                return json_answer({"error": "no prompt", "node_errors": []}, 400)
            raise InvalidPrompt(problem("no_prompt", "No prompt provided", "No prompt provided"))
        graph = json.loads(json.dumps(body["prompt"]))
        _must_be_graph(graph)
        valid = validate(graph, self._settings.classes, self._facts.lists(), self._settings.folders)
        given = None if self._settings.old else body.get("prompt_id")
        prompt_id = str(self._records.new_id()) if given is None else str(given)
        extra_data = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if exchange.begun(200):
            job = self._records.accept(exchange.call.number, prompt_id, body, graph, extra_data, valid.outputs)
            self._tally.bill(exchange.call, 1)
            self._worker.queue.put(number, job)
        return json_answer({"prompt_id": prompt_id, "number": number, "node_errors": valid.node_errors})

    def _number(self, body: Mapping[str, Any]) -> float:
        if "number" in body:
            return float(body["number"])
        number = -self._next_number if body.get("front") else self._next_number
        self._next_number += 1
        return number

    def _interrupt(self, exchange: Exchange) -> Answer:
        try:
            wanted = json.loads(exchange.body).get("prompt_id")
        except ValueError:
            wanted = None
        running = [item.job.prompt_id for item in self._worker.queue.running]
        if self._settings.old or not wanted or wanted in running:
            self._worker.executor.interrupt = True
        return empty()

    def _edit_queue(self, exchange: Exchange) -> Answer:
        body, queue = json.loads(exchange.body), self._worker.queue
        gone = queue.clear() if body.get("clear") else []
        for prompt_id in body.get("delete", ()):
            found = queue.delete(prompt_id)
            gone += [found] if found is not None else []
        for item in gone:
            item.job.state = "deleted"
        return empty()

    def _history(self, exchange: Exchange) -> Answer:
        query, queue = exchange.request.query, self._worker.queue
        _, _, prompt_id = _path(exchange).removeprefix("/history").partition("/")
        if prompt_id:
            known = queue.history.get(prompt_id)
            return json_answer({prompt_id: known} if known is not None else {})
        most = int(query["max_items"]) if "max_items" in query else None
        return json_answer(queue.told_history(most, int(query.get("offset", "-1"))))

    def _edit_history(self, exchange: Exchange) -> Answer:
        body, history = json.loads(exchange.body), self._worker.queue.history
        if body.get("clear"):
            history.clear()
        for prompt_id in body.get("delete", ()):
            history.pop(prompt_id, None)
        return empty()

    def _view(self, exchange: Exchange) -> Answer:
        request = exchange.request
        return files_http.view(self._settings.folders, request.query, request.headers.get("Range"))

    def _upload(self, exchange: Exchange, *, mask: bool) -> Answer:
        content_type = exchange.request.headers.get("Content-Type", "")
        answer, told = files_http.take_upload(self._settings.folders, content_type, exchange.body, mask=mask)
        return answer if told is None else json_answer(told)

    def _free(self, exchange: Exchange) -> Answer:
        if json.loads(exchange.body).get("free_memory"):
            self._worker.free()
        return empty()


def _path(exchange: Exchange) -> str:
    return without_api(exchange.request.path)


def _wrong_method(path: str) -> Answer:
    return plain(405, "405: Method Not Allowed", ("Allow", KNOWN_PATHS[path]))


def _no_route() -> Answer:
    return Answer(404, (("Content-Type", "application/octet-stream"), SERVER), b"")


def _must_be_graph(graph: object) -> None:
    if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
        raise TypeError("not a graph")
