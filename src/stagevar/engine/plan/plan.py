"""What runs at each scale, as plain comparable data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, Literal

from stagevar.engine.grids.rows import Branch
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.passes import Passes, passes
from stagevar.engine.plan.reads import Read, Reads, reads
from stagevar.engine.plan.watch import Watch
from stagevar.errors import OptionError, quoted

if TYPE_CHECKING:
    from stagevar.engine.plan.correct import Correction
    from stagevar.engine.plan.gain import Gain
    from stagevar.engine.plan.look import Evict, Pattern
    from stagevar.engine.plan.tokens import Tokens


Run = Literal["full", "skip", "reuse"]
Keep = Literal["all", "none"]
Store = Literal["same", "bfloat16"]
"""Whether self-attention keeps the processed rows of a scale or forgets them after it."""

Stage = Literal["semantic", "structure", "fidelity"]
STAGES: tuple[Stage, ...] = ("semantic", "structure", "fidelity")


PER_IMAGE = {"per_image": True}
"""Marks fields in which the images of one pass may differ; all others make up ``ScalePlan.shape``."""


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """One scale of one image. The defaults mean the plain run.

    Attributes:
        run: ``full``; ``skip`` (nothing is computed and the latent stays as it is); or ``reuse`` (no pass through the
            network: the head reads the upsampled last hidden states of the scale that ran before).
        branch: prompt and empty prompt (``both``), or one of them. Once single, always single.
        guidance: weight w in ``w * cond + (1 - w) * null``; read where both branches run or guidance is carried.
        guidance_layer: None guides the logits; n guides the hidden states behind block n (negative
            counts from the end), after which both branches carry the guided state (Infinity's
            ``cfg_insertion_layer``).
        carry: with branch ``cond``, beta in ``head(x + (w - 1) * beta * upsampled(d))``, where d is the difference of
            the branches' last hidden states at the last scale where both ran; 0 carries nothing.
        tokens: how the rows of a scale are reduced; None processes all.
        parts: rules for rows of single parts of blocks; of several that hold for a part the first counts.
        attend: patterns of self-attention; of several that hold for a block the first counts, and where none does every
            row attends to all keys.
        cache: whether self-attention keeps the processed rows (``all``) or forgets them after this scale (``none``), or
            which entries stay of those of all scales so far. Nothing is ever kept at the last scale that runs.
        gain: how much the codes of each token count; None all alike.
        correct: what is made of the guided logits with those of an earlier scale; None leaves them.
        watch: what is measured while the scale runs; nothing else is. It changes nothing that is drawn.
        remember: what a later plan of this scale may read of earlier ones; it is kept as if this plan read it.
        store: dtype in which keys and values are kept, equal at all scales; ``same`` is that of the blocks.
        group: whether this scale shares the pass of the scale that runs before it. All scales of a pass are made of the
            latent before it. Each has its own level, positions and rows, and attends as it does alone: to what the
            cache holds, to the rows that the scales before it in the pass keep there, and to itself. Their codes are
            added in order. Of a scale that is skipped it says nothing.
        temperature: divisor of the logits; 0 takes the most likely code.
        top_k: number of most likely codes that may be drawn; 0 means all.
        top_p: share of probability mass that may be drawn; 1 means all.
        smooth: None draws one code per token; a strength in [0, 1] mixes the codebook by a Gumbel softmax instead,
            the sharper the larger (models with ``mixes_codes`` only).
        stage: what an accelerator took the scale for; a label.
    """

    run: Run = "full"
    branch: Branch = "both"
    guidance: float = field(default=1.0, metadata=PER_IMAGE)
    guidance_layer: int | None = None
    carry: float = field(default=0.0, metadata=PER_IMAGE)
    tokens: Tokens | None = None
    parts: tuple[PartRows, ...] = ()
    attend: tuple[Pattern, ...] = ()
    cache: Keep | Evict = "all"
    gain: Gain | None = None
    correct: Correction | None = None
    watch: tuple[Watch, ...] = ()
    remember: tuple[Read, ...] = ()
    store: Store = "same"
    group: bool = False
    temperature: float = field(default=1.0, metadata=PER_IMAGE)
    top_k: int = field(default=0, metadata=PER_IMAGE)
    top_p: float = field(default=1.0, metadata=PER_IMAGE)
    smooth: float | None = field(default=None, metadata=PER_IMAGE)
    stage: Stage | None = field(default=None, metadata=PER_IMAGE)

    def __post_init__(self) -> None:
        if self.run not in ("full", "skip", "reuse"):
            raise OptionError(f"run must be 'full', 'skip' or 'reuse', not {self.run!r}")
        if self.branch not in ("both", "cond", "null"):
            raise OptionError(f"branch must be 'both', 'cond' or 'null', not {self.branch!r}")
        if self.cache not in ("all", "none") and not hasattr(self.cache, "capacity"):
            raise OptionError(f"cache must be 'all', 'none' or a rule such as WindowVotes, not {self.cache!r}")
        if self.store not in ("same", "bfloat16"):
            raise OptionError(f"store must be 'same' or 'bfloat16', not {self.store!r}")
        if not isinstance(self.attend, tuple) or not all(hasattr(pattern, "products") for pattern in self.attend):
            raise OptionError(f"attend must be a tuple of patterns such as Local, not {self.attend!r}")
        if not isinstance(self.parts, tuple) or not all(isinstance(rule, PartRows) for rule in self.parts):
            raise OptionError(f"parts must be a tuple of PartRows, not {self.parts!r}")
        if not (self.gain is None or hasattr(self.gain, "needs")):
            raise OptionError(f"gain must be None or a rule for factors of codes, not {self.gain!r}")
        if not (self.correct is None or hasattr(self.correct, "source")):
            raise OptionError(f"correct must be None or a correction of logits, not {self.correct!r}")
        for name, kind in (("watch", Watch), ("remember", Read)):
            entries = getattr(self, name)
            if not isinstance(entries, tuple) or not all(isinstance(each, kind) for each in entries):
                raise OptionError(f"{name} must be a tuple of {kind.__name__}, not {entries!r}")
        for watch in self.watch if self.run != "skip" else ():
            if watch.place == "blocks" and (self.run == "reuse" or self.tokens is not None):
                raise OptionError(f"{watch} watches all rows in the blocks, where this scale runs fewer or none")
            if watch.place == "head" and self.tokens is not None and self.tokens.final:
                raise OptionError(f"{watch} watches the codes of all rows, and this scale draws fewer")
        if not isinstance(self.group, bool):
            raise OptionError(f"group must be True or False, not {self.group!r}")
        for name in ("guidance", "carry", "temperature", "top_p"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise OptionError(f"{name} must be a finite number, not {value!r}")
        if not (self.guidance_layer is None or isinstance(self.guidance_layer, int)):
            raise OptionError(f"guidance_layer must be a whole number or None, not {self.guidance_layer!r}")
        if self.carry and self.branch != "cond":
            raise OptionError(f"guidance can be carried on branch 'cond' only, not on {self.branch!r}")
        if self.temperature < 0:
            raise OptionError(f"temperature must be 0 or more, not {self.temperature}")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise OptionError(f"top_k must be 0 (all codes) or a larger whole number, not {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must lie in (0, 1], not {self.top_p}")
        number = isinstance(self.smooth, int | float) and not isinstance(self.smooth, bool)
        if self.smooth is not None and not (number and 0 <= self.smooth <= 1):
            raise OptionError(f"smooth must be None or lie in [0, 1], not {self.smooth!r}")

    @property
    def shape(self) -> tuple[object, ...]:
        """What decides which rows are computed and what kind of codes; images of one shape can share a pass."""
        shared = (getattr(self, f.name) for f in dataclass_fields(self) if "per_image" not in f.metadata)
        return *shared, self.smooth is not None


MOST_SCALES = 1000
"""Scales that a plan may have; published models have up to 14."""


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """One ``ScalePlan`` per scale of the schedule.

    Attributes:
        scales: first to last.
        passes: the scales that run, pass by pass.
        reads: per scale, the maps that it reads of earlier ones.
    """

    scales: tuple[ScalePlan, ...]
    passes: Passes = field(init=False, compare=False)
    reads: Reads = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.scales, tuple) or not all(isinstance(scale, ScalePlan) for scale in self.scales):
            raise OptionError("a Plan takes a tuple of ScalePlan, one per scale; Plan.uniform makes one of settings")
        if all(scale.run == "skip" for scale in self.scales):
            raise OptionError("the plan runs no scale at all; let at least one run")
        if len({scale.store for scale in self.scales}) > 1:
            raise OptionError("store differs between scales; a plan keeps all keys and values in one dtype")
        object.__setattr__(self, "passes", passes(self.scales))
        object.__setattr__(self, "reads", reads(self.scales, self.passes))
        single: Branch | None = None
        for k, scale in enumerate(self.scales):
            if single is not None and scale.branch != single:
                raise OptionError(
                    f"scale {k} wants branch {scale.branch!r} after an earlier scale ran {single!r} alone; "
                    "a branch that was dropped cannot come back"
                )
            if scale.branch != "both":
                single = scale.branch

    @classmethod
    def uniform(cls, length: int, **fields: Any) -> Plan:
        """The same plan at every scale; a list or tuple as value gives one entry per scale.

        Raises:
            OptionError: no number of scales between 1 and ``MOST_SCALES``, a value per scale of another length, a field
                that does not exist, or a bad value.
        """
        if not isinstance(length, int) or not 1 <= length <= MOST_SCALES:
            raise OptionError(f"a plan has 1 to {MOST_SCALES} scales, not {quoted(length)}")
        _check_fields(fields)
        scales = []
        for name, value in fields.items():
            if isinstance(value, (list, tuple)) and len(value) != length:
                raise OptionError(f"{name} has {len(value)} entries but the schedule has {length} scales")
        for k in range(length):
            here = {name: v[k] if isinstance(v, (list, tuple)) else v for name, v in fields.items()}
            scales.append(ScalePlan(**here))
        return cls(tuple(scales))

    def replace(self, scales: Iterable[int], **fields: Any) -> Plan:
        """A copy with other fields at some scales (negative ones count from the end), checked as a whole."""
        _check_fields(fields)
        edited = list(self.scales)
        for k in scales:
            if not -len(edited) <= k < len(edited):
                raise OptionError(f"there is no scale {k}; the plan has {len(edited)}")
            edited[k] = replace(edited[k], **fields)
        return Plan(tuple(edited))

    @property
    def placed(self) -> bool:
        """Whether a scale has a pattern or an eviction, so that the places of keys must be known."""
        return any(scale.attend or not isinstance(scale.cache, str) for scale in self.scales)

    @property
    def executed(self) -> tuple[int, ...]:
        """Indices of the scales that run."""
        return tuple(k for k, scale in enumerate(self.scales) if scale.run != "skip")

    def pass_of(self, k: int) -> tuple[int, ...]:
        """The scales that share the pass of scale k, itself included; a skipped scale is alone."""
        return next((members for members in self.passes if k in members), (k,))

    def ends_pass(self, k: int) -> bool:
        """Whether a pass ends with scale k, so that the plan may be revised behind it."""
        return any(members[-1] == k for members in self.passes)

    def read_later(self, k: int) -> frozenset[Read]:
        """What scales behind k read of scale k and of those before it."""
        return frozenset(read for later in self.reads[k + 1 :] for read in later if read.scale <= k)

    def __len__(self) -> int:
        return len(self.scales)

    def __repr__(self) -> str:
        """Runs of equal scales, each with the fields that are not the plain run's."""
        runs: list[tuple[int, int, str]] = []
        for k, scale in enumerate(self.scales):
            fields = ((f.name, getattr(scale, f.name), f.default) for f in dataclass_fields(scale))
            shown = ", ".join(f"{name}={value!r}" for name, value, usual in fields if value != usual) or "plain"
            if runs and runs[-1][2] == shown:
                runs[-1] = (runs[-1][0], k, shown)
            else:
                runs.append((k, k, shown))
        lines = (f"  {first if first == last else f'{first}-{last}'}: {shown}" for first, last, shown in runs)
        return "\n".join((f"Plan of {len(self)} scales", *lines))

    def __getitem__(self, k: int) -> ScalePlan:
        return self.scales[k]

    def __iter__(self) -> Iterator[ScalePlan]:
        return iter(self.scales)


def _check_fields(names: Iterable[str]) -> None:
    known = [f.name for f in dataclass_fields(ScalePlan)]
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"a plan has no {unknown[0]}; its fields are {', '.join(known)}")
