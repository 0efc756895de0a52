"""What suites of caption worlds share: their questions and how captions are parsed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from stagevar.errors import PromptError
from stagevar.measure.suites.suite import Question
from stagevar.scenes.split import Composition, Split

S = TypeVar("S", bound=Composition)


class Captions(ABC, Generic[S]):
    """Base of the suites whose questions are the scenes of a world.

    Class attributes:
        split: deals the world's scenes out.
    """

    split: ClassVar[Split[Any]]

    @staticmethod
    @abstractmethod
    def read(caption: str) -> Any:
        """The scene of a caption.

        Raises:
            ValueError: it is no caption of the world.
        """

    def questions(self, count: int, seed: int = 0) -> list[S]:
        return self.split.suite(count, seed)

    def parse(self, captions: Sequence[str]) -> list[S]:
        try:
            return [self.read(caption) for caption in captions]
        except ValueError as error:
            raise PromptError(str(error)) from None

    def held_out(self, question: Question) -> bool:
        return self.split.held_out(question)
