"""Which levels of a picture decoder compute in bfloat16: as many of the finest ones as keep the picture."""

from __future__ import annotations

from threading import Lock

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale
from stagevar.families.tokenizers.autoencoder import Decoder
from stagevar.families.tokenizers.bsq import BinaryTokenizer
from stagevar.families.tokenizers.vq import VQTokenizer

LARGEST_ERROR = 0.25
"""Root mean square error, in levels of 8 bits, up to which a picture counts as kept. The largest error of a whole
picture is up to eight times that."""

SCHEDULE = (1, 1), (2, 2), (4, 4)
"""Scales of the small picture that the error is measured on."""

_LOCK = Lock()


def halve(model: ScaleModel) -> None:
    """Let the picture decoder of a model in bfloat16 compute its finest levels in bfloat16 too, if the model rests on a
    CPU. They take most of the time and round least, since few steps follow them.

    How many levels is found once per model: as many as keep a small picture of random codes. So it follows from the
    weights alone, not from what is drawn.
    """
    tokenizer = getattr(model, "tokenizer", None)
    decoder = getattr(tokenizer, "decoder", None)
    half = model.dtype == torch.bfloat16 and model.device.type == "cpu"
    if not half or not isinstance(tokenizer, VQTokenizer | BinaryTokenizer) or not isinstance(decoder, Decoder):
        return
    with _LOCK, torch.inference_mode():
        if decoder.halved is None:
            decoder.halve(_most(model, tokenizer, decoder))


def _most(model: ScaleModel, tokenizer: VQTokenizer | BinaryTokenizer, decoder: Decoder) -> int:
    """The largest number of levels that keeps the picture; all but the coarsest level may be halved."""
    generator, latent = torch.Generator().manual_seed(0), model.empty_latent(1, SCHEDULE)
    for k in range(len(SCHEDULE)):
        latent = model.add_codes(latent, tokenizer.random_codes(Scale(SCHEDULE, k), generator), SCHEDULE, k)
    decoder.halve(0)
    exact = model.decode(latent)
    for count in range(1, len(decoder.up)):
        decoder.halve(count)
        if 255 * float((model.decode(latent) - exact).square().mean().sqrt()) > LARGEST_ERROR:
            return count - 1
    return len(decoder.up) - 1
