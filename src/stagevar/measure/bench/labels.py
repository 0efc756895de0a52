"""Names of points in a plot, placed so that none overlaps another name or a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

Point = tuple[float, float]

GAP = 3.0
"""Least distance of a name to its point."""


def placed(points: Sequence[Point], sizes: Sequence[Point], room: Box) -> list[Box]:
    """A box for every name: the free place nearest to its point. Where nothing is free the room grows upwards.

    Args:
        points: where they are drawn.
        sizes: width and height of each name.
        room: what boxes stay in.
    """
    dots = [(x - GAP, y - GAP, x + GAP, y + GAP) for x, y in points]
    taken: list[Box] = []
    for point, size in sorted(zip(points, sizes, strict=True)):
        blocked = dots + taken
        free = (box for box in _places(point, size, room) if not any(overlap(box, other) for other in blocked))
        taken.append(next(free))
    order = sorted(range(len(points)), key=lambda i: (points[i], sizes[i]))
    return [taken[order.index(i)] for i in range(len(points))]


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _places(point: Point, size: Point, room: Box) -> Iterator[Box]:
    """Boxes for a name, from the nearest on; the last ones lie one above the other over the room."""
    x, y = point
    width, height = size
    steps = [step * height / 2 for step in range(1, 60)]
    shifts = [GAP, -GAP - width, -width / 2, *(sign * step for step in steps for sign in (1, -1))]
    rises = [GAP, -GAP - height, -height / 2, *(sign * step for step in steps for sign in (1, -1))]
    near = sorted(product(shifts, rises), key=lambda by: (by[0] + width / 2) ** 2 + 4 * (by[1] + height / 2) ** 2)
    for right, up in near:
        box = (x + right, y + up, x + right + width, y + up + height)
        if room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]:
            yield box
    bottom = room[3]
    while True:
        yield room[0], bottom, room[0] + width, bottom + height
        bottom += height
