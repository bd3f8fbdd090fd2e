"""The parameters of a function, and the text that declares, passes and compares its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import FunctionType
from typing import Any, NamedTuple

_VARARGS, _VARKEYWORDS = 4, 8  # flags of code objects; inspect has names for them, but is not light


class Parameters(NamedTuple):
    """The names of a function's parameters, by the ways in which they are passed."""

    positional_only: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    keyword_only: tuple[str, ...] = ()
    args: tuple[str, ...] = ()  # one name or none, as in kwargs
    kwargs: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., object]) -> Parameters:
        """Those of a function; of any other callable, anything that may be passed."""
        # From the code object: inspect.signature may evaluate annotations, and believes decorators
        # whose wrapper takes other arguments than they announce.
        if not isinstance(function, FunctionType):
            return cls(args=("args",), kwargs=("kwargs",))
        code = function.__code__
        names = iter(code.co_varnames)
        return cls(
            tuple(islice(names, code.co_posonlyargcount)),
            tuple(islice(names, code.co_argcount - code.co_posonlyargcount)),
            tuple(islice(names, code.co_kwonlyargcount)),
            tuple(islice(names, bool(code.co_flags & _VARARGS))),
            tuple(islice(names, bool(code.co_flags & _VARKEYWORDS))),
        )

    @property
    def single(self) -> tuple[str, ...]:
        """Those that stand for one argument."""
        return self.positional_only + self.positional + self.keyword_only

    @property
    def every(self) -> tuple[str, ...]:
        """All, those that stand for several arguments last."""
        return self.single + self.args + self.kwargs

    def defaults(self, function: FunctionType) -> dict[str, object]:
        """Parameters and their defaults, those that have one."""
        last = reversed(self.positional_only + self.positional)
        return dict(zip(last, reversed(function.__defaults__ or ()), strict=False)) | (
            function.__kwdefaults__ or {}
        )

    def declared(self) -> str:
        """What ``def`` has between its parentheses, but for defaults."""
        words = [*self.positional_only, *("/" for _ in self.positional_only[:1]), *self.positional]
        words += [f"*{name}" for name in self.args or ("",) if name or self.keyword_only]
        words += [*self.keyword_only, *(f"**{name}" for name in self.kwargs)]
        return ", ".join(words)

    def passed(self) -> str:
        """What a call has between its parentheses."""
        words = [*self.positional_only, *self.positional, *(f"*{name}" for name in self.args)]
        words += [*(f"{name}={name}" for name in self.keyword_only)]
        words += [*(f"**{name}" for name in self.kwargs)]
        return ", ".join(words)

    def key(self, our: str, *, typed: bool) -> list[str]:
        """The expressions that tell one call from another; our begins the names of helpers."""
        # Sorting never compares two values, for no name is there twice.
        pairs = [f"{our}sorted({name}.items())" for name in self.kwargs]
        parts = [*self.single, *self.args, *(f"{our}tuple({items})" for items in pairs)]
        if typed:
            many = [*self.args, *(f"{our}dict({items}).values()" for items in pairs)]
            parts += [f"{our}type({name})" for name in self.single]
            parts += [f"{our}tuple({our}map({our}type, {values}))" for values in many]
        return parts

    def labelled(self, arguments: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
        """Each argument by the name that a message should use."""
        for name, value in arguments.items():
            if name in self.args:
                yield from ((f"{name}[{i}]", each) for i, each in enumerate(value))
            elif name in self.kwargs:
                yield from value.items()
            else:
                yield name, value
