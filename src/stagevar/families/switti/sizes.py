"""Switti's models, and the family's row of the catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stagevar.engine.contract.model import Defaults
from stagevar.engine.grids.grid import Schedule
from stagevar.errors import ForeignCheckpointError
from stagevar.families.family import Family, File, Size, with_stored_depth
from stagevar.families.stand_ins import SCHEDULES, VQ, WordHash
from stagevar.families.switti.names import NETWORK, CheckpointNames
from stagevar.families.switti.network import Switti, SwittiConfig
from stagevar.families.text_encoders.clip import ClipPair
from stagevar.families.vq_model import SCALES_512, SCALES_1024
from stagevar.families.vq_names import TOKENIZER

TEXT_ENCODERS = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k")
"""Hub repositories of the two CLIPs; only the text encoders are loaded."""


def _published(repository: str, causal: bool, schedule: Schedule, guided: int) -> Size:
    """A published model. Sampling settings are those of the authors' demonstrations (their README, and the hub space of
    the 512 pixel model)."""
    config = SwittiConfig(causal=causal, schedules=(schedule,), guided=(0, guided))
    temperature = (1.0,) * guided + (0.1,) * (len(schedule) - guided)
    defaults = Defaults(guidance=6.0, temperature=temperature, top_k=400, top_p=0.95, smooth=True)
    files = File(repository, "", NETWORK), File("yresearch/VQVAE-Switti", "", TOKENIZER)
    return Size(config, defaults, files, TEXT_ENCODERS, "Apache-2.0 (code); see the repository")


SIZES = {
    "switti": _published("yresearch/Switti", False, SCALES_512, 8),
    "switti-ar": _published("yresearch/Switti-AR", True, SCALES_512, 8),
    "switti-1024": _published("yresearch/Switti-1024", False, SCALES_1024, 11),
    "switti-1024-ar": _published("yresearch/Switti-1024-AR", True, SCALES_1024, 11),
}


def adapt(config: SwittiConfig, settings: dict[str, Any]) -> SwittiConfig:
    """The config corrected by the published ``config.json``.

    Raises:
        ForeignCheckpointError: the settings describe a variant that was never published.
    """
    for name in ("rope", "use_swiglu_ffn", "use_crop_cond"):
        if not settings.get(name, True):
            raise ForeignCheckpointError(
                f"config.json of this Switti model says {name} = false, which is not supported"
            )
    depth = int(settings.get("depth", config.depth))
    return replace(
        config,
        width=64 * depth,
        depth=depth,
        heads=depth,
        causal=bool(settings.get("use_ar", config.causal)),
        rotary_range=float(settings.get("rope_size", config.rotary_range)),
        rotary_base=float(settings.get("rope_theta", config.rotary_base)),
    )


def _tiny(changes: dict[str, Any]) -> Switti:
    config = SwittiConfig(
        width=64,
        depth=3,
        heads=2,
        schedules=SCHEDULES,
        guided=(0, 4),
        smooth_start=1,
        tokenizer=VQ,
        text_channels=24,
        pooled_channels=16,
    )
    late = (1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
    defaults = Defaults(guidance=6.0, temperature=late, top_k=40, top_p=0.95, smooth=True)
    model = Switti(replace(config, **changes), "switti-tiny", defaults)
    model.text_encoder = WordHash(model.config.text_channels, 18, model.config.pooled_channels)
    return model


FAMILY = Family(
    name="switti",
    about="text to pictures, each scale from itself and the text (Voronov et al., 2024)",
    config=SwittiConfig,
    sizes=SIZES,
    build=Switti,
    names=lambda model: CheckpointNames(model.config.tokenizer.encoder),
    adapt=adapt,
    measure=with_stored_depth,
    text=ClipPair.from_pretrained,
    text_parameters=(123_060_480, 693_021_440),
    tiny=_tiny,
)
