"""From what a caller asks for to a grammar that answers can be matched against."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..data.tokenizer import Tokenizer
from ..data.tokenizer_vocab import VISIBLE_TOKENS
from ..errors import RequestError
from .bounds import check
from .library import Vocabulary, ignored, library_matcher, library_tokenizer, llguidance, problem
from .matcher import GrammarMatcher
from .probe import TOO_COMPLEX, Probe
from .source import TagIds, grammar_source
from .spec import PARAM, Reasoning, StructuredOutputs

if TYPE_CHECKING:
    from ..infer.constraint import Constraint

CACHE_SIZE = 64


class Grammar:
    """A compiled grammar; `ignored` are keywords of its schemas that are not enforced."""

    def __init__(self, matcher: Any, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self.ignored = ignored(matcher.get_grammar_warnings())
        self._matcher, self._vocab_size, self._stop_ids = matcher, vocab_size, stop_ids

    def matcher(self) -> Constraint:
        """The constraint of one answer, at its beginning."""
        return GrammarMatcher(self._matcher.deep_copy(), self._vocab_size, self._stop_ids)


class GrammarCompiler:
    """Compiles for one model; keeps the last `CACHE_SIZE` grammars. Any thread may use it.
    `on_compiled` gets the seconds of each that was new, from one thread at a time.

    Making one takes 0.9 s for 157,184 ids. Raises `RequestError` where llguidance is not installed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        stop_token_ids: Sequence[int],
        on_compiled: Callable[[float], None] | None = None,
    ) -> None:
        llguidance()
        if not stop_token_ids:
            raise RequestError(
                "structured output needs a model that names an end of text (`eos_token_id`)",
                param=PARAM,
            )
        self._vocab_size, self._stop_ids = vocab_size, frozenset(stop_token_ids)
        self._on_compiled = on_compiled
        ids = ((tag, tokenizer.token_to_id(tag)) for tag in VISIBLE_TOKENS)
        self._tags = TagIds({tag: i for tag, i in ids if i is not None})
        vocabulary = self._vocabulary(tokenizer)
        self._probe = Probe(vocabulary)
        ready = threading.Thread(target=self._start_probe, name="ling-grammar")
        ready.start()
        self._library_tokenizer = library_tokenizer(vocabulary, tokenizer.encode)
        ready.join()
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, Grammar | RequestError] = OrderedDict()

    def _start_probe(self) -> None:
        with contextlib.suppress(RequestError):  # the first grammar tries again, and says why
            self._probe.start()

    def _vocabulary(self, tokenizer: Tokenizer) -> Vocabulary:
        special = {*tokenizer.control_tokens.values(), *self._tags.ids.values(), *self._stop_ids}
        return Vocabulary(
            [tokenizer.token_bytes(i) for i in range(self._vocab_size)],
            sorted(i for i in special if i < self._vocab_size),
            sorted(self._stop_ids),
        )

    def compile(self, spec: StructuredOutputs, reasoning: Reasoning = "none") -> Grammar:
        """The grammar of a specification, for answers that may begin with reasoning.

        Blocks for at most about a second, where the grammar is new. Raises `RequestError` for what
        is beyond a bound, not supported, or takes too long to compile.
        """
        source = grammar_source(check(spec), reasoning, self._tags)
        key = hashlib.sha256(source.encode()).digest()
        found = self._cached(key)
        if found is None:
            begin = time.perf_counter()
            found = self._compiled(source)
            self._keep(key, found, time.perf_counter() - begin)
        if isinstance(found, RequestError):
            raise copy.copy(found)
        return found

    def _compiled(self, source: str) -> Grammar | RequestError:
        try:
            self._probe.check(source)
        except RequestError as error:
            if error.status != 400 or error.code == TOO_COMPLEX:  # may be well another time
                raise
            return error
        matcher = library_matcher(self._library_tokenizer, source)
        matcher.compute_bitmask()  # what it remembers of this is copied with it
        reason = problem(matcher)
        if reason is not None:
            return RequestError(reason, param=PARAM)
        return Grammar(matcher, self._vocab_size, self._stop_ids)

    def _cached(self, key: bytes) -> Grammar | RequestError | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)

    def _keep(self, key: bytes, found: Grammar | RequestError, seconds: float) -> None:
        with self._lock:
            if self._on_compiled is not None:
                self._on_compiled(seconds)
            self._cache[key] = found
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)

    def close(self) -> None:
        """End the child process; it also ends with this object."""
        self._probe.close()
