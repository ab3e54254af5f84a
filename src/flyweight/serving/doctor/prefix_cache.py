"""Checks that clients with different keys never share cached prefixes, and so cannot find out what others asked."""

import secrets
from typing import Any

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.target import Target


def prefix_cache_side_channel(subject: Subject, trials: Trials) -> None:
    """CVE-2025-46570/GHSA-4qjh-9fv9-r85r (timing, AUC 0.99 with 8 tokens), CVE-2025-25183 (hash collision → wrong KV),
    GHSA-2823-qmq8-rwvj (LMCache salt); `cached_tokens` in `usage` leaks the same bit."""
    target = subject.target
    if not target.other_key:
        trials.expect(False, tried="the server", found="a second key was not given", wanted="two keys to check with")
        return
    for _ in range(4):
        text = " ".join(secrets.token_hex(2) for _ in range(60))
        _ask(target, text, target.key)
        again = _ask(target, text, target.key)
        other = _ask(target, text, target.other_key)
        trials.expect(again is None or again > 0, tried="the same key again", found="no hit", wanted="a hit")
        trials.expect(not other, tried="another key", found=f"{other} cached tokens", wanted="none")
        salted = _ask(target, text, target.key, cache_salt="another")
        trials.expect(not salted, tried="another salt", found=f"{salted} cached tokens", wanted="none")
    for salt in (target.key, "", "0" * 64):
        text = " ".join(secrets.token_hex(2) for _ in range(60))
        _ask(target, text, target.key)
        other = _ask(target, text, target.other_key, cache_salt=salt) if salt else _ask(target, text, target.other_key)
        trials.expect(not other, tried=f"another key with a guessed salt {salt[:3]}…", found=str(other), wanted="none")


def _ask(target: Target, text: str, key: str, **more: Any) -> int | None:
    """Cached tokens of a chat about the text, None where the server hides them."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, **more}
    found = target.post("/v1/chat/completions", body, key=key).json()
    details = found.get("usage", {}).get("prompt_tokens_details") if isinstance(found, dict) else None
    return None if details is None else int(details["cached_tokens"])
