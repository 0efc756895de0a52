"""Infinity's models, published and of the training recipes, and the family's row of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagevar.engine.contract.model import Defaults
from stagevar.families.family import Family, File, Size, count
from stagevar.families.infinity.names import NETWORK, TOKENIZER
from stagevar.families.infinity.network import SHARP, Infinity, InfinityConfig
from stagevar.families.stand_ins import WordHash
from stagevar.families.text_encoders.t5 import T5Encoder
from stagevar.families.tokenizers.bsq import TokenizerConfig

AS_PUBLISHED = Defaults(guidance=3.0, temperature=1.0, top_p=0.97)

FOLDED = TokenizerConfig(bits=14, fold=2, stride=8, encoder=(1, 2, 4, 4), decoder=(1, 2, 4, 4))

TEXT_ENCODER = "google/flan-t5-xl"
"""Hub repository of the text encoder that all sizes use; only T5's encoder half is loaded."""

_HUB, _TOKENIZER = "FoundationVision/Infinity", "infinity_vae_d32reg.pth"
_INSIDE = "trainer", "gpt_fsdp"


BUDGET_PIXELS = {"0.25M": (220_000, 300_000), "1M": (900_000, 1_200_000)}
"""Smallest and largest number of pixels of a budget's pictures. A published model was trained on one budget alone."""


def _published(config: InfinityConfig, defaults: Defaults, network: str, tokenizer: str) -> Size:
    files = File(_HUB, network, NETWORK, _INSIDE), File(_HUB, tokenizer, TOKENIZER, ("vae",))
    pixels = BUDGET_PIXELS[config.budget]
    return Size(config, defaults, files, (TEXT_ENCODER,), "MIT (code); see the repository", pixels=pixels)


def _recipe(width: int, depth: int, heads: int) -> Size:
    """A size without published weights, for users who train it. Its tokenizer is published."""
    config = InfinityConfig(width=width, depth=depth, heads=heads)
    files = File("", "", NETWORK, _INSIDE), File(_HUB, _TOKENIZER, TOKENIZER, ("vae",))
    return Size(config, SHARP, files, (TEXT_ENCODER,), note="size of the authors' training recipes")


_2B = InfinityConfig(width=2048, depth=32, heads=16, chunks=8)

_8B = InfinityConfig(width=3584, depth=40, heads=28, chunks=8, tokenizer=FOLDED)

_FOLDED_FILE = "infinity_vae_d56_f8_14_patchify.pth"

SIZES = {
    "infinity-0.1b": _recipe(768, 12, 8),
    "infinity-0.4b": _recipe(1152, 16, 12),
    "infinity-1b": _recipe(1536, 24, 16),
    "infinity-2b": _published(_2B, SHARP, "infinity_2b_reg.pth", _TOKENIZER),
    "infinity-2.3b": _recipe(2080, 32, 20),
    "infinity-4.7b": _recipe(2688, 40, 24),
    "infinity-8b": _published(_8B, AS_PUBLISHED, "infinity_8b_weights/", _FOLDED_FILE),
    "infinity-8b-512": _published(
        replace(_8B, budget="0.25M"), AS_PUBLISHED, "infinity_8b_512x512_weights/", _FOLDED_FILE
    ),
    "infinity-8.8b": _recipe(3360, 48, 28),
}
"""The published 2B and 8B models, and the sizes of the authors' training recipes (layer12 ... layer48)."""


def _load_text(sources: Sequence[str | Path], **options: Any) -> T5Encoder:
    return T5Encoder.from_pretrained(sources[0], **options)


def _tiny(changes: dict[str, Any]) -> Infinity:
    tokenizer = TokenizerConfig(bits=8, stride=2, base=32, encoder=(1, 2), decoder=(1, 2), residual_blocks=1)
    config = InfinityConfig(
        width=64, depth=4, heads=2, chunks=2, tokenizer=tokenizer, text_channels=128, text_length=16, budget="0.06M"
    )
    model = Infinity(replace(config, **changes), name="infinity-tiny")
    model.text_encoder = WordHash(model.config.text_channels, model.config.text_length)
    return model


def _measure(config: InfinityConfig, shapes: Mapping[str, tuple[int, ...]]) -> InfinityConfig:
    """The config with the numbers of blocks, chunks and null text rows that the checkpoint's tensors have. The null
    text keeps at most ``config.text_length`` rows."""
    rows = (*shapes.get("cfg_uncond", ()), config.text_length)[0]
    config = replace(config, text_length=min(config.text_length, rows))
    if chunks := count(shapes, r"block_chunks\.(\d+)\."):
        return replace(config, depth=count(shapes, r"block_chunks\.(\d+\.\d+)\."), chunks=chunks)
    depth = count(shapes, r"blocks\.(\d+)\.") or config.depth
    return replace(config, depth=depth, chunks=config.chunks if depth % config.chunks == 0 else 1)


FAMILY = Family(
    name="infinity",
    about="text to pictures of 60 sizes, in bits (Han et al., 2024)",
    config=InfinityConfig,
    sizes=SIZES,
    build=Infinity,
    names=lambda model: model.checkpoint_names,
    measure=_measure,
    text=_load_text,
    text_parameters=(1_223_527_424,),
    tiny=_tiny,
)
