"""The shape of a HART network, and how published settings describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from stagevar.engine.grids.grid import Schedule
from stagevar.errors import OptionError
from stagevar.families.hart.blocks import Pooling
from stagevar.families.tokenizers.vq import VQConfig
from stagevar.families.vq_model import SCALES_1024, check_schedules, squares


@dataclass(frozen=True, slots=True)
class HartConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: of the transformer.
        schedules: grids of each picture size; the first is the default size.
        tokenizer: the VQ autoencoder.
        text_channels, text_length: of the text encoder's states, padding included.
        text_norm: whether they are normalised first.
        feed_forward: multiple of ``width`` of which a gated perceptron has two thirds, rounded up to 256 channels.
        cosine: whether attention compares directions with a temperature per head.
        modulation: ``none``; ``table``: learned vectors plus the text's mean; ``layer``: projections of the text.
        pooling: how ``layer`` pools the text.
        level_table: whether each scale has an embedding of its own, instead of one made of its index.
        residual_width, residual_depth, residual_steps: of the residual head.
        rotary_base, eps: of rotary positions and norms.
    """

    width: int = 1536
    depth: int = 24
    heads: int = 24
    schedules: tuple[Schedule, ...] = (SCALES_1024,)
    tokenizer: VQConfig = field(default_factory=VQConfig)
    text_channels: int = 1536
    text_length: int = 300
    text_norm: bool = True
    feed_forward: float = 4.0
    cosine: bool = False
    modulation: str = "none"
    pooling: Pooling = "max"
    level_table: bool = False
    residual_width: int = 1024
    residual_depth: int = 6
    residual_steps: int = 8
    rotary_base: float = 10000.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_schedules(self.schedules)
        if self.heads < 1 or self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 times {self.heads} heads")
        if any(schedule[0] != (1, 1) for schedule in self.schedules):
            raise ValueError("the first grid stands for the text and must be 1x1")
        if self.modulation not in ("none", "table", "layer") or self.pooling not in get_args(Pooling):
            raise ValueError(f"there is no modulation {self.modulation!r} with pooling {self.pooling!r}")


def config_of(settings: Mapping[str, Any], tokenizer: VQConfig) -> HartConfig:
    """The config that a published ``config.json`` of the transformer describes.

    Raises:
        OptionError: settings that no published model is known to have, and that are not offered here.
        KeyError, TypeError, ValueError: missing or senseless ones.
    """
    # The released cross-attention reads all texts of a batch at once and skips as many image tokens as there are text
    # positions, so its result is no function of one picture.
    offered = {"attn_type": "llama", "mlp_type": "llama", "use_cross_attn": False}
    for name, value in offered.items():
        if settings.get(name, value) != value:
            raise OptionError(f"config.json asks for {name} = {settings[name]!r}; the engine knows {value!r} only")
    modulation = "layer" if not settings["disable_aln"] else "table" if settings["shared_aln"] else "none"
    return HartConfig(
        width=settings["embed_dim"],
        depth=settings["depth"],
        heads=settings["num_heads"],
        schedules=(squares(*settings["patch_nums"]),),
        tokenizer=tokenizer,
        text_channels=settings["context_dim"],
        text_length=settings["context_token"],
        text_norm=settings["use_context_norm"],
        feed_forward=settings["mlp_ratio"],
        cosine=settings["attn_l2_norm"],
        modulation=modulation,
        pooling=settings["sep_aln_pooling_mode"],
        level_table=not settings["use_timestep_embed"],
        residual_width=settings["diff_width"],
        residual_depth=settings["diff_depth"],
        residual_steps=int(settings["num_sampling_steps"]),
        rotary_base=float(settings.get("rope_theta", 10000)),
        eps=settings["norm_eps"],
    )
