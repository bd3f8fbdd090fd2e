"""What is served here, as an OpenAPI 3.1 document made of the doors themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from blatam_kv.server.fields import WEBSOCKET
from blatam_kv.server.gate import Door
from blatam_kv.server.problem import MEDIA_TYPE

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_WORD = re.compile(r"\w+")
_COMPONENT = "#/components/schemas/{model}"

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_OPENAI_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
# What a parameter may be, by its name; a test sends every one of them.
_EXAMPLES: dict[str, object] = {
    "id": "0123456789abcdef0123456789abcdef",
    "area": "sales",
    "key": "e2NB8q9wX3XjTTis3FJDfgY6OqQ1jhCcW3CjKfELBMOKN2g2rXvw1oCVDlM7CaxF",
    "page": 1,
    "limit": 20,
    "count": 1,
    "status": "completed",
    "business_area": "sales",
    "q": "panader",
    "format": "html",
    "style": "modern",
    "download": 1,
    "tasks": 0,
    "partial": 1,
    "priority": 3,
    "callback_url": "https://example.org/done",
    "policy": "lfu",
}
_SIGNATURE = (
    "Or sign the request: RFC 9421, profile blatam-kv-1 (Signature-Input, Signature, Content-Digest). "
    "`blatam-kv sign` and `blatam_kv.client` do."
)


def describe(doors: Sequence[Door], *, version: str) -> dict[str, Any]:
    """The document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM, "OpenAIError": _OPENAI_ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for door in doors:
        if door.method == WEBSOCKET:  # which OpenAPI has no words for
            continue
        path = _PARAMETER.sub(r"{\1}", door.path)
        paths.setdefault(path, {})[door.method.lower()] = _operation(door, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "BUL: documents through the cache", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": _SIGNATURE,
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": _SIGNATURE},
            },
        },
    }


def _operation(door: Door, schemas: dict[str, Any]) -> dict[str, Any]:
    compatible = door.path.startswith("/v1/")
    error = "OpenAIError" if compatible else "Problem"
    media_type = "application/json" if compatible else MEDIA_TYPE
    operation: dict[str, Any] = {
        "operationId": "_".join([door.method.lower(), *_WORD.findall(door.path)]),
        "summary": (door.answer.__doc__ or "").partition("\n")[0],
        "parameters": [
            _parameter(name, "path", required=True) for name in _PARAMETER.findall(door.path)
        ]
        + [_parameter(name, "query", required=False) for name in door.options],
        "responses": {
            "2XX": {"description": "done, or taken on"},
            "default": {
                "description": "an error, with what would mend it",
                "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{error}"}}},
            },
        },
    }
    if door.scope is not None:
        operation["security"] = [{"api_key": []}, {"bearer": []}]
        operation["description"] = f"Needs the scope `{door.scope.value}`."
    if door.body is not None:
        json_body = {"schema": _schema(door.body, schemas), "example": door.example}
        content = {"application/json": json_body}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(name: str, place: str, *, required: bool) -> dict[str, Any]:
    example = _EXAMPLES[name]
    kind = "integer" if isinstance(example, int) else "string"
    schema = {"type": kind}
    return {"name": name, "in": place, "required": required, "schema": schema, "example": example}


def _schema(body: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    schema = body.model_json_schema(ref_template=_COMPONENT)
    schemas.update(schema.pop("$defs", {}))
    schemas[body.__name__] = schema
    return {"$ref": _COMPONENT.format(model=body.__name__)}
