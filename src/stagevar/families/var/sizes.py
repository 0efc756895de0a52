"""VAR's published models, and the family's row of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stagevar.engine.contract.model import Defaults
from stagevar.families.family import Family, File, Size, with_stored_depth
from stagevar.families.stand_ins import SCHEDULES, VQ
from stagevar.families.var.names import NETWORK
from stagevar.families.var.network import DEMO, VAR, VARConfig
from stagevar.families.vq_model import SCALES_512
from stagevar.families.vq_names import TOKENIZER


def _published(depth: int) -> Size:
    config = VARConfig(width=64 * depth, depth=depth, heads=depth)
    return _size(config, f"var_d{depth}.pth")


def _size(config: VARConfig, file: str) -> Size:
    hub = "FoundationVision/var"
    files = File(hub, file, NETWORK, ("trainer", "var_wo_ddp")), File(hub, "vae_ch160v4096z32.pth", TOKENIZER)
    return Size(config, DEMO, files, licence="MIT (code); see the repository", note="prompts are classes of ImageNet")


SIZES = {
    "var-d16": _published(16),
    "var-d20": _published(20),
    "var-d24": _published(24),
    "var-d30": _published(30),
    "var-d36": _size(VARConfig(width=2304, depth=36, heads=36, schedules=(SCALES_512,), shared=True), "var_d36.pth"),
}
"""All published models. The largest (d36) draws 512 x 512 pixels, the others 256 x 256."""


def _tiny(changes: dict[str, Any]) -> VAR:
    config = VARConfig(width=64, depth=3, heads=2, schedules=SCHEDULES, tokenizer=VQ)
    return VAR(replace(config, **changes), "var-tiny", Defaults(guidance=4.0, top_k=40, top_p=0.95))


def _measure(config: VARConfig, shapes: Mapping[str, tuple[int, ...]]) -> VARConfig:
    """The config with the numbers of classes and blocks that the checkpoint's tensors have."""
    rows = (*shapes.get("class_emb.weight", ()), config.classes + 1)[0]
    return replace(with_stored_depth(config, shapes), classes=max(rows - 1, 1))


FAMILY = Family(
    name="var",
    about="classes of ImageNet to pictures (Tian et al., 2024)",
    config=VARConfig,
    sizes=SIZES,
    build=VAR,
    names=lambda model: model.checkpoint_names,
    measure=_measure,
    tiny=_tiny,
)
