"""The pictures in front: both runs with a divider between them, their difference, and where rows ran."""

from __future__ import annotations

from PIL.Image import Image

from stagevar.measure.why.comparison import Comparison
from stagevar.measure.why.maps import STRONGEST, data_url, difference, mean_share, shaded

DRAWING, DONE = 512, 4096
"""Longest side in pixels that is sent after every scale, and at the end."""

SMALL = 128
"""Longest side in pixels of pictures whose pixels are shown as squares."""

DIVIDER = (
    '<input type="range" value="50" aria-label="Divider between plain run and accelerated run" '
    "oninput=\"document.body.style.setProperty('--divider', this.value + '%')\" "
    "onfocus=\"this.value = parseFloat(getComputedStyle(this).getPropertyValue('--divider'))\">"
)
"""The position is the document's, so that it stays where it is while the picture below it sharpens."""

APART = f"<b>Difference</b>: the brighter, the larger; yellow is {STRONGEST} of 255 or more."
RAN = "<b>Rows that ran</b>: in colour where the network worked at all scales, grey where it left work out."


def nothing() -> str:
    """The places of the pictures, before there are any."""
    return _front("", "", "")


def drawing(comparison: Comparison) -> str:
    """Both pictures as they stand; on the right the plain one until the accelerated run has begun."""
    plain, own = comparison.plain.previews, comparison.accelerated.previews
    return _front(_compared(plain[-1], (own or plain)[-1], DRAWING), "", "")


def done(comparison: Comparison) -> str:
    """All that there is to see of a finished comparison."""
    plain, own = comparison.plain.previews[-1], comparison.accelerated.previews[-1]
    apart, ran = difference(plain, own), shaded(own, mean_share(comparison.shares))
    return _front(_compared(plain, own, DONE), _picture(apart, "difference"), _picture(ran, "rows that ran"))


def _front(compared: str, apart: str, ran: str) -> str:
    return (
        f'<div class="front"><figure class="compared">{compared}</figure>'
        f'<div><figure><div class="frame">{apart}</div><figcaption>{APART}</figcaption></figure>'
        f'<figure><div class="frame">{ran}</div><figcaption>{RAN}</figcaption></figure></div></div>'
    )


def _compared(plain: Image, own: Image, side: int) -> str:
    labels = '<span class="plain">plain</span><span class="own">accelerated</span>'
    return f"{_picture(plain, 'plain run', side)}{_picture(own, 'accelerated run', side)}{labels}{DIVIDER}"


def _picture(image: Image, alt: str, side: int = DONE) -> str:
    small = ' class="small"' if max(image.size) <= SMALL else ""
    return f'<img{small} src="{data_url(image, side)}" alt="{alt}">'
