"""STAR's models, and the family's row of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagevar.engine.contract.model import Defaults
from stagevar.families.family import Family, File, Size, with_stored_depth
from stagevar.families.stand_ins import SCHEDULES, VQ, WordHash
from stagevar.families.star.names import NETWORK, CheckpointNames
from stagevar.families.star.network import AS_PUBLISHED, Star, StarConfig
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.text_encoders.clip import ClipEncoder
from stagevar.families.vq_model import SCALES_512, SCALES_1024
from stagevar.families.vq_names import TOKENIZER

ROUNDS = Defaults(guidance=4.0, top_p=0.8)

_HUB = "taocrayon/STAR"


def _size(config: StarConfig, defaults: Defaults, file: str | None) -> Size:
    network = File(_HUB if file else "", file or "", NETWORK, ("trainer", "var_wo_ddp"))
    note = "" if file else "announced, but no such file is known in the authors' repository"
    return Size(config, defaults, (network, File(_HUB, _AUTOENCODER, TOKENIZER)), (_HUB,), "MIT", note)


_AUTOENCODER = "vae_ch160v4096z32.pth"

_LARGE = StarConfig(schedules=(SCALES_1024,))

SIZES = {
    "star-256-d16": _size(StarConfig(1024, 16, 16), AS_PUBLISHED, None),
    "star-256": _size(StarConfig(), AS_PUBLISHED, "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth"),
    "star-512": _size(StarConfig(schedules=(SCALES_512,)), AS_PUBLISHED, "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth"),
    "star-1024": _size(_LARGE, AS_PUBLISHED, "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth"),
    "star-1024-sampler": _size(replace(_LARGE, sampler=SamplerConfig()), ROUNDS, None),
}
"""The authors' models. Sampling settings come from their ``sample.py``; those of the second stage come from their
evaluation."""


def _load_text(sources: Sequence[str | Path], **options: Any) -> ClipEncoder:
    return ClipEncoder.from_pretrained(
        sources[0], subfolder="CLIP/text_encoder", tokenizer_subfolder="CLIP/tokenizer", **options
    )


def _tiny(changes: dict[str, Any]) -> Star:
    config = StarConfig(width=64, depth=3, heads=2, schedules=SCHEDULES, tokenizer=VQ, text_channels=24)
    model = Star(replace(config, **changes), "star-tiny", Defaults(guidance=4.5, top_k=40, top_p=0.8))
    model.text_encoder = WordHash(model.config.text_channels, 18, model.config.text_channels)
    return model


FAMILY = Family(
    name="star",
    about="text to pictures of 256 to 1024 pixels (Ma et al., 2024)",
    config=StarConfig,
    sizes=SIZES,
    build=Star,
    names=lambda model: CheckpointNames(model.config.tokenizer.encoder),
    measure=with_stored_depth,
    text=_load_text,
    text_parameters=(340_387_840,),
    text_folders=("CLIP/text_encoder/", "CLIP/tokenizer/"),
    tiny=_tiny,
)
