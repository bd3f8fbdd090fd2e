"""``Trip``: commands on their way to a Redis server, sent and not yet answered.

redis-py sends and reads in one call, so servers that have parts of one batch would be asked one after
another. A trip takes the two apart: all are sent before the first is read, and the batch takes as
long as the slowest server, not as all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Put = Callable[[Any, bytes], None]
"""Puts one command about a name into redis-py's pipeline."""


class Trip:
    """For one thread; ``answers`` or ``close`` ends it.

    client: redis-py's. errors: what it may raise. What goes wrong at once is raised by ``answers`` too.
    """

    def __init__(
        self, client: Any, put: Put, names: Sequence[bytes], errors: tuple[type[Exception], ...]
    ) -> None:
        self._client, self.put, self.names = client, put, names
        self._connection: Any = None
        self._error: Exception | None = None
        pipeline = client.pipeline(transaction=False)
        for name in names:
            put(pipeline, name)
        self._commands: list[tuple[Any, Any]] = pipeline.command_stack
        try:
            self._connection = client.connection_pool.get_connection()
            packed = self._connection.pack_commands([words for words, _ in self._commands])
            self._connection.send_packed_command(packed)
        except errors as error:
            self._error = error
            self.close()

    def answers(self) -> list[Any]:
        """What is answered to each command, which may be an error of redis-py. Raises its errors."""
        from redis.exceptions import ConnectionError as Lost
        from redis.exceptions import ResponseError

        answers: list[Any] = []
        try:
            if self._error is not None:
                raise self._error
            for words, options in self._commands:
                try:
                    read = self._client.parse_response(self._connection, words[0], **options)
                except ResponseError as error:
                    read = error
                answers.append(read)
        except Lost:  # once more, as for any command: a kept connection may have been closed
            self.close()
            return pipelined(self.put, self.names, self._client)
        connection, self._connection = self._connection, None
        self._client.connection_pool.release(connection)
        return answers

    def close(self) -> None:
        """Give the connection back, closed if it still has answers to bring. May be called again."""
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None


def pipelined(put: Put, names: Sequence[bytes], client: Any) -> list[Any]:
    """What is answered to a command about each name, in one round trip; as ``Trip.answers``."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        put(pipeline, name)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    return answers


def pipelined_asking(put: Put, names: Sequence[bytes], client: Any) -> list[Any]:
    """The same of a server that a slot is being moved to, where each command has to say so."""

    def put_asking(pipeline: Any, name: bytes) -> None:
        pipeline.execute_command("ASKING")
        put(pipeline, name)

    return pipelined(put_asking, names, client)[1::2]


def asking(client: Any) -> Any:
    """A client on one connection, to be closed, that says ASKING before each command."""
    line = client.client()
    plain = line.execute_command

    def execute_command(*words: Any, **options: Any) -> Any:
        plain("ASKING")
        return plain(*words, **options)

    line.execute_command = execute_command
    return line
