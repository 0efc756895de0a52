"""From a request that has been read, over the scheduler, to its reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi import Request

from stagevar.errors import StagevarError
from stagevar.serve import replies
from stagevar.serve.limits import Limits
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.ticket import Finished, Partial, Ticket, Update
from stagevar.serve.wire import Asked


async def whole(request: Request, scheduler: Scheduler, asked: Asked, limits: Limits) -> replies.Json:
    """The reply with all pictures.

    Raises:
        StagevarError: they cannot be drawn.
    """
    texts = [""] * len(asked.prepared)
    async with aclosing(drawn(request, scheduler, asked, limits)) as updates:
        async for update in updates:
            if isinstance(update, Finished):
                texts[update.picture] = await asyncio.to_thread(asked.format.encoded, update.image)
    return replies.reply(asked, texts)


async def stream(request: Request, scheduler: Scheduler, asked: Asked, limits: Limits) -> AsyncGenerator[bytes]:
    """The events of a stream.

    Raises:
        StagevarError: before the first event; an error behind it is an event itself.
    """
    shown = [0] * len(asked.prepared)
    try:
        async with aclosing(drawn(request, scheduler, asked, limits)) as updates:
            async for update in updates:
                text = await asyncio.to_thread(asked.format.encoded, update.image)
                yield replies.event(asked, update, text, shown[update.picture])
                shown[update.picture] += 1
    except StagevarError as error:
        if not any(shown):
            raise
        yield replies.error_event(error)


async def joined(first: bytes, events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """A stream whose first event has been waited for; closed when its client goes."""
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def drawn(
    request: Request, scheduler: Scheduler, asked: Asked, limits: Limits
) -> AsyncGenerator[Partial | Finished]:
    """The pictures of a request as they come. Whoever stops to listen has left.

    Raises:
        StagevarError: they cannot be drawn; it is the last word.
    """
    loop, updates = asyncio.get_running_loop(), asyncio.Queue[Update]()
    ticket = Ticket(
        client=request.state.client,
        model=asked.model,
        prepared=asked.prepared,
        previews=asked.previews,
        deadline=time.monotonic() + limits.deadline,
        tell=lambda update: loop.call_soon_threadsafe(updates.put_nowait, update),
    )
    scheduler.submit(ticket)
    watch = asyncio.create_task(_left(request, scheduler, ticket))
    try:
        missing = len(asked.prepared)
        while missing:
            update = await updates.get()
            if isinstance(update, StagevarError):
                raise update
            missing -= isinstance(update, Finished)
            yield update
    finally:
        watch.cancel()
        scheduler.leave(ticket)


async def _left(request: Request, scheduler: Scheduler, ticket: Ticket) -> None:
    """Tell the scheduler when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scheduler.leave(ticket)
