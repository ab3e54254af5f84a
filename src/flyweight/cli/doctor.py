"""``flyweight doctor``: tries on a server what has broken others."""

import tempfile
import time
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.errors import UsageError
from flyweight.reporting import Table, open_console, print_table
from flyweight.serving.doctor import Outcome, Subject, Target, checks_for, package_folder, run_check
from flyweight.serving.doctor.own_server import own_server

Flag = Annotated[bool, Parameter(negative="")]
MOST_SHOWN = 20


def doctor(
    *,
    security: Flag = False,
    url: str | None = None,
    key: str = "",
    other_key: str = "",
    only: tuple[str, ...] = (),
    full: Flag = False,
    json: Flag = False,
) -> int:
    """Try known attacks on a server and print what it does not withstand; exit code 1 when there is something.

    Without --url a server of the demo model is started on a free port of this machine and ends with the command. The
    attacks are harmless to data, and load a server heavily: use --url on servers of your own that may be busy.

    Examples:

        flyweight doctor --security

        flyweight doctor --security --url http://127.0.0.1:8000 --key KEY --other-key ANOTHER

        flyweight doctor --security --only authorization --only "chat template" --full

    Parameters
    ----------
    security
        The checks of security; today the only ones.
    url
        A server that runs already.
    key
        An API key of that server.
    other_key
        A second key of it, to see whether keys are kept apart.
    only
        A check by name; may be given several times.
    full
        Try every value on every route, and thousands of schemas: minutes instead of seconds.
    json
        Print everything as JSON.
    """
    if not security:
        raise UsageError("say what to check: flyweight doctor --security")
    if url is None and (key or other_key):
        raise UsageError("keys belong to a server that runs already; give its --url")
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        process = None
        if url is not None:
            target = Target(url, key=key, other_key=other_key)
        else:
            target, started = stack.enter_context(own_server())
            process = started.pid
        subject = Subject(package=package_folder(), work=work, server=target, process=process, full=full)
        checks = [check for check in checks_for(subject) if not only or check.name in only]
        if len(checks) < len(set(only)) or not checks:
            names = ", ".join(check.name for check in checks_for(subject))
            raise UsageError(f"--only {', '.join(only)} names a check that is not there; the checks are {names}")
        outcomes: list[tuple[Outcome, float]] = []
        for check in checks:
            began = time.monotonic()
            outcomes.append((run_check(check, subject), time.monotonic() - began))
        target.close()
    if json:
        print(dumps([_as_json(outcome, seconds) for outcome, seconds in outcomes], indent=2, ensure_ascii=False))
    else:
        _show(outcomes, target.url)
    return 0 if all(outcome.is_clean for outcome, _ in outcomes) else 1


def _show(outcomes: list[tuple[Outcome, float]], url: str) -> None:
    console = open_console()
    rows = tuple(
        (
            outcome.check.name,
            outcome.failed or ("nothing found" if outcome.is_clean else f"{len(outcome.trials.findings)} findings"),
            str(outcome.trials.count),
            f"{seconds:.1f}",
        )
        for outcome, seconds in outcomes
    )
    total = sum(outcome.trials.count for outcome, _ in outcomes)
    print_table(
        Table(
            title=f"Security of {url}",
            columns=("check", "outcome", "trials", "seconds"),
            rows=rows,
            num_labels=2,
            note=f"{total} trials; docs/security.md says which advisories each check stands for",
        ),
        console,
    )
    for outcome, _ in outcomes:
        for finding in outcome.trials.findings[:MOST_SHOWN]:
            console.print(f"{outcome.check.name}: {finding}", markup=False, highlight=False)
        if len(outcome.trials.findings) > MOST_SHOWN:
            console.print(f"{outcome.check.name}: {len(outcome.trials.findings) - MOST_SHOWN} more (--json shows all)")


def _as_json(outcome: Outcome, seconds: float) -> dict[str, object]:
    return {
        "check": outcome.check.name,
        "advisories": outcome.check.advisories,
        "trials": outcome.trials.count,
        "seconds": round(seconds, 3),
        "failed": outcome.failed or None,
        "findings": [{"tried": one.tried, "found": one.found, "wanted": one.wanted} for one in outcome.trials.findings],
    }
