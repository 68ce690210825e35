"""A reviewer's answers to one result: confirm, relabel, reject; draw, edit, delete; undo.

After the blind study of Le'Clerc Arrastia et al. 2021 (Journal of Imaging 7, section 3.2), in which pathologists
corrected the labels of 1,962 sections in a browser. There they saw the model's label and changed the wrong ones; blind
here means more: the model's answer is withheld until the reviewer has given one.

    review = Review.open("results/slide", "Ada")
    review = review.confirm("section:1").relabel("section:2", "normal section").reject("region:4")
    review.answers, review.progress("section"), review.undo()
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import shapely

from digipath.errors import SpecError
from digipath.review import ledger
from digipath.review.decisions import Answer, Event, checked_text, fold, is_open, undoable
from digipath.review.export import holds, write_outlines
from digipath.review.subjects import Asked, Subject, ask

__all__ = ["Progress", "Review"]


@dataclass(frozen=True)
class Progress:
    """How many subjects of a kind have an answer that holds."""

    answered: int
    total: int

    def __str__(self) -> str:
        return f"{self.answered} of {self.total} answered"


@dataclass(frozen=True, eq=False)
class Review:
    """What one reviewer knows and said of one result, as the file was when it was last read.

    Every method that changes something reads the file again, adds to it, and returns the review after it is saved.

    Attributes:
        folder: The result's.
        reviewer: Who answers.
        blind: Whether the model's answer is withheld until the reviewer has given one.
        asked: What the model's files hold.
        events: Everything that was done, by everybody.
    """

    folder: Path
    reviewer: str
    blind: bool
    asked: Asked
    events: tuple[Event, ...] = field(repr=False, default=())

    @classmethod
    def open(cls, folder: str | Path, reviewer: str, *, blind: bool = False) -> Self:
        """Read a review, or begin one; nothing is written.

        Raises:
            SpecError: The name is no name.
            ResultError: There is no complete result, or the file is damaged or of another slide.
        """
        folder, reviewer = Path(folder).resolve(), checked_text(reviewer, "a reviewer's name")
        asked = ask(folder)
        return cls(folder, reviewer, blind, asked, ledger.read_events(folder, asked.slide))

    @property
    def is_open(self) -> bool:
        """Whether the model's answers may be shown, all of them."""
        return not self.blind or is_open(self.events, self.reviewer)

    def may_know(self, subject: str) -> bool:
        """Whether the reviewer may know that there is such a subject: while blind, not of regions."""
        return subject in self.asked.subjects and (self.is_open or subject.startswith("section:"))

    def may_see(self, subject: str) -> bool:
        """Whether the model's answer to one subject may be shown."""
        return self.is_open or any(one.reviewer == self.reviewer and one.subject == subject for one in self.events)

    @property
    def visible(self) -> tuple[Event, ...]:
        """The events that the reviewer may see: while blind, only their own."""
        return tuple(one for one in self.events if not self.blind or one.reviewer == self.reviewer)

    @cached_property
    def answers(self) -> Mapping[str, Answer]:
        """The reviewer's own, by subject, stale ones too."""
        return fold(self.events, self.reviewer)

    @cached_property
    def blind_answers(self) -> Mapping[str, Answer]:
        """Those of the reviewer's own that were given before the model's answer was shown, whatever was said later."""
        own = [one for one in self.events if one.reviewer == self.reviewer]
        return fold([one for one in own if one.blind or one.action == "undo"])

    @cached_property
    def latest(self) -> Mapping[str, Answer]:
        """The last answer to each subject by anybody whom the reviewer may see."""
        return fold(self.visible)

    @cached_property
    def stale(self) -> tuple[Answer, ...]:
        """The reviewer's answers that do not count, because the result has changed under them."""
        return tuple(one for one in self.answers.values() if not holds(one, self.asked))

    def answer(self, subject: str) -> Answer | None:
        """The reviewer's own answer that holds."""
        found = self.answers.get(subject)
        return found if found is not None and holds(found, self.asked) else None

    def progress(self, kind: str) -> Progress:
        """Of the sections, or the regions; of those that the reviewer may know of."""
        all_of = [one for one in self.asked.of_kind(kind) if self.may_know(one.id)]
        return Progress(sum(self.answer(one.id) is not None for one in all_of), len(all_of))

    def next_unanswered(self, after: str | None = None) -> Subject | None:
        """The first subject without an answer after another, going round; of those that may be shown."""
        waiting = [one for one in self.asked.subjects.values() if self.may_know(one.id)]
        names = [one.id for one in waiting]
        start = names.index(after) + 1 if after in names else 0
        return next((one for one in waiting[start:] + waiting[:start] if self.answer(one.id) is None), None)

    def reload(self) -> Self:
        """The review as it is on the disk now."""
        return type(self).open(self.folder, self.reviewer, blind=self.blind)

    def confirm(self, subject: str) -> Self:
        """Agree with the model."""
        self._refuse_unseen(subject, "confirmed")
        return self._say("confirm", subject, self._subject(subject).label)

    def relabel(self, subject: str, label: str) -> Self:
        """Say what it is; of what the reviewer drew, too. While blind this is how an answer is given."""
        if subject.startswith("drawn:"):
            return self._add(lambda events: [self._event("relabel", self._drawn(subject, events), label=_label(label))])
        return self._say("relabel", subject, _label(label))

    def reject(self, subject: str) -> Self:
        """Disagree: a section is of the other class then, and a region is nothing."""
        self._refuse_unseen(subject, "rejected")
        found = self._subject(subject)
        others = [one for one in self.asked.labels("section")[:2] if one != found.label]
        return self._say("reject", subject, others[0] if found.kind == "section" else None)

    def draw(self, outline: Any, label: str, *, subject: str) -> Self:
        """Add an outline of one's own.

        Args:
            outline: Vertices (x, y) in level-0 pixels, not closed.
            label: What it is.
            subject: "drawn:" and 32 hexadecimal digits, given by the caller, so that saying it twice draws it once.
        """
        made = self._event("draw", subject, label=_label(label), outline=outline)

        def make(events: Sequence[Event]) -> list[Event]:
            known = any(one.subject == subject and one.action == "draw" for one in events)
            return [] if known else [replace(made, blind=self._is_blind(events))]

        self._refuse_outside(made)
        return self._add(make)

    def edit(self, subject: str, outline: Any) -> Self:
        """Move the vertices of what the reviewer drew."""
        made = self._event("edit", subject, outline=outline)
        self._refuse_outside(made)

        def make(events: Sequence[Event]) -> list[Event]:
            return [replace(made, subject=self._drawn(subject, events), blind=self._is_blind(events))]

        return self._add(make)

    def delete(self, subject: str) -> Self:
        """Take back what the reviewer drew."""
        return self._add(lambda events: [self._event("delete", self._drawn(subject, events))])

    def undo(self) -> Self:
        """Take back the reviewer's last event that was not undone yet.

        Raises:
            SpecError: There is none.
        """

        def make(events: Sequence[Event]) -> list[Event]:
            last = undoable(events, self.reviewer)
            if last is None:
                raise SpecError(f"{self.reviewer} has done nothing here that could be undone.")
            return [self._event("undo", undone=last.id)]

        return self._add(make)

    def reveal(self) -> Self:
        """Show the model's answers from now on; what is answered later is not blind."""
        return self._add(lambda events: [] if is_open(events, self.reviewer) else [self._event("reveal")])

    def _subject(self, subject: str) -> Subject:
        if not self.may_know(subject):
            blind = "" if self.is_open else ", or none that is shown in a blind review before the sections are answered"
            raise SpecError(f"the result has no {subject[:40]!r}{blind}. It may have changed: load the page again.")
        return self.asked.subjects[subject]

    def _drawn(self, subject: str, events: Sequence[Event]) -> str:
        """The id of something that the reviewer drew and did not delete."""
        answer = fold(events, self.reviewer).get(subject)
        if answer is None or answer.outline is None:
            raise SpecError(f"{self.reviewer} has drawn no {subject[:40]!r}; only one's own outlines can be changed.")
        return subject

    def _say(self, action: str, subject: str, label: str | None) -> Self:
        """Answer; the answer to the last section of a blind review reveals the rest."""
        place = self._subject(subject).place

        def make(events: Sequence[Event]) -> list[Event]:
            known = any(one.reviewer == self.reviewer and one.subject == subject for one in events)
            blind = self._is_blind(events) and not known
            said = self._event(action, subject, label=label, place=place, blind=blind)
            done = replace(self, events=(*events, said)).progress("section")
            ends = self._is_blind(events) and done.answered == done.total
            return [said, self._event("reveal")] if ends else [said]

        return self._add(make)

    def _is_blind(self, events: Sequence[Event]) -> bool:
        return self.blind and not is_open(events, self.reviewer)

    def _event(self, action: str, subject: str = "", **details: Any) -> Event:
        return Event(reviewer=self.reviewer, action=action, subject=subject, **details)

    def _add(self, make: Callable[[Sequence[Event]], Sequence[Event]]) -> Self:
        def follow(events: Sequence[Event]) -> None:
            write_outlines(self.folder, self.asked, fold(events))

        return replace(self, events=ledger.append(self.folder, self.asked.slide, make, follow=follow))

    def _refuse_unseen(self, subject: str, verb: str) -> None:
        if not self.may_see(subject):
            raise SpecError(f"what the model says is withheld, so it cannot be {verb}. Give {subject} a label.")

    def _refuse_outside(self, event: Event) -> None:
        slide = shapely.box(0, 0, *self.asked.size)
        if not shapely.Polygon(event.outline).envelope.intersects(slide):
            raise SpecError(f"an outline lies on the slide of {self.asked.size} pixels, and this one is beside it.")


def _label(label: str) -> str:
    return checked_text(label, "a label")
