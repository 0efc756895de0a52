"""The Stop of every open page: it ends the run of its own page before the next scale, or its wait for a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from stagevar.errors import Cancelled
from stagevar.ui.report import progress

MOST_PAGES = 1000
"""Pages whose Stop is heard while they wait."""


class Stops:
    """What was pressed on the pages that draw or wait for their turn."""

    def __init__(self) -> None:
        self._pressed: dict[str, bool] = {}

    def wait(self, session: gr.Request) -> str:
        """What a page shows until it is its turn, from which moment on Stop is of this press."""
        if len(self._pressed) < MOST_PAGES:
            self._pressed[str(session.session_hash)] = False
        return progress("Waiting for its turn")

    def stop(self, session: gr.Request) -> Any:
        """End the run of one page, or its wait."""
        name = str(session.session_hash)
        if name not in self._pressed:
            return gr.skip()
        self._pressed[name] = True
        return progress("Stopping")

    @contextmanager
    def turn(self, session: gr.Request) -> Iterator[Callable[[], bool]]:
        """The turn of a page; tells whether Stop was pressed in it.

        Raises:
            Cancelled: it was pressed before.
        """
        name = str(session.session_hash)
        try:
            if self._pressed.setdefault(name, False):
                raise Cancelled("cancelled before its turn")
            yield lambda: self._pressed.get(name, False)
        finally:
            self._pressed.pop(name, None)
