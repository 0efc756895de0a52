"""Whose picture is drawn next: clients take turns, and so do the requests of a client."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from stagevar.serve.ticket import Picture, Ticket


class Turns:
    """Requests with pictures that wait. One who has had a turn goes to the end of the row, so that a request for 64
    pictures and one for a single picture get one each before the former gets its second."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, list[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        """Pictures that wait."""
        return sum(len(ticket.waiting) for ticket in self)

    def __iter__(self) -> Iterator[Ticket]:
        return iter([ticket for tickets in self._clients.values() for ticket in tickets])

    def add(self, ticket: Ticket) -> None:
        self._clients.setdefault(ticket.client, []).append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take a request with all its pictures out, if it is there."""
        tickets = self._clients.get(ticket.client, [])
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._clients[ticket.client]

    def take(self, kind: object = None) -> Picture | None:
        """The next picture, or the next of a kind; those that are passed over keep their places."""
        for ticket in self:
            if kind in (None, ticket.kind):
                picture = Picture(ticket, ticket.waiting.popleft())
                self.remove(ticket)
                if ticket.waiting:
                    self.add(ticket)
                if ticket.client in self._clients:
                    self._clients.move_to_end(ticket.client)
                return picture
        return None
