"""How the pictures of a benchmark are made: every setting that a score depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from stagevar.errors import OptionError
from stagevar.request import PerScale


@dataclass(frozen=True, slots=True)
class Protocol:
    """Settings of a published evaluation. ``None`` means the model's own default.

    Attributes:
        name: by which it is chosen.
        source: where the settings are published.
        per_prompt: pictures per prompt.
        rewritten: whether a language model rewrote the prompts before they were drawn.
        jpeg: quality of the JPEG compression that pictures pass, 0 for none.
        guidance, temperature, top_k, top_p: as in ``Request``.
    """

    name: str
    source: str
    per_prompt: int
    rewritten: bool = False
    jpeg: int = 0
    guidance: PerScale | None = None
    temperature: PerScale | None = None
    top_k: int | tuple[int, ...] | None = None
    top_p: float | None = None

    def changed(self, **settings: Any) -> Protocol:
        """This protocol with other settings, None for those that stay. A changed one says so in its name.

        Raises:
            OptionError: a picture count below 1.
        """
        given = {name: value for name, value in settings.items() if value not in (None, getattr(self, name))}
        if not given:
            return self
        if given.get("per_prompt", 1) < 1:
            raise OptionError(f"a prompt has at least one picture, not {given['per_prompt']}")
        return replace(self, **given, name=f"{self.name} with another {', '.join(sorted(given))}")

    def resolved(self, defaults: Mapping[str, Any]) -> Protocol:
        """This protocol with the model's own settings in place of None."""
        named = {f.name for f in fields(self)}
        own = {name: value for name, value in defaults.items() if name in named and getattr(self, name) is None}
        return replace(self, **own)

    def sentence(self) -> str:
        """All settings in one line, which stands above every score."""
        pictures = f"{self.per_prompt} picture{'s' * (self.per_prompt > 1)} per prompt"
        prompts = "prompts rewritten" if self.rewritten else "prompts as they are"
        stored = f"JPEG of quality {self.jpeg}" if self.jpeg else "lossless pictures"
        settings = [(name, value) for name, value in asdict(self).items() if name in SAMPLING]
        given = [f"{name} {_said(value)}" for name, value in settings if value is not None]
        own = [name for name, value in settings if value is None]
        said = ", ".join([*given, *(["the model's own " + " and ".join(own)] if own else [])])
        return f"protocol {self.name}: {pictures}, {prompts}, {stored}, {said} ({self.source})"


SAMPLING = "guidance", "temperature", "top_k", "top_p"


def _said(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
