"""Compiles what an answer must look like, within limits of size and time, and remembers what was compiled.

One for each model. It may be called from any thread but the engine's: compiling takes from a millisecond to seconds.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from threading import Lock

import llguidance
import numpy as np

from flyweight.engine.grammar.bounds import check_bounds
from flyweight.engine.grammar.faults import place_of_fault
from flyweight.engine.grammar.json_options import JSON_OPTIONS
from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.matcher import CompiledGrammar, GrammarBinding, grammar_of_choices, reason_of
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.grammar.vocabulary import read_vocabulary
from flyweight.errors import UsageError
from flyweight.tokenizer import Tokenizer


class GrammarCompiler:
    """The compiled grammars of one model.

    Args:
        vocab_size: of the model's logits.
        stop_ids: tokens that end an answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        stop_ids: Collection[int],
        limits: GrammarLimits | None = None,
    ) -> None:
        self.limits = limits if limits is not None else GrammarLimits()
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = frozenset(stop_ids)
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._vocabulary_lock = Lock()
        self._threads = ThreadPoolExecutor(self.limits.compile_threads, thread_name_prefix="flyweight-grammar")
        self._lock = Lock()
        self._cache: OrderedDict[str, tuple[Future[CompiledGrammar | str], int]] = OrderedDict()
        self._cached_bytes = 0

    @property
    def num_cached(self) -> int:
        """Compiled grammars and refusals that are remembered."""
        return len(self._cache)

    def prepare(self) -> None:
        """Read the vocabulary now, which otherwise happens when the first grammar is compiled.

        Raises:
            UsageError: when structured output is not possible with this tokenizer.
        """
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(
                    self._tokenizer, vocab_size=self._vocab_size, stop_ids=self._stop_ids
                )

    def compile(self, spec: ConstraintSpec) -> CompiledGrammar:
        """The grammar of ``spec``, compiled now or earlier; who asks for it meanwhile gets the same.

        Raises:
            UsageError: when it exceeds a limit, takes too long, or cannot be compiled; with the reason and, in a JSON
                schema, the place.
        """
        for one in (*spec.parts, spec):
            check_bounds(one, self.limits)
        self.prepare()
        found = self._find(spec)
        try:
            made = found.result(timeout=self.limits.compile_seconds)
        except (FutureTimeoutError, CancelledError):
            if found.cancel():  # it had not begun, and would be made for nobody
                self._forget(_key(spec))
            raise UsageError(
                f"{spec.origin} was not compiled within {self.limits.compile_seconds:g} s; simplify it, or try again "
                "when fewer grammars are compiled at once"
            ) from None
        if isinstance(made, str):
            for part in spec.parts:
                self.compile(part)
            raise UsageError(f"{spec.origin}{made}")
        return made

    def _find(self, spec: ConstraintSpec) -> "Future[CompiledGrammar | str]":
        key = _key(spec)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key][0]
            found = self._threads.submit(self._compile, spec.kind, spec.source, key)
            self._cache[key] = found, len(spec.source)
            self._cached_bytes += len(spec.source)
            while len(self._cache) > self.limits.cached_grammars or self._cached_bytes > self.limits.cached_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1][1]
            return found

    def _forget(self, key: str) -> None:
        with self._lock:
            if key in self._cache:
                self._cached_bytes -= self._cache.pop(key)[1]

    def _compile(self, kind: str, source: str, key: str) -> CompiledGrammar | str:
        """A grammar, or why there is none: a message that goes on after the name of the field. It is no exception:
        that would keep the frames of those who asked first for as long as it is remembered."""
        try:
            matcher = self._matcher(kind, source)
        except ValueError as error:
            return f" cannot be used as a constraint: {reason_of(str(error))}"
        if matcher.is_error():
            place = ""
            if kind == "json_schema":
                place = place_of_fault(json.loads(source), lambda part: self._reason(json.dumps(part)))
            reason = reason_of(matcher.get_error())
            return f"{f' at {place}' if place else ''} cannot be used as a constraint: {reason}"
        assert self._vocabulary is not None
        binding = GrammarBinding(
            num_words=(self._vocab_size + 31) // 32,
            num_filled=(self._vocabulary.vocab_size + 31) // 32,
            ends=self._stop_ids,
            on_failure=partial(self._forget, key),
        )
        return CompiledGrammar(matcher, binding)

    def _matcher(self, kind: str, source: str) -> llguidance.LLMatcher:
        """A matcher in its first state, with its first mask made once; or one in error."""
        vocabulary = self._vocabulary
        assert vocabulary is not None
        matcher = llguidance.LLMatcher(vocabulary, _grammar(kind, source), log_level=0, limits=self._parser_limits())
        if not matcher.is_error():
            mask = np.zeros((vocabulary.vocab_size + 31) // 32, np.uint32)
            trial = matcher.deep_copy()
            trial.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            if trial.is_error():
                return trial
        return matcher

    def _reason(self, schema: str) -> str:
        """Why a schema cannot be compiled; empty when it can."""
        matcher = self._matcher("json_schema", schema)
        return matcher.get_error() if matcher.is_error() else ""

    def _parser_limits(self) -> llguidance.LLParserLimits:
        return llguidance.LLParserLimits(
            max_lexer_states=self.limits.lexer_states,
            max_grammar_size=self.limits.grammar_symbols,
            verbose_errors=False,
        )


def _key(spec: ConstraintSpec) -> str:
    return hashlib.sha256(f"{spec.kind}\0{spec.source}".encode()).hexdigest()


def _grammar(kind: str, source: str) -> str:
    """What llguidance reads."""
    if kind == "json_schema":
        return llguidance.LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS)
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(source)
    if kind == "choice":
        source = grammar_of_choices(json.loads(source))
    return llguidance.LLMatcher.grammar_from_lark(source)
