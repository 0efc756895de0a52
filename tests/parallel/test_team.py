"""What processes tell one another, here two teams over one store in one process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from torch.distributed import HashStore

from stagevar.errors import NumericError, OutputError, Terminated
from stagevar.failure import explain
from stagevar.parallel.ranks import Ranks
from stagevar.parallel.team import Elsewhere, Team


@pytest.fixture
def teams() -> Iterator[tuple[Team, Team]]:
    store, signals = HashStore(), (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(each) for each in signals]
    yield Team(Ranks(0, 2, 0), store), Team(Ranks(1, 2, 1), store)
    for each, handler in zip(signals, before, strict=True):
        signal.signal(each, handler)


def test_the_first_process_makes_and_the_others_are_told(teams: tuple[Team, Team]) -> None:
    first, second = teams
    assert first.told("seeds", lambda: [3, 4]) == [3, 4]
    assert second.told("seeds", lambda: pytest.fail("it makes nothing")) == [3, 4]
    assert Team(Ranks()).told("seeds", lambda: 5) == 5


def test_only_the_first_failure_speaks(teams: tuple[Team, Team]) -> None:
    first, second = teams
    with pytest.raises(OutputError, match="no space"), second.failing(explain), second.failing(explain):
        raise OutputError("no space")
    assert first.broken()
    for error in (Terminated("terminated"), KeyboardInterrupt(), NumericError("NaN")):
        with pytest.raises(Elsewhere) as caught, first.failing(explain), first.failing(explain):
            raise error
        assert (caught.value.code, str(caught.value)) == (OutputError.exit_code, "no space")


def test_nobody_waits_for_a_process_that_failed(teams: tuple[Team, Team]) -> None:
    first, second = teams
    first.put("picture.1", {"file": "a"})
    with pytest.raises(NumericError), second.failing(explain):
        raise NumericError("NaN")
    with pytest.raises(Elsewhere, match="NaN"):
        first.finish()
    with pytest.raises(Elsewhere, match="NaN"):
        Team(Ranks(1, 2, 1), second.store).told("names", lambda: 0)
    assert first.found(["picture.0", "picture.1"]) == [{"file": "a"}]


def test_the_first_process_ends_when_all_are_done(teams: tuple[Team, Team]) -> None:
    first, second = teams
    second.finish()
    first.finish()
    assert not first.broken()


def test_leaving_with_success_is_no_failure(teams: tuple[Team, Team]) -> None:
    first, _ = teams
    with pytest.raises(SystemExit), first.failing(explain):
        raise SystemExit(0)
    assert not first.broken()
