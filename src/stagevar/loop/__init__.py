"""The generation loop: plan, run, cache, sample, latent, trace. It knows no model family and no accelerator."""
