"""The list of checks, and how they are run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flyweight.errors import FlyweightError
from flyweight.serving.doctor.authorization import authorization
from flyweight.serving.doctor.bodies import malformed_bodies
from flyweight.serving.doctor.checkpoints import file_parsing, remote_code
from flyweight.serving.doctor.connections import connections
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.foreign_inputs import media, remote_procedure_calls, request_forgery, tensor_inputs
from flyweight.serving.doctor.grammars import grammar_denial_of_service
from flyweight.serving.doctor.leaks import information_leaks, path_traversal
from flyweight.serving.doctor.parameters import long_texts, stated_limits, unbounded_parameters
from flyweight.serving.doctor.prefix_cache import prefix_cache_side_channel
from flyweight.serving.doctor.source_code import asserts_as_validation, fetching, unsafe_deserialization
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.templates import chat_template


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One class of attacks.

    Attributes:
        run: tries them; its docstring names the published advisories that it stands for.
        needs_server: without one it is left out.
    """

    run: Callable[[Subject, Trials], None]
    needs_server: bool = True

    @property
    def name(self) -> str:
        """Of the class, in words."""
        return self.run.__name__.replace("_", " ")

    @property
    def advisories(self) -> str:
        """What it stands for."""
        return " ".join((self.run.__doc__ or "").split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a check told; ``failed`` is the reason when it could not be carried out."""

    check: Check
    trials: Trials
    failed: str = ""

    @property
    def is_clean(self) -> bool:
        return not self.failed and not self.trials.findings


CHECKS: tuple[Check, ...] = (
    Check(run=unsafe_deserialization, needs_server=False),
    Check(run=tensor_inputs),
    Check(run=remote_code, needs_server=False),
    Check(run=asserts_as_validation, needs_server=False),
    Check(run=chat_template, needs_server=False),
    Check(run=grammar_denial_of_service),
    Check(run=unbounded_parameters),
    Check(run=stated_limits),
    Check(run=long_texts),
    Check(run=malformed_bodies),
    Check(run=connections),
    Check(run=media),
    Check(run=request_forgery),
    Check(run=fetching, needs_server=False),
    Check(run=authorization),
    Check(run=prefix_cache_side_channel),
    Check(run=information_leaks),
    Check(run=file_parsing, needs_server=False),
    Check(run=path_traversal),
    Check(run=remote_procedure_calls),
)


def run_check(check: Check, subject: Subject) -> Outcome:
    """Run one check."""
    trials = Trials()
    try:
        check.run(subject, trials)
    except FlyweightError as error:
        return Outcome(check=check, trials=trials, failed=str(error))
    return Outcome(check=check, trials=trials)


def checks_for(subject: Subject) -> Sequence[Check]:
    """Those that can be run on a subject."""
    return [check for check in CHECKS if subject.server is not None or not check.needs_server]
