"""STAR: text to image by scales of a vector-quantised latent (Ma et al., arXiv 2406.10797).

The network is VAR's transformer without adaptive norms. It adds cross-attention to CLIP states, and rotary positions
that have the same range on every grid. The code follows Davinci-XLab/STAR-T2I, ``models/var_drop.py`` and
``models/basic_var.py``. The cross-attention is in ``attention.py``, the second stage in ``second_stage.py``, the names
of published checkpoints in ``names.py``.

In the released network, every row of a batch uses the cross-attention of the batch's first row; the network was trained
this way. The authors sample a batch of one prompt and the empty prompt, so both branches follow the prompt. In a batch
of several prompts, all rows would follow the first. Here the two branches of each picture share the cross-attention of
the picture's prompt. A picture therefore equals the released network's picture at batch size 1, whatever its batch.

This has two consequences. A negative prompt acts through its summary vector alone. A null branch that runs without the
prompt's branch uses the cross-attention of the null text, as in the released StageVAR code for STAR; a scale with the
branch ``null`` therefore differs from a scale with guidance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.model import Defaults
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.rows import expand_rows
from stagevar.errors import MissingFileError, PromptError
from stagevar.families.blocks import FeedForward, SelfAttention, layer_norm, padded_text
from stagevar.families.linear import Linear
from stagevar.families.star.attention import CosineCrossAttention, Sharing, StarCondition
from stagevar.families.star.second_stage import SamplerConfig, SecondStage
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer
from stagevar.families.vq_model import SCALES_256, VQModel, check_schedules


@dataclass(frozen=True, slots=True)
class StarConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: channels, blocks and attention heads of the transformer.
        schedules: grids of each picture size; all sizes have equally many. The first size is the default.
        tokenizer: the VQ autoencoder.
        text_channels: width of the text encoder's states and summary.
        feed_forward: hidden width of the perceptrons as a multiple of ``width``.
        rotary_base: base of the rotary frequencies.
        rotary_range: largest rotary coordinate; both axes of every grid run from 0 to it.
        eps: epsilon of the norms.
        sampler: the second stage; None if the model has none.
    """

    width: int = 1920
    depth: int = 30
    heads: int = 30
    schedules: tuple[Schedule, ...] = (SCALES_256,)
    tokenizer: VQConfig = field(default_factory=VQConfig)
    text_channels: int = 1024
    feed_forward: float = 4.0
    rotary_base: float = 10000.0
    rotary_range: float = 64.0
    eps: float = 1e-6
    sampler: SamplerConfig | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 times {self.heads} heads")
        check_schedules(self.schedules)


AS_PUBLISHED = Defaults(guidance=4.5, top_k=600, top_p=0.8)


class Star(VQModel):
    """Draws pictures of a text. The blocks may be cast to bfloat16; all else stays float32.

    Attributes:
        second_stage: whether the second stage draws the scales that it was trained for. It is False if the model has
            none.
    """

    family = "star"

    def __init__(self, config: StarConfig, name: str = "star", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.schedules, self.groups = config.schedules, config.depth
        self.defaults = defaults or AS_PUBLISHED
        self.second_stage = config.sampler is not None
        width, heads, eps = config.width, config.heads, config.eps
        text, codes, scales = config.text_channels, config.tokenizer.codes, len(config.schedules[0])
        hidden = round(config.feed_forward * width)
        self.summary = Linear(text, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.level = nn.Embedding(scales, width)
        self.word = Linear(config.tokenizer.channels, width)
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, heads, eps),
                cross=CosineCrossAttention(width, heads, text, eps),
                feed_forward=FeedForward(width, hidden, eps),
            )
            for _ in range(config.depth)
        )
        self.head = Linear(width, codes)
        self.second = None
        if config.sampler is not None:
            channels = config.tokenizer.channels
            self.second = SecondStage(config.sampler, width, heads, hidden, text, channels, codes, scales, eps)
        self.tokenizer = VQTokenizer(config.tokenizer)

    def encode_text(self, prompts: Sequence[str]) -> Text:
        if self.text_encoder is None:
            raise MissingFileError(f"model {self.name} has no text encoder; pass encoded text, or load the encoder too")
        return self.text_encoder(prompts)

    def blank_text(self, length: int) -> Text:
        channels = self.config.text_channels
        return Text((torch.zeros(length, channels),), torch.zeros(1, channels))

    def condition(self, text: Text, negative: Text | None = None, *, across_batch: bool = False) -> StarCondition:
        """See ``ScaleModel.condition``. The null text is the empty prompt.

        Args:
            text, negative: texts with summary vectors.
            across_batch: whether all rows use the first row's cross-attention, as in the released network. A picture
                then depends on its batch, so this serves only for comparison with the released network.

        Raises:
            MissingFileError: the null text is needed and there is no text encoder.
            PromptError: a text has no summary vectors.
        """
        n = len(text)
        if negative is None or not all(map(len, negative.features)):
            null = self.encode_text([""])
            negative = (negative or null.spread([0], n)).filled(null)
        if text.pooled is None or negative.pooled is None:
            raise PromptError(f"model {self.name} reads a summary vector of each prompt; pass Text with pooled")
        states, mask = padded_text([*text.features, *negative.features], self.device)
        pooled = torch.cat([text.pooled, negative.pooled]).to(self.device, torch.float32)
        return StarCondition(
            start=self.summary(pooled) + self.start,
            pooled=pooled,
            text_kv=tuple(p.keys_values(states) for p in self.blocks.modules() if isinstance(p, CosineCrossAttention)),
            text_mask=None if mask.all() else mask,
            sharing=Sharing.of([0] * 2 * n if across_batch else [*range(n)] * 2, self.device),
        )

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        if at.k == 0:
            return (condition.start + self.level.weight[0])[:, None]
        x_nMC = self.word(self.tokenizer.scale_input(latent_nDHW, at)) + self.level.weight[at.k]
        return expand_rows(x_nMC, condition.rows)

    def rope(self, at: Scale, condition: Condition | None = None) -> Tensor:
        config = self.config
        pairs = config.width // config.heads // 2
        return self.rotary(at.grid, pairs, config.rotary_base, config.rotary_range)

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(layer_norm(x_RMC, self.config.eps))

    def draw(self, x_RMC: Tensor, logits_nMV: Tensor, drawing: Drawing) -> Tensor | None:
        if self.second is None or not self.second_stage or drawing.at.k < self.second.config.first:
            return None
        if any(each.smooth is not None for each in drawing.settings):
            return None
        return self.second.draw(x_RMC, logits_nMV, self.tokenizer.codebook, self.rope(drawing.at), drawing)

    def finishing(self, at: Scale) -> tuple[tuple[nn.Module, int, int], ...]:
        if self.second is None or not self.second_stage or at.k < self.second.config.first:
            return ()
        return ((self.second, self.second.config.passes(at.last), 1),)
