"""Endpoints that change how the answers' cache works while it serves: pins, and the policy."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.steering import CannotPin, Steering
from blatam_kv.config import STRATEGIES
from blatam_kv.server.gate import Door
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply

INDEX = {
    "GET /cache/pins": "which of your answers are pinned, and what all of them take",
    "PUT /cache/pins/{id}": "keep the answer of a document from being evicted",
    "DELETE /cache/pins/{id}": "let go of it",
    "GET /api/v1/kv-cache/policy": "which policy decides what leaves, and which there are",
    "PUT /api/v1/kv-cache/policy/{policy}": "let another one decide, until the service ends",
}


class SteeringDesk:
    """The endpoints. They ask the database or stop the cache for a moment, so all run in a thread."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        admin: dict[str, Any] = {"scope": Scope.ADMIN}
        change: dict[str, Any] = {"policy": "write", **admin}
        pin, policy = "/cache/pins/{id}", "/api/v1/kv-cache/policy"
        return [
            Door(path="/cache/pins", answer=self.pins, **admin),
            Door(path=pin, method="PUT", answer=self.pin, **change),
            Door(path=pin, method="DELETE", answer=self.unpin, **change),
            Door(path=policy, answer=self.policy, **admin),
            Door(path=f"{policy}/{{policy}}", method="PUT", answer=self.change_policy, **change),
        ]

    def pins(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Which of a tenant's answers are pinned, newest first, and what those of all take."""
        found = self._steering.pins(tenant=caller.tenant)
        return json_reply(
            {
                "pins": [_described(answer) for answer in found.mine],
                "pinned": found.pinned,
                "bytes": found.bytes,
                "limit_bytes": found.limit_bytes,
            }
        )

    def pin(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Keep the answer of a document from being evicted, also after a restart."""
        document_id = request.path_params["id"]
        try:
            answer = self._steering.pin(document_id, tenant=caller.tenant)
        except CannotPin as error:
            raise Problem(409, str(error)) from None
        return json_reply(_described(answer))

    def unpin(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Let go of an answer that was pinned."""
        document_id = request.path_params["id"]
        if not self._steering.unpin(document_id, tenant=caller.tenant):
            raise Problem(404, "no answer of yours is pinned under this document")
        return Response(status_code=204)

    def policy(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Which policy decides what leaves, what the settings say, and which there are."""
        return json_reply(
            {
                "policy": self._steering.policy,
                "configured": self._steering.configured,
                "policies": STRATEGIES,
            }
        )

    def change_policy(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Let another policy decide, until the service ends. Nothing leaves for that."""
        done = self._steering.change_policy(request.path_params["policy"])
        return json_reply(
            {"policy": done.policy, "before": done.before, "seconds": round(done.seconds, 6)}
        )


def _described(answer: Answer) -> dict[str, object]:
    return {"document_id": answer.id, "title": answer.title, "bytes": answer.size_bytes}
