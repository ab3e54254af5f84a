"""``flyweight doctor``: tries on a server, and on this package, what has broken other servers.

Each check is a function that tries one class of published attacks and tells what was not as it must be; the tests in
tests/security run the same functions. It speaks to servers as any client does and knows none of their insides.
"""

from flyweight.serving.doctor.checks import CHECKS, Check, Outcome, checks_for, run_check
from flyweight.serving.doctor.finding import Finding, Trials
from flyweight.serving.doctor.source_code import package_folder
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.target import Target

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Outcome",
    "Subject",
    "Target",
    "Trials",
    "checks_for",
    "package_folder",
    "run_check",
]
