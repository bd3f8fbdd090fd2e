"""A query from outside, checked: the only place where the pipeline believes nothing.

Every rejected field is named, with the fix, and all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from blatam_kv.bul.outbound import target
from blatam_kv.bul.sanitise import clean
from blatam_kv.bul.wishes import CacheWishes
from blatam_kv.config import did_you_mean
from blatam_kv.documents.rendering import FORMATS
from blatam_kv.documents.styles import STYLES, Look
from blatam_kv.errors import InvalidRequest, MissingExtra
from blatam_kv.truthgpt.brief import AREAS, DOCUMENT_TYPES, LANGUAGES

try:
    from pydantic import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationError,
    )
except ImportError as error:
    raise MissingExtra("pydantic", extra="server") from error

# However many are found in a batch, so many are named.
MAX_PROBLEMS = 20
MAX_QUERY_CHARS = 10_000
MAX_FIELD_CHARS = 200
MAX_OUTLINE = 20
_FORMAT_ALIASES = {"md": "markdown"}


def canonical_format(value: object) -> object:
    """``md`` as ``markdown``; anything else as it is."""
    return _FORMAT_ALIASES.get(value, value) if isinstance(value, str) else value


def _query(value: str) -> str:
    text = value.strip()
    # NFC makes one character of at most four; what is longer need not be normalised to be refused.
    if len(text) <= 4 * MAX_QUERY_CHARS:
        text = clean(text)
    if not text:
        raise ValueError("is empty; say what document you want written")
    if len(text) > MAX_QUERY_CHARS:
        raise ValueError(f"has {len(text):,} characters; shorten it to {MAX_QUERY_CHARS:,}")
    return text


def _line(value: str) -> str:
    text = clean(value)
    if "\n" in text:
        raise ValueError("must be one line")
    if len(text) > MAX_FIELD_CHARS:
        raise ValueError(f"has {len(text):,} characters; shorten it to {MAX_FIELD_CHARS}")
    return text


def _heading(value: str) -> str:
    text = _line(value).strip("# ")
    if not text:
        raise ValueError("is empty; a heading has words")
    return text


def _url(value: str) -> str:
    target(value)
    return value


CallbackURL = Annotated[str, AfterValidator(_url)]
Format = Literal["markdown", "html", "txt", "json", "docx", "pdf"]
Style = Literal["professional", "modern", "minimal", "corporate", "creative"]
Line = Annotated[str, AfterValidator(_line)]


Heading = Annotated[str, AfterValidator(_heading)]


class QueryRequest(BaseModel):
    """One document asked for. What is None is worked out from the query.

    outline: the headings to write under; None takes those of the document's type, an empty list
    leaves them to the model. table_of_contents: None leaves it to the document's length.
    letterhead: whether the tenant's stands on it. priority: 0 (critical) to 4 (background), lower
    sooner. deadline_seconds: from now; what is not written by then fails. max_length: at most this
    many tokens. seed: leave it out and the same request always gets the same document.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    query: Annotated[str, AfterValidator(_query)]
    format: Annotated[Format, BeforeValidator(canonical_format)] = "markdown"
    style: Style = "professional"
    table_of_contents: bool | None = None
    outline: Annotated[list[Heading], Field(max_length=MAX_OUTLINE)] | None = None
    letterhead: bool = True
    business_area: str | None = None
    document_type: str | None = None
    language: str | None = None
    company_name: Line | None = None
    industry: Line | None = None
    company_size: Line | None = None
    target_audience: Line | None = None
    priority: Annotated[int, Field(ge=0, le=4)] = 1
    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    max_length: Annotated[int, Field(ge=1, le=10_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    cache: CacheWishes | None = None
    callback_url: CallbackURL | None = None

    @property
    def look(self) -> Look:
        """How its document is to look."""
        return Look(self.style, self.table_of_contents, self.letterhead)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field, and what to do about it."""

    field: str
    detail: str


class RequestRejected(InvalidRequest):
    """A request with one or more bad fields; ``problems`` lists them all."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        text = "; ".join(f"{problem.field}: {problem.detail}" for problem in problems)
        super().__init__(text, field=problems[0].field)
        self.problems = problems


_LISTED = {"format": FORMATS, "style": tuple(STYLES)}
_NAMED = {"business_area": AREAS, "document_type": DOCUMENT_TYPES, "language": tuple(LANGUAGES)}


def parse_request(payload: object, *, typed: bool = True) -> QueryRequest:
    """The request in a decoded JSON value. typed: False where everything comes as text. Raises
    RequestRejected, never anything else."""
    if not isinstance(payload, dict):
        raise RequestRejected([FieldProblem("", 'must be an object such as {"query": "..."}')])
    try:
        request = QueryRequest.model_validate(payload, strict=None if typed else False)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestRejected([explain(problem, QueryRequest) for problem in found]) from None
    problems = [
        FieldProblem(name, one_of(value, allowed))
        for name, allowed in _NAMED.items()
        if (value := getattr(request, name)) is not None and value not in allowed
    ]
    if problems:
        raise RequestRejected(problems)
    return request


MAX_BATCH = 1_000
# Documents of a batch that do not say how urgent they are.
BATCH_PRIORITY = 3


class BatchRequest(BaseModel):
    """Documents asked for at once, how urgent those are that do not say so, and whom to tell when all
    have ended."""

    documents: Annotated[list[QueryRequest], Field(min_length=1, max_length=MAX_BATCH)]
    priority: Annotated[int, Field(ge=0, le=4)] = BATCH_PRIORITY
    callback_url: CallbackURL | None = None


def parse_batch(payload: object) -> BatchRequest:
    """The checked ``{"documents": [...], "priority": 3}``. Raises RequestRejected."""
    known = ("documents", "priority", "callback_url")
    if not isinstance(payload, dict) or not isinstance(payload.get("documents"), list):
        example = '{"documents": [{"query": "..."}]}'
        raise RequestRejected([FieldProblem("documents", f"must be a list, as in {example}")])
    problems = [
        FieldProblem(str(name)[:100], f"is not a known field{did_you_mean(str(name)[:100], known)}")
        for name in payload
        if name not in known
    ]
    priority = payload.get("priority", BATCH_PRIORITY)
    if type(priority) is not int or not 0 <= priority <= 4:
        problems.append(FieldProblem("priority", "must be a whole number from 0 to 4"))
    callback_url = payload.get("callback_url")
    if callback_url is not None:
        try:
            target(callback_url if isinstance(callback_url, str) else "")
        except ValueError as error:
            problems.append(FieldProblem("callback_url", str(error)))
    documents = payload["documents"]
    if not 1 <= len(documents) <= MAX_BATCH:
        text = f"has {len(documents):,} items; a batch is 1 to {MAX_BATCH:,} documents"
        raise RequestRejected([*problems, FieldProblem("documents", text)])
    requests = []
    for number, document in enumerate(documents):
        if isinstance(document, dict):
            document = {"priority": priority} | document
        try:
            requests.append(parse_request(document))
        except RequestRejected as error:
            for problem in error.problems:
                field = f"documents.{number}.{problem.field}".rstrip(".")
                problems.append(FieldProblem(field, problem.detail))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise RequestRejected(problems[:MAX_PROBLEMS])
    return BatchRequest.model_construct(
        documents=requests, priority=priority, callback_url=callback_url
    )


def one_of(value: object, allowed: tuple[str, ...]) -> str:
    """The message for a value outside a list, with the nearest of the list."""
    hint = did_you_mean(value, allowed) if isinstance(value, str) and len(value) < 100 else ""
    return f"{_short(value)} is not one of {', '.join(allowed)}{hint}"


def explain(problem: Any, request: type[BaseModel]) -> FieldProblem:
    """One pydantic error (a mapping of mixed types, hence Any) in words that name the fix."""
    name = ".".join(str(part) for part in problem["loc"])[:100]
    kind, given = problem["type"], problem["input"]
    if kind == "missing":
        hint = "; say what document you want written" if name == "query" else ""
        return FieldProblem(name, f"is required{hint}")
    if kind == "extra_forbidden":
        known = tuple(request.model_fields)
        hint = did_you_mean(name, known) or f"; known fields are {', '.join(known)}"
        return FieldProblem(name, f"is not a known field{hint}")
    if kind == "literal_error" and name in _LISTED:
        return FieldProblem(name, one_of(given, _LISTED[name]))
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return FieldProblem(name, message)
    return FieldProblem(name, f"{message[:1].lower()}{message[1:]}, not {_short(given)}")


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'object'}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
