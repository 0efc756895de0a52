"""HART's published model, and the family's row of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagevar.errors import ForeignCheckpointError
from stagevar.families.family import Family, File, Size, with_stored_depth
from stagevar.families.hart.config import HartConfig, config_of
from stagevar.families.hart.names import NETWORK, CheckpointNames
from stagevar.families.hart.network import Hart
from stagevar.families.stand_ins import SCHEDULES, VQ, PaddedWords
from stagevar.families.text_encoders.qwen import QwenEncoder
from stagevar.families.vq_names import TOKENIZER


def _adapt(config: HartConfig, settings: dict[str, Any]) -> HartConfig:
    try:
        return config_of(settings, config.tokenizer)
    except (KeyError, TypeError, ValueError) as error:
        raise ForeignCheckpointError(f"the config.json beside the weights describes no HART ({error})") from error


HUB = "mit-han-lab/hart-0.7b-1024px"

TEXT_ENCODER = "mit-han-lab/Qwen2-VL-1.5B-Instruct"

SIZES = {
    "hart-0.7b": Size(
        HartConfig(),
        files=(File(HUB, "llm/ema_model.bin", NETWORK), File(HUB, "tokenizer/", TOKENIZER)),
        text=(TEXT_ENCODER,),
        licence="MIT (code); see the repository",
        note="1024x1024; shape as in the weights' config.json",
    ),
}


def _load_text(sources: Sequence[str | Path], **options: Any) -> QwenEncoder:
    return QwenEncoder.from_pretrained(sources[0], **options)


def _tiny(changes: dict[str, Any]) -> Hart:
    config = HartConfig(
        width=64,
        depth=3,
        heads=4,
        schedules=SCHEDULES,
        tokenizer=VQ,
        text_channels=24,
        text_length=12,
        cosine=True,
        residual_width=32,
        residual_depth=2,
        residual_steps=4,
    )
    model = Hart(replace(config, **changes), name="hart-tiny")
    model.text_encoder = PaddedWords(model.config.text_channels, model.config.text_length)
    return model


FAMILY = Family(
    name="hart",
    about="text to pictures with a continuous residual (Tang et al., 2024)",
    config=HartConfig,
    sizes=SIZES,
    build=Hart,
    names=lambda model: CheckpointNames(model.config.tokenizer.encoder),
    adapt=_adapt,
    measure=with_stored_depth,
    text=_load_text,
    text_parameters=(1_543_714_304,),
    tiny=_tiny,
)
