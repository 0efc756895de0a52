"""What every request passes before the application sees it: its id, its key, its body, its line in the log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stagevar.errors import KeyRefusedError, SlowError, StagevarError, TooLargeError
from stagevar.serve import replies
from stagevar.serve.limits import PATHS, Limits
from stagevar.serve.metrics import Metrics

OPEN = ("/health", "/ready")
"""Paths that need no key."""

log = logging.getLogger("stagevar.serve")


class Door:
    """Middleware around the application.

    Args:
        app: what is behind it.
        keys: API keys, one of which a request must bear; none are asked for without.
        limits, metrics: of the server.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.digests = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, name = time.monotonic(), f"req_{secrets.token_hex(12)}"
        line: dict[str, Any] = {"request": name, "method": scope["method"], "path": scope["path"], "status": 500}
        scope["state"] = {**scope.get("state", {}), "line": line}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        try:
            scope["state"]["client"] = self._client(scope)
            again = await self._read(scope, receive)
            await self.app(scope, again, sent)
        except StagevarError as error:
            refused = JSONResponse(replies.failure(error), error.http_status, replies.headers(error))
            await refused(scope, receive, sent)
        finally:
            seconds = time.monotonic() - began
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.metrics.answered(path, line["status"], seconds)
            log.info(json.dumps({**line, "milliseconds": round(seconds * 1e3, 1)}))

    def _client(self, scope: Scope) -> str:
        """Who asks: the number of the key, or the address. All keys are compared, each in constant time.

        Raises:
            KeyRefusedError
        """
        address = scope["client"][0] if scope.get("client") else "unknown"
        if not self.digests or scope["path"] in OPEN:
            return str(address)
        given = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
        digest = sha256(given.removeprefix(b"Bearer ")).digest()
        found = [number for number, known in enumerate(self.digests) if hmac.compare_digest(digest, known)]
        if not found:
            raise KeyRefusedError("no such API key; send one of this server's as Authorization: Bearer KEY")
        return f"key {found[0]}"

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body, and give it to the application as one message; what follows it comes as it comes.

        Raises:
            TooLargeError, SlowError
        """
        if scope["path"] not in PATHS:
            return receive
        body, more, most = bytearray(), True, self.limits.bytes_of(scope["path"])
        try:
            async with asyncio.timeout(self.limits.arrival):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise TooLargeError(f"the body has more than {most} bytes, which is the most here")
        except TimeoutError:
            raise SlowError(f"the body did not arrive within {self.limits.arrival:g} s") from None
        first: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return first.pop() if first else await receive()

        return again
