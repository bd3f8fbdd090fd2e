"""The devices that the model runs on, and what they do."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.service import Service
from blatam_kv.server.gate import Door
from blatam_kv.server.replies import json_reply

INDEX = {"GET /api/v1/devices": "the devices that the model runs on, if it is spread over several"}


class DeviceDesk:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def doors(self) -> list[Door]:
        """Its door."""
        return [Door(path="/api/v1/devices", answer=self.devices, scope=Scope.METRICS)]

    async def devices(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Each device: what is read of it, what it was given, whether it is in the rotation."""
        return json_reply({"devices": [asdict(each) for each in self._service.devices()]})
