"""The shape of a HART network, and its translation from published settings."""

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
        width, depth, heads: channels, blocks and attention heads of the transformer.
        schedules: grids of each picture size; the first is the default size.
        tokenizer: the VQ autoencoder.
        text_channels, text_length: width and number of the text encoder's states; padding counts.
        text_norm: whether the network normalises the text encoder's states first.
        feed_forward: the gated perceptrons have the hidden width 2 / 3 * ``feed_forward * width``, rounded up to a
            multiple of 256.
        cosine: whether attention normalises queries and keys and learns a temperature per head.
        modulation: the source of the blocks' modulation. ``none`` turns it off, ``table`` takes learned vectors plus
            the text's mean, and ``layer`` takes projections of the pooled text.
        pooling: how ``layer`` pools the text.
        level_table: whether each scale has a learned embedding. If not, a perceptron computes it from the index.
        residual_width, residual_depth, residual_steps: channels, layers and sampling steps of the residual head.
        rotary_base, eps: base of the rotary frequencies, and epsilon of the norms.
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
        OptionError: the settings ask for a variant that is not offered here; no published model is known to have it.
        KeyError, TypeError, ValueError: settings are missing or make no sense.
    """
    # Cross-attention is not offered, because a picture would depend on its batch: the released code reads all texts of
    # a batch at once and skips as many image tokens as there are text positions.
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
