"""VAR draws pictures of ImageNet classes; it was the first model of next-scale generation (arXiv 2404.02905).

The network follows FoundationVision/VAR, ``models/var.py`` and ``models/basic_var.py``; the tokenizer is in
``tokenizers/vq.py``, the names of classes in ``imagenet.py``, the names of published checkpoints in ``names.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.model import Defaults
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import expand_rows, token_map, token_rows
from stagevar.errors import PromptError
from stagevar.families.blocks import AdaptiveHead, FeedForward, SelfAttention, SharedModulation
from stagevar.families.linear import Linear
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer
from stagevar.families.var.imagenet import COUNT, find_class
from stagevar.families.var.names import CheckpointNames
from stagevar.families.vq_model import SCALES_256, VQModel, check_schedules

DEMO = Defaults(guidance=4.0, top_k=900, top_p=0.95)
"""Sampling settings of the authors' demonstration, which shows single pictures. The authors measure FID with guidance
1.5 and top-p 0.96, which give more varied pictures."""


@dataclass(frozen=True, slots=True)
class VARConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: channels, blocks and attention heads of the transformer.
        schedules: grids of each picture size; all sizes have equally many. The first size is the default. The learned
            positions belong to its grids, and the other sizes resample them.
        shared: whether all blocks share the projection that computes their adaptive-norm vectors.
        cosine: whether attention compares normalised queries and keys.
        classes: number of picture classes, without the null class.
        tokenizer: the VQ autoencoder.
        feed_forward: hidden width of the perceptrons as a multiple of ``width``.
        eps: epsilon of the transformer's norms.
    """

    width: int
    depth: int
    heads: int
    schedules: tuple[Schedule, ...] = (SCALES_256,)
    shared: bool = False
    cosine: bool = True
    classes: int = COUNT
    tokenizer: VQConfig = field(default_factory=VQConfig)
    feed_forward: float = 4.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        check_schedules(self.schedules)


class VAR(VQModel):
    """Draws a picture of a class. The blocks may be cast to bfloat16; all else stays float32."""

    family = "var"
    mixes_codes = True
    samples = (
        "golden retriever",
        "volcano",
        "macaw",
        "ice cream",
        "lakeside",
        "castle",
        "red fox",
        "balloon",
    )

    def __init__(self, config: VARConfig, name: str = "var", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config, self.defaults = name, config, defaults or DEMO
        self.schedules, self.groups = config.schedules, config.depth
        width, eps = config.width, config.eps
        self.classes = nn.Embedding(config.classes + 1, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(sum(h * w for h, w in config.schedules[0]), width))
        self.level = nn.Embedding(len(config.schedules[0]), width)
        self.word = Linear(config.tokenizer.channels, width)
        self.modulation = SharedModulation(width, config.depth) if config.shared else None
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, config.heads, eps, config.cosine, modulating=not config.shared),
                feed_forward=FeedForward(width, round(config.feed_forward * width), eps),
            )
            for _ in range(config.depth)
        )
        self.head = AdaptiveHead(width, config.tokenizer.codes, eps)
        self.tokenizer = VQTokenizer(config.tokenizer)

    @property
    def checkpoint_names(self) -> CheckpointNames:
        """Maps the names in a published checkpoint of this size to ours."""
        return CheckpointNames(self.config.tokenizer.encoder)

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """The class number of each prompt, int64 (1,). A prompt is a number or a name; see ``imagenet.find_class``."""
        return Text(tuple(torch.tensor([find_class(prompt, self.config.classes)]) for prompt in prompts))

    def blank_text(self, length: int) -> Text:
        return self.encode_text(["0"])

    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        """See ``ScaleModel.condition``. The null text is one more class, behind the last."""
        null = torch.tensor([self.config.classes])
        nulls = [null] * len(text) if negative is None else [own if len(own) else null for own in negative.features]
        labels = torch.cat([*text.features, *nulls]).to(self.device)
        if len(labels) != 2 * len(text) or labels.is_floating_point() or not 0 <= labels.min() <= labels.max() <= null:
            raise PromptError(f"model {self.name} takes one class per picture, a whole number from 0 to {null.item()}")
        pooled = self.classes(labels)
        if self.modulation is not None:
            modulation = self.modulation(pooled)
        else:
            modulation = tuple(p.vectors(pooled) for p in self.blocks.modules() if isinstance(p, SelfAttention))
        return Condition(start=pooled + self.start, pooled=pooled, modulation=modulation)

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        place = self.level.weight[at.k] + self.position(at)
        if at.k == 0:
            return condition.start[:, None] + place
        return expand_rows(self.word(self.tokenizer.scale_input(latent_nDHW, at)) + place, condition.rows)

    def position(self, at: Scale) -> Tensor:
        """Learned positions (M, C) of a scale, resampled to its grid."""
        counts = [h * w for h, w in self.config.schedules[0]]
        learned, grid = self.positions.split(counts)[at.k], self.config.schedules[0][at.k]
        return token_rows(resize(token_map(learned[None], grid), at.grid, "bilinear"))[0]

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(x_RMC, condition.pooled)
