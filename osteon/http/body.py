"""A request's body as it comes: in blocks, each within a deadline, and drained when it is refused.

``files.py`` reads uploads through it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

BLOCK_BYTES = 2**20
SILENCE_MAX_S = 60.0
DRAIN_BYTES_MAX = 16 * 2**20
DRAIN_S = 5.0


class Body:
    """The body of one request."""

    def __init__(self, request: Request) -> None:
        self._stream = request.stream()
        self._ended = False
        self._awaits_permission = "expect" in request.headers

    async def blocks(self) -> AsyncIterator[bytes]:
        """Return the body in blocks of about 1 MiB.

        Raises
        ------
        HTTPException
            408: nothing came for a minute.
        """
        block = bytearray()
        while not self._ended:
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    chunk = await self._next()
            except TimeoutError as error:
                detail = f"nothing came for {SILENCE_MAX_S:g} s: send the upload again"
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail) from error
            block += chunk
            if len(block) >= BLOCK_BYTES or self._ended:
                yield bytes(block)
                block.clear()

    async def drain(self) -> None:
        """Read on for a while after a refusal.

        A connection that is closed while the client still sends is reset, and the client never
        sees the answer.
        """
        if self._awaits_permission:
            return
        drained = 0
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(DRAIN_S):
                while not self._ended and drained < DRAIN_BYTES_MAX:
                    drained += len(await self._next())

    async def _next(self) -> bytes:
        chunk = await anext(self._stream, b"")
        self._ended = not chunk
        return chunk
