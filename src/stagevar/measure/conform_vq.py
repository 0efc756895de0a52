"""Checks that the families with a vector-quantising tokenizer share."""

from __future__ import annotations

from stagevar.loop.plan import Schedule
from stagevar.measure.conform import Probe, require
from stagevar.models.vq import VQConfig, VQTokenizer

TOKENIZER = "vae."
"""Prefix of the tokenizer's tensors in a set."""

ENCODER_SHARE = 1e-3
"""Codes of the encoder that may differ: a feature may lie halfway between two vectors."""


def schedule_of(probe: Probe) -> Schedule:
    """The square grids of a set."""
    return tuple((int(side), int(side)) for side in probe.config["patch_nums"])


def tokenizer_config(probe: Probe) -> VQConfig:
    """The tokenizer of a set in our words; an encoder without weights is left out."""
    tokenizer = probe.config["vae"]
    require(tokenizer, quant_conv_ks=3, using_znorm=False)
    return VQConfig(
        base=tokenizer["ch"],
        multipliers=tuple(tokenizer["ch_mult"]),
        residual_blocks=tokenizer["num_res_blocks"],
        channels=tokenizer["z_channels"],
        codes=tokenizer["vocab_size"],
        convolutions=tokenizer.get("share_quant_resi", 4) or len(probe.config["patch_nums"]),
        blend=tokenizer.get("quant_resi", 0.5),
        encoder=any(key.startswith(f"{TOKENIZER}encoder.") for key in probe.weights),
    )


def check_tokenizer(probe: Probe, tokenizer: VQTokenizer, schedule: Schedule) -> None:
    """The tokenizer alone. Each stage starts from the stored output of the stage before, so that a flipped code neither
    hides in the next stage nor spoils it."""
    if tokenizer.encoder is not None and tokenizer.quant_conv is not None and probe.holds("vae.image_in"):
        probe.numbers("vae.enc_feature", tokenizer.quant_conv(tokenizer.encoder(probe.input("vae.image_in"))))
    if probe.holds("vae.enc_feature"):
        codes, latents = tokenizer.quantize(probe.stored["vae.enc_feature"], schedule)
        for k, found in enumerate(codes):
            probe.exact(f"vae.idx.{k}", found, ENCODER_SHARE)
        probe.numbers("vae.fhat_first", latents[0])
        probe.numbers("vae.fhat_last", latents[-1])
    if probe.holds("vae.fhat_last"):
        probe.numbers("vae.recon", tokenizer.decode(probe.stored["vae.fhat_last"]) * 2 - 1)
    if probe.holds("vae.latent_in"):
        latent = tokenizer.post_quant_conv(probe.input("vae.latent_in"))
        probe.numbers("vae.decoded_unclamped", tokenizer.decoder(latent))
