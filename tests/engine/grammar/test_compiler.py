"""Compiled grammars on the demo model's tokens: what they allow, what is refused and why, and what they may cost."""

import gc
import json
import threading
import time
import weakref

import numpy as np
import pytest

from flyweight import demo_model
from flyweight.engine.grammar.compiler import GrammarCompiler
from flyweight.engine.grammar.faults import place_of_fault
from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.errors import FlyweightError, UsageError
from flyweight.tokenizer import Tokenizer

TOKENIZER = Tokenizer.open(demo_model.model_path())
END = TOKENIZER.eos_token_id
VOCAB = 1024


def make(**limits):
    return GrammarCompiler(TOKENIZER, vocab_size=VOCAB, stop_ids=[END], limits=GrammarLimits(**limits))


@pytest.fixture(scope="module")
def compiler():
    return make()


def accepts(compiler, spec, text):
    """Whether the whole text may be the answer."""
    constraint = compiler.compile(spec)()
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    for token in ids:
        if constraint.is_complete or not is_allowed(constraint, token):
            return False
        constraint.push(token)
    return constraint.is_complete or constraint.masks(()).may_end[0]


def is_allowed(constraint, token):
    return bool(constraint.masks(()).words[0, token // 32] >> (token % 32) & 1)


CHOICES = ["yes", "no", 'a "b"\n\\', "yes, 日本 🙂"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("spec", "right", "wrong"),
    [
        (
            ConstraintSpec.json_schema(SCHEMA),
            ['{"name":"Jörg 日本 \\" x"}', '{"name": "x", "age": 3}', '{\n  "name": "x",\n  "age": -3\n}'],
            ['{"age":3}', '{"name":3}', '{"name":"x"} ', ' {"name":"x"}', '{  "name":"x"}', '{"name":"x","b":1}', "{"],
        ),
        (ConstraintSpec.json_object(), ["{}", '{"a":[1,{"b":null}]}'], ["[]", "3", '{"a":}']),
        (ConstraintSpec.regex(r"[a-c]{2}\d+"), ["ab1", "cc123"], ["ab", "abc1", "ab1x"]),
        (ConstraintSpec.regex("(a+)+$"), ["a", "aaaa"], ["", "b"]),
        (ConstraintSpec.choice(CHOICES), CHOICES, ["y", "yesno"]),
        (ConstraintSpec.lark('start: "a" start "b" | "c"'), ["c", "aacbb"], ["aacb", "ab"]),
    ],
)  # fmt: skip
def test_what_is_allowed(compiler, spec, right, wrong):
    assert [text for text in right if not accepts(compiler, spec, text)] == []
    assert [text for text in wrong if accepts(compiler, spec, text)] == []


def test_special_tokens_and_padding_are_never_allowed():
    compiler = GrammarCompiler(TOKENIZER, vocab_size=VOCAB + 100, stop_ids=[END])
    constraint = compiler.compile(ConstraintSpec.regex(r"(.|\n)*"))()
    [words] = constraint.masks(()).words
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    specials = [TOKENIZER.token_id(text) for text in ("<|bos|>", "<|user|>", "<|pad|>")]
    assert bits[:VOCAB].sum() > 900
    assert not bits[specials].any()
    assert not bits[VOCAB:].any()


def test_a_model_with_fewer_logits_than_the_tokenizer_has_tokens():
    compiler = GrammarCompiler(TOKENIZER, vocab_size=900, stop_ids=[END])
    assert compiler.compile(ConstraintSpec.regex("a+"))().masks(()).words.shape == (1, 29)


def test_guesses_have_masks_of_their_own_and_change_nothing(compiler):
    constraint = compiler.compile(ConstraintSpec.regex("[ab][bc][cd][de]"))()
    a, b, c, d = (TOKENIZER.encode(letter)[-1] for letter in "abcd")
    assert constraint.num_allowed([a, b, a]) == 2
    assert constraint.num_allowed([END]) == 0
    masks = constraint.masks([a, b, a, c])
    assert masks.words.shape == (5, 32)
    for place, token in enumerate((a, b, c)):
        assert masks.words[place, token // 32] >> (token % 32) & 1
    for token in (a, b, c, d):  # as if nothing had been guessed
        assert is_allowed(constraint, token)
        constraint.push(token)
    assert constraint.is_complete
    assert constraint.masks([END]).may_end[0]


def test_what_is_not_allowed_cannot_be_pushed(compiler):
    constraint = compiler.compile(ConstraintSpec.regex("a"))()
    with pytest.raises(FlyweightError, match="the grammar of this request cannot go on"):
        constraint.push(TOKENIZER.encode("b")[-1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ConstraintSpec.regex("(" * 2000 + "a" + ")" * 2000), "^regex cannot be used as a constraint: .*(nest|exceed)"),
        (ConstraintSpec.regex(r"(a)\1"), "backreferences are not supported"),
        (ConstraintSpec.regex("(?=a)b"), "look-around.* not supported"),
        (ConstraintSpec.json_schema({"$ref": "#"}), "json_schema at /.*"),
        (ConstraintSpec.json_schema({"$ref": "http://example.com/x.json"}), "http://example.com/x.json"),
        (ConstraintSpec.json_schema({"$ref": "#/$defs/missing"}), "missing"),
        (
            ConstraintSpec.json_schema({"properties": {"a": {"items": {"not": {}}}}}),
            r"^json_schema at /properties/a/items cannot be used as a constraint: Unimplemented keys: \[\"not\"\]",
        ),
        (
            ConstraintSpec.json_schema(
                {"anyOf": [{}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"items": {"if": {}}}}}
            ),
            "at /\\$defs/x/items cannot be used",
        ),
        (ConstraintSpec.json_schema({"type": "string", "enum": [1]}), "Unsatisfiable"),
        (ConstraintSpec.json_schema({"type": "string", "pattern": "("}), "regex parse error"),
        (ConstraintSpec.json_schema({"type": "strnig"}), "strnig"),
        (ConstraintSpec.lark("start: x"), "unknown name"),
        (ConstraintSpec.lark("start: " + "(" * 5000 + '"a"' + ")" * 5000), "too deeply nested"),
        (ConstraintSpec.lark("nothing"), "cannot be used as a constraint"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why_and_where(compiler, spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        compiler.compile(spec)
    assert len(str(caught.value)) < 700
    assert "backtrace" not in str(caught.value)


def test_sources_are_measured_before_they_are_compiled(monkeypatch):
    """What the compiler would take is refused for its size, and a grammar that was put together for that of a part."""
    compiler = make(source_bytes=20)
    monkeypatch.setattr(compiler, "_find", lambda spec: pytest.fail(f"{spec.origin} is compiled"))
    with pytest.raises(UsageError, match=r"^regex has 21 bytes and at most 20 are allowed"):
        compiler.compile(ConstraintSpec.regex("a" * 21))
    part = ConstraintSpec.json_schema({"const": "a" * 20}, origin="the tool")
    with pytest.raises(UsageError, match=r"^the tool has 32 bytes and at most 20 are allowed"):
        compiler.compile(ConstraintSpec.lark('start: "a"', parts=(part,)))


def test_states_and_symbols_of_a_grammar_are_bounded():
    deep = ConstraintSpec.regex("(a|b)*a(a|b){12}")
    with pytest.raises(UsageError, match=r"cannot be used as a constraint: .*too many states: .* >= 10"):
        make(lexer_states=10).compile(deep)
    with pytest.raises(UsageError, match=r"cannot be used as a constraint: grammar size .*limit for this grammar: 10"):
        make(grammar_symbols=10).compile(ConstraintSpec.json_schema(SCHEMA))
    constraint = make(lexer_states=50).compile(deep)()

    def answer():
        for token in TOKENIZER.encode("abbabbaaababbabababaabbbabab", add_special_tokens=False):
            constraint.masks(())
            constraint.push(token)

    with pytest.raises(FlyweightError, match=r"cannot go on: .*too many states: 50 >= 50"):
        answer()


def test_recursive_schemas_are_fine(compiler):
    spec = ConstraintSpec.json_schema({"type": "object", "properties": {"child": {"$ref": "#"}}})
    assert accepts(compiler, spec, '{"child":{"child":{}}}')


def test_the_same_source_is_compiled_once():
    compiler = make()
    first = compiler.compile(ConstraintSpec.regex("a", origin="here"))
    assert compiler.compile(ConstraintSpec.regex("a", origin="there")) is first
    assert compiler.compile(ConstraintSpec.choice(["a"])) is not first
    for origin in ("one", "two"):
        with pytest.raises(UsageError, match=f"^{origin} cannot be used"):
            compiler.compile(ConstraintSpec.regex("(", origin=origin))
    assert compiler.num_cached == 3


def test_a_refusal_keeps_nothing_of_who_asked():
    class Asker:
        pass

    def ask(compiler):
        asker = Asker()
        with pytest.raises(UsageError):
            compiler.compile(ConstraintSpec.regex("("))
        return weakref.ref(asker)

    compiler = make()
    asker = ask(compiler)
    gc.collect()
    assert asker() is None


def test_the_cache_is_bounded():
    compiler = make(cached_grammars=20)
    for number in range(300):
        compiler.compile(ConstraintSpec.json_schema({"const": number}))
    assert compiler.num_cached == 20
    assert compiler._cached_bytes < 20 * 20
    small = make(cached_bytes=100)
    for number in range(20):
        small.compile(ConstraintSpec.choice([f"{number:030}"]))
    assert small.num_cached == 2


def test_a_grammar_that_had_to_be_given_up_is_forgotten():
    compiler = make()
    constraint = compiler.compile(ConstraintSpec.regex("a"))()
    assert compiler.num_cached == 1
    with pytest.raises(FlyweightError):
        constraint.push(TOKENIZER.encode("b")[-1])
    assert compiler.num_cached == 0
    assert compiler._cached_bytes == 0


def test_compiling_has_a_time_limit(monkeypatch):
    compiler = make(compile_seconds=0.1, compile_threads=1)
    release = threading.Event()
    real = compiler._compile

    def slow(kind, source, key):
        if source == "a":
            release.wait(10)
        return real(kind, source, key)

    monkeypatch.setattr(compiler, "_compile", slow)
    began = time.perf_counter()
    for pattern in ("a", "b"):  # the second waits for the first
        with pytest.raises(UsageError, match=r"regex was not compiled within 0\.1 s; simplify it, or try again"):
            compiler.compile(ConstraintSpec.regex(pattern))
    assert time.perf_counter() - began < 5
    assert compiler.num_cached == 1  # the second never began
    release.set()
    compiler.compile(ConstraintSpec.regex("b"))
    compiler.compile(ConstraintSpec.regex("a"))  # what went on meanwhile is used


def test_place_of_fault_follows_references_and_ends():
    reasons = []

    def reason(part):
        reasons.append(part)
        return "bad" if "bad" in json.dumps(part) else ""

    schema = {"properties": {"x/y": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a", "bad": 1}}}
    assert place_of_fault(schema, reason) == "/$defs/a"
    assert place_of_fault(True, reason) == "/"
    assert place_of_fault({"bad": 1}, reason) == "/"
    assert len(reasons) < 100


def test_a_tokenizer_whose_bytes_are_unknown_is_refused():
    import tokenizers

    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    compiler = GrammarCompiler(Tokenizer(core, special_tokens={}), vocab_size=2, stop_ids=[1])
    with pytest.raises(UsageError, match="structured output is not possible with this model's tokenizer"):
        compiler.compile(ConstraintSpec.regex("a"))
