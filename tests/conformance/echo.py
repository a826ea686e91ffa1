"""A backend for the suites: every answer is the request's own body, read to its end first.

That it waits for the whole body is what gives a search for smuggling its teeth: a server that
answers early hides every disagreement about where the body ends. h11 reads strictly, so a head
that a proxy should have refused shows up as a 400 of the backend.

    GET /bytes/N    answers with N bytes instead, 10 MB at most

`python -m tests.conformance.echo FD ...` serves on listening sockets that it inherits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys

import h11

_BYTES = re.compile(rb"/bytes/([0-9]{1,8})").fullmatch
_FILLER = bytes(10_000_000)
_PIECE_BYTES = 65_536


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE_BYTES))
        elif isinstance(event, h11.Event):
            return event
        else:  # paused: the caller asks for the next request only once this one was answered
            raise h11.RemoteProtocolError("the request before was not answered")


async def _body(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    """The rest of a request, to its end."""
    body = b""
    while not isinstance(event := await _next(connection, reader), h11.EndOfMessage):
        if not isinstance(event, h11.Data):
            raise h11.RemoteProtocolError("the body broke off")
        body += event.data
    return body


async def _answer(connection: h11.Connection, writer: asyncio.StreamWriter, body: bytes) -> None:
    """Small answers leave in one piece: a suite may look at the first piece only."""
    head = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])
    pending = connection.send(head) or b""
    for start in range(0, len(body), _PIECE_BYTES):
        piece = h11.Data(data=body[start : start + _PIECE_BYTES])
        writer.write(pending + (connection.send(piece) or b""))
        await writer.drain()
        await asyncio.sleep(0)  # where nothing had to drain, the others have a turn all the same
        pending = b""
    writer.write(pending + (connection.send(h11.EndOfMessage()) or b""))
    await writer.drain()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        while isinstance(request := await _next(connection, reader), h11.Request):
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                writer.write(connection.send(go_on) or b"")
            body = await _body(connection, reader)
            asked = _BYTES(request.target)
            await _answer(connection, writer, _FILLER[: int(asked[1])] if asked else body)
            if connection.our_state is not h11.DONE:
                break
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    except ConnectionError:
        pass
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _main(descriptors: list[int]) -> None:
    servers = [
        await asyncio.start_server(_serve, sock=socket.socket(fileno=number))
        for number in descriptors
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main([int(number) for number in sys.argv[1:]]))
