"""Every class of the advisory table that applies to a server of texts, as a test; ``flyweight doctor --security`` runs
the same checks, whose docstrings name the advisories that they stand for.

Nothing here relies on ``assert``, so that the suite says the same under ``python -O``.
"""

import pytest

from flyweight.serving.doctor import CHECKS, Check, run_check

ADVISORIES = {
    "unsafe_deserialization": "CVE-2024-9052",
    "tensor_inputs": "CVE-2025-62164",
    "remote_code": "CVE-2025-66448",
    "asserts_as_validation": "CVE-2026-41523",
    "chat_template": "CVE-2025-61620",
    "grammar_denial_of_service": "CVE-2025-48942",
    "unbounded_parameters": "CVE-2026-34756",
    "media": "CVE-2026-22778",
    "request_forgery": "CVE-2025-6242",
    "authorization": "CVE-2025-59425",
    "prefix_cache_side_channel": "CVE-2025-46570",
    "information_leaks": "CVE-2026-54236",
    "file_parsing": "CVE-2026-53923",
    "path_traversal": "CVE-2024-37032",
    "remote_procedure_calls": "CVE-2024-42477",
}
"""One id of every row of the table; tests/checkpoint/test_mutated_files.py goes further for files."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.run.__name__)
def test_class(check: Check, subject):
    outcome = run_check(check, subject)
    if not outcome.is_clean:
        found = [outcome.failed, *map(str, outcome.trials.findings)]
        pytest.fail(f"{check.name}: " + "\n".join(found[:30]))
    if not outcome.trials.count:
        pytest.fail(f"{check.name} tried nothing")


@pytest.mark.parametrize("name", ADVISORIES)
def test_every_row_of_the_table_has_its_check(name):
    found = {check.run.__name__: check.advisories for check in CHECKS}
    if ADVISORIES[name] not in found.get(name, ""):
        pytest.fail(f"no check {name} stands for {ADVISORIES[name]}")
