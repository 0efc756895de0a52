"""A request read once: size, schedule, accelerator and plan, all checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stagevar.accelerators.base import Accelerator, Facts, Nothing
from stagevar.editing.fit import Fitted, fitted
from stagevar.editing.given import check_encoder, check_given, check_maps
from stagevar.editing.kept import Free, free
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import usual
from stagevar.engine.grids.grid import Grid, Scale, Schedule, scales
from stagevar.engine.grids.latent import detail
from stagevar.engine.grids.rows import Branch
from stagevar.engine.loop.run import check
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import CHANGING, SETTLED, Signals
from stagevar.errors import Cancelled, OptionError, PromptError, StagevarError, first_line, quoted
from stagevar.registry import parse
from stagevar.request import Request
from stagevar.sizes import native_size


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as a model draws it.

    Attributes:
        request: what was asked for.
        size: height and width in pixels of the picture.
        schedule: grids of its scales.
        accelerator: the request's own, or the pipeline's.
        plan: what runs at each scale, before the accelerator revises it.
        fitted: the picture to begin with, as one of the model's size, if there is one.
        free: where its codes are drawn.
    """

    request: Request
    size: Grid
    schedule: Schedule
    accelerator: Accelerator
    plan: Plan
    fitted: Fitted | None = None
    free: Free | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats the picture, as plain data; None means the model's own default."""
        request = self.request
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "height": self.size[0],
            "width": self.size[1],
            "guidance_scale": request.guidance_scale,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "smooth": request.smooth,
            "unconditional": request.unconditional,
            "edit": None if request.edit is None else request.edit.settings,
            "forced": request.forced and [k for k, codes in enumerate(request.forced) if codes is not None],
            "accelerator": str(self.accelerator),
            "plan": None if request.plan is None else str(request.plan),
        }


@usual()
def prepare(model: ScaleModel, request: Request, accelerator: str | Accelerator = "none") -> Prepared:
    """Read a request: size, schedule, accelerator and plan.

    Args:
        model: may be on the meta device; its weights are not used.
        request: one picture.
        accelerator: used if the request names none.

    Raises:
        SizeError: the request is strict about a size that the model does not draw.
        PromptError: an empty prompt, of a model that does not restore.
        OptionError: an accelerator or a plan that cannot run on the model, or a picture or codes that it cannot take;
            or what is no request.
    """
    if not isinstance(request, Request):
        raise OptionError(f"prepare takes a stagevar.Request, not {quoted(request)}")
    request = _worded(model, request)
    size = native_size(model, request)
    schedule = model.schedule(*size)
    chosen = parse(accelerator if request.accelerator is None else request.accelerator)
    fit, where = _picture(model, request, schedule)
    if where is not None and not any(bool(each.any()) for each in where):
        return Prepared(request, size, schedule, Nothing(), _at_rest(model, schedule, request), fit, where)
    given = request.plan
    start = plain_plan(model, schedule, request) if given is None else _checked(given, len(schedule), "the request")
    with _named(str(chosen)):
        planned = chosen.plan(start, schedule, facts(model, fit))
    plan = _checked(planned, len(schedule), str(chosen))
    ends = [_rehearsed(chosen, plan, schedule, signals, end) for end, signals in enumerate((CHANGING, SETTLED))]
    with _named(str(chosen)):
        for each in (plan, *ends):
            check(each, model, schedule)
    return Prepared(request, size, schedule, chosen, plan, fit, where)


def require_picture(model: ScaleModel, request: Request) -> None:
    """Raise unless a model that restores is given a picture.

    Raises:
        OptionError
    """
    if model.restores and request.edit is None:
        raise OptionError(f"model {model.name} restores a picture; give it one (image, or `stagevar edit PICTURE`)")


def _worded(model: ScaleModel, request: Request) -> Request:
    """A request with a prompt, or one that says that it has none: a picture to restore needs no words."""
    if request.prompt.strip() or request.unconditional:
        return request
    if not model.restores:
        raise PromptError("the prompt is empty; say what to draw")
    if request.negative_prompt:
        raise PromptError("there is a negative prompt and no prompt; give one, or leave the negative prompt out")
    if request.plan is not None and any(scale.branch != "null" for scale in request.plan):
        raise PromptError("the plan draws by a prompt, and there is none; give one, or a plan of the branch null")
    return replace(request, prompt="", unconditional=request.plan is None)


def _picture(model: ScaleModel, request: Request, schedule: Schedule) -> tuple[Fitted | None, Free | None]:
    """The picture to begin with, and where its codes are drawn; or only where, of codes that are given."""
    if request.forced is not None:
        return None, check_given(model, check_maps(request.forced), schedule)
    if request.edit is None:
        return None, None
    check_encoder(model)
    if model.restores and (any(request.edit.expand) or request.edit.fit == "pad"):
        around = f"model {model.name} restores what a picture shows and draws nothing around it"
        raise OptionError(f"{around}; leave out expand and fit pad")
    fit = fitted(request.edit, model.picture_size(schedule))
    return fit, free(request.edit, fit, schedule, model.restores)


def _at_rest(model: ScaleModel, schedule: Schedule, request: Request) -> Plan:
    """The plan of a picture all of whose codes are given: a plan runs a scale, and the first is the smallest."""
    return plain_plan(model, schedule, request).replace(range(1, len(schedule)), run="skip")


def facts(model: ScaleModel, fit: Fitted | None = None) -> Facts:
    """What accelerators may know of a model, and of the picture that an image begins with."""
    seen = None if fit is None else detail(fit.picture[None])[0, 0]
    own = model.depth, model.groups, model.causal, model.shared_codes, model.name, model.folder
    return Facts(*own, detail=seen, restores=model.restores)


def plain_plan(model: ScaleModel, schedule: Schedule, request: Request) -> Plan:
    """The plan without an accelerator: the request's settings, and the model's defaults for those left open."""
    defaults = model.defaults
    guidance = defaults.guidance if request.guidance_scale is None else request.guidance_scale
    branch: tuple[Branch, ...] | Branch = "both"
    if request.unconditional:
        guidance, branch = 0.0, "null"
    elif not isinstance(guidance, tuple):
        guidance, branch = model.guidance_schedule(guidance, schedule), model.branches(schedule)
    smooth = defaults.smooth if request.smooth is None else request.smooth
    plan = Plan.uniform(
        len(schedule),
        branch=branch,
        guidance=guidance,
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_k=defaults.top_k if request.top_k is None else request.top_k,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        smooth=model.smooth_schedule(schedule) if smooth else None,
    )
    if model.mixes_unlikely:
        mixed = [k for k, scale in enumerate(plan) if scale.smooth is not None and scale.top_k != 1]
        plan = plan.replace(mixed, top_k=0, top_p=1.0)
    return plan


def _checked(plan: Plan, length: int, who: str) -> Plan:
    """The plan that a user or an accelerator gave.

    Raises:
        OptionError: it is no plan, or one for another number of scales.
    """
    if not isinstance(plan, Plan):
        raise OptionError(f"{who} gave a {type(plan).__name__} where a stagevar.Plan belongs")
    if len(plan) != length:
        raise OptionError(f"{who} gave a plan of {len(plan)} scales for a schedule of {length}")
    return plan


@contextmanager
def _named(accelerator: str) -> Iterator[None]:
    """Errors of code that others wrote, as one that names the accelerator.

    Raises:
        OptionError
    """
    try:
        yield
    except Cancelled:
        raise
    except StagevarError as error:
        raise OptionError(str(error) if accelerator in str(error) else f"{accelerator}: {error}") from error
    except (Exception, SystemExit) as error:
        raise OptionError(f"{accelerator} failed: {type(error).__name__}: {first_line(error)}") from error


def revised(accelerator: Accelerator, plan: Plan, at: Scale, signals: Signals) -> Plan:
    """The accelerator's answer after a pass, the last scale of which is ``at``; its errors name it."""
    with _named(f"{accelerator}, after scale {at.k}"):
        answer = accelerator.revise(plan, at, signals)
    _checked(answer, len(plan), str(accelerator))
    if answer.scales[: at.k + 1] != plan.scales[: at.k + 1] or answer.pass_of(at.k) != plan.pass_of(at.k):
        raise OptionError(f"{accelerator} revised scale {at.k} or one before it, which has run")
    return answer


def _rehearsed(accelerator: Accelerator, plan: Plan, schedule: Schedule, signals: Signals, end: int) -> Plan:
    """The last plan for a picture of the same signals at every scale, and one end of the numbers of what is watched, so
    that a sum whose plans cannot run is found before anything is drawn."""
    before: Signals | None = None
    for at in scales(schedule) if accelerator.online else ():
        if plan.ends_pass(at.k):
            flips = signals.flips if plan[at.k].branch == "both" else None
            watched = {watch: watch.ends[end] for watch in plan[at.k].watch}
            before = replace(signals, flips=flips, watched=watched, before=before)
            plan = revised(accelerator, plan, at, before)
    return plan
