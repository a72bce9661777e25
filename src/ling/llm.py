"""`ling.LLM`: text in, text out. Tokenizer and engine meet here."""

from __future__ import annotations

import dataclasses
import logging
import queue
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from .checkpoint.open import tokenizer_folder
from .config.engine import EngineConfig, shows_options
from .config.model import ModelConfig
from .data.chat import ChatPrompt
from .data.chat_prompts import ChatPrompts
from .data.reasoning import reasoning_before_form
from .data.tokenizer import Tokenizer
from .errors import RequestError
from .grammar.compile import Grammar
from .grammar.constraints import Constraints
from .grammar.spec import Reasoning, StructuredOutputs
from .hub import resolve_model
from .infer.constraint import Constraint
from .infer.device.open import check_device
from .infer.driver import Driver, Handle, Submission, Update
from .infer.engine import Engine
from .infer.open import open_runner
from .infer.request import Request, SamplingParams, whole_numbers
from .infer.sampling_defaults import FILE, sampling_defaults
from .infer.stats import Stats
from .outputs import IncrementalText, LogprobMap, RequestOutput, StreamChunk

__all__ = ["LLM", "SamplingParams"]

log = logging.getLogger("ling.llm")

_Updates = queue.SimpleQueue[list[Update]]


class LLM:
    """A model ready to generate. Safe to use from several threads: one thread runs the engine.

    `model` is a folder, the packaged `ling-nano`, or a hub name, downloaded on first use; the
    options are the fields of `ling.config.engine.EngineConfig`: `device` "cuda" runs a bf16 or FP8
    folder on a GPU; `dtype` "auto", "bfloat16" or "float32" (float32 throughout, in PyTorch);
    `format` "int4" or "int8" packs the weights as they are loaded, `max_memory` "6GB" runs a packed
    folder that is larger, `kv_cache_dtype` "int8" halves the KV cache and "int4" makes it almost
    four times smaller, `cache_dir` keeps cached prefixes on disk, `lora` adapters (a folder, or
    folders by name). A folder without a tokenizer serves token ids, and texts are empty. Without a
    seed in the request, sampling depends on `seed` and on how many requests came before.
    """

    @shows_options(EngineConfig)
    def __init__(self, model: str | Path, **options: Any) -> None:
        config = EngineConfig(**options)
        check_device(config)
        model = resolve_model(model)
        runner = open_runner(model, config)
        self.config = runner.config
        found = Path(config.tokenizer) if config.tokenizer else tokenizer_folder(Path(model))
        self.tokenizer = tok = Tokenizer.from_folder(found) if found else None
        self.engine = Engine(
            runner,
            config,
            stop_token_ids=_ends_of_turn(tok, self.config),
            has_id=tok.has_id if tok else None,
        )
        self.max_model_len = self.engine.max_model_len
        self.adapter_folders = config.adapter_folders
        self._default_adapter = config.default_adapter
        ends = sorted(self.engine.stop_token_ids)
        compiled = self.engine.stats.grammar_compile.observe
        self._constraints = Constraints(tok, self.config.vocab_size, ends, compiled)
        self._chats = ChatPrompts(tok)
        own = Path(model)
        self.sampling_defaults = sampling_defaults(own if (own / FILE).is_file() else found)
        self._driver = Driver(self.engine)
        # Also where nobody calls `close`: when it is collected, or at the interpreter's end.
        self._saving = weakref.finalize(self, self._driver.save_pages)

    def close(self) -> None:
        """Save cached prefixes to `cache_dir`, which also happens when Python ends."""
        self._driver.save_pages()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def default_sampling_params(self) -> SamplingParams:
        """What the model's `generation_config.json` recommends; used where none are given."""
        return SamplingParams(**self.sampling_defaults)

    @property
    def stats(self) -> Stats:
        """Generated tokens, seconds, drafts and acceptance since the model was loaded."""
        return self.engine.stats

    # ---- requests ------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = False,
        *,
        lora: str | None = None,
    ) -> list[RequestOutput]:
        """Continue prompts, batched: text, token ids, {"prompt": ...} or {"prompt_token_ids": ...},
        or a list of those.

        Token ids are a list, or a 1-D array of numpy or torch; without `sampling_params` those of
        `default_sampling_params` hold. Raises `RequestError` before anything runs when a prompt is
        unusable, and when every continuation fails; where only some do, those have the
        `finish_reason` "error" and say why in `error`. `lora` is the name of an adapter; None is
        the one that was loaded without a name, or else the weights as they are.
        """
        listed = [_ids(self.tokenizer, p) for p in _as_list(prompts)]
        params = self._params(sampling_params, len(listed))
        updates: _Updates = queue.SimpleQueue()
        handles = self.submit(
            [
                Submission(ids, p, updates.put, k, self.text_stream(p), adapter=self._adapter(lora))
                for (_, ids), p in zip(listed, params, strict=True)
                for k in range(p.n)
            ]
        )
        pending = iter(handles)
        grouped = [[next(pending) for _ in range(p.n)] for p in params]
        try:
            for group in _progress(grouped, use_tqdm):
                while not all(handle.context.finished for handle in group):
                    _feed(updates)
        finally:
            for handle in handles:
                handle.abort()
        _raise_if_all_failed([handle.context for handle in handles])
        return [
            self.output(prompt, group[0].request, [handle.context for handle in group])
            for (prompt, _), group in zip(listed, grouped, strict=True)
        ]

    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
        lora: str | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or a list of them.

        `continue_final_message` continues the assistant's last message instead of opening a new
        turn; `chat_template_kwargs` are variables of the template, such as `enable_thinking`;
        `lora` is as in `generate`.
        """
        many = messages if messages and isinstance(messages[0], list) else [messages]
        variables = chat_template_kwargs or {}
        options = add_generation_prompt, continue_final_message, variables
        prompts = [_chat(self._chats.prompt(m, tools, *options)) for m in many]
        params = self._params(sampling_params, len(prompts))
        return self.generate(
            prompts,
            [_reasoned(p, q, variables) for p, q in zip(params, prompts, strict=True)],
            lora=lora,
        )

    def stream(
        self, prompt: Any, sampling_params: SamplingParams | None = None, *, lora: str | None = None
    ) -> Iterator[StreamChunk]:
        """Chunks of one continuation as they come; closing the iterator aborts the request.

        Unusable prompts raise here, not at the first chunk.
        """
        _, ids = _ids(self.tokenizer, prompt)
        params = self._params(sampling_params, 1)[0]
        updates: _Updates = queue.SimpleQueue()
        text, adapter = self.text_stream(params), self._adapter(lora)
        asked = Submission(ids, params, updates.put, context=text, adapter=adapter)
        (handle,) = self.submit([asked])
        chunks = _chunks(handle, updates)
        next(chunks)
        return chunks

    def stream_chat(
        self,
        messages: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        lora: str | None = None,
    ) -> Iterator[StreamChunk]:
        """`stream` for a conversation."""
        return self.stream(_chat(self._chats.prompt(messages)), sampling_params, lora=lora)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **template_kwargs: Any,
    ) -> str:
        """The conversation as the model reads it."""
        return self._chats.render(messages, tools, add_generation_prompt, **template_kwargs)

    # ---- for those who wait for many requests in one thread ------------------------------------

    def text_stream(self, params: SamplingParams) -> IncrementalText:
        """The text of one continuation, to be fed with its updates."""
        return IncrementalText(self.tokenizer, params)

    def submit(self, submissions: Sequence[Submission]) -> list[Handle]:
        """Queue requests whose updates go to the sinks of the submissions (`infer/driver.py`).

        Where their parameters ask for a structure that was not compiled before, this blocks for a
        moment, as `compile` does.
        """
        return self._driver.submit_all([self._constrained(s) for s in submissions])

    # ---- structure of answers ------------------------------------------------------------------

    def prepare_grammars(self) -> None:
        """Do now what the first structured output would wait for: a second at 157,184 ids."""
        self._constraints.prepare()

    def compile(self, spec: StructuredOutputs, reasoning: Reasoning = "none") -> Grammar:
        """The grammar of what an answer may be; the last 64 are kept.

        Blocks for at most about a second where it is new, and for another one at the first use.
        Raises `RequestError` for what cannot be enforced or is too large.
        """
        return self._constraints.compile(spec, reasoning)

    def constraint(self, params: SamplingParams) -> Constraint | None:
        """What keeps one answer to its parameters' structure and thinking budget, from its
        beginning; None where there is neither."""
        return self._constraints.of(
            params.structured_outputs, params.reasoning, params.thinking_budget
        )

    def _constrained(self, s: Submission) -> Submission:
        return s if s.constraint is not None else s._replace(constraint=self.constraint(s.params))

    @property
    def failure(self) -> Exception | None:
        """Why the engine takes no more requests; None while it does."""
        return self._driver.failure

    def output(
        self, prompt: str | None, request: Request, texts: Sequence[IncrementalText]
    ) -> RequestOutput:
        """What the finished continuations of a prompt return, the first of which is `request`."""
        ids, scores = request.tokens[: request.num_prompt_tokens], None
        if request.params.prompt_logprobs is not None:
            rows = request.prompt_logprobs
            maps = (LogprobMap(rows, i, self.tokenizer) for i in range(len(rows)))
            scores = [*[None] * min(request.params.first_scored, len(ids)), *maps]
        outputs = [text.output(i) for i, text in enumerate(texts)]
        cached = request.num_cached_tokens
        return RequestOutput(
            str(request.id), prompt, ids, cast(Any, scores), outputs, num_cached_tokens=cached
        )

    # ---- inside --------------------------------------------------------------------------------

    def _adapter(self, name: str | None) -> str | None:
        return self._default_adapter if name is None else name

    def _params(self, given: Any, count: int) -> list[SamplingParams]:
        is_list = isinstance(given, (list, tuple))
        params = list(given) if is_list else [given or self.default_sampling_params()] * count
        if len(params) != count:
            raise RequestError(
                f"{len(params)} sampling params for {count} prompts", param="sampling_params"
            )
        if self.tokenizer is None and any(p.stop for p in params):
            raise RequestError("stop strings need a tokenizer", param="stop")
        return params


def _chat(prompt: ChatPrompt) -> dict[str, Any]:
    """As `generate` takes it."""
    return {"prompt": prompt.text, "prompt_token_ids": prompt.ids}


def _reasoned(
    params: SamplingParams, prompt: dict[str, Any], template_kwargs: dict[str, Any]
) -> SamplingParams:
    """The same where a structure begins behind the reasoning that the template asked for."""
    wanted = any(template_kwargs.get(name) for name in ("enable_thinking", "thinking"))
    found = reasoning_before_form(prompt["prompt"], thinking=wanted)
    if params.reasoning != "none" or found == "none":
        return params
    return dataclasses.replace(params, reasoning=found)


def _ids(tokenizer: Tokenizer | None, prompt: Any) -> tuple[str | None, list[int]]:
    """Text, where it is given, and ids of a prompt."""
    if isinstance(prompt, dict):
        text = prompt.get("prompt")
        if "prompt_token_ids" not in prompt:
            return _ids(tokenizer, text)
        prompt = prompt["prompt_token_ids"]
    else:
        text = prompt if isinstance(prompt, str) else None
    if isinstance(prompt, str):
        if tokenizer is None:
            raise RequestError("this model has no tokenizer: give token ids", param="prompt")
        prompt = tokenizer.encode(prompt)
    ids = whole_numbers(prompt)
    if ids is None:
        raise RequestError(
            "a prompt is text or a list of token ids, which are whole numbers; a 1-D array of "
            "numpy or torch will do",
            param="prompt",
        )
    return text, ids


def _ends_of_turn(tokenizer: Tokenizer | None, config: ModelConfig) -> tuple[int, ...]:
    """Every id that some file of the model calls an end; those that no row stands for are left out.

    Files disagree in the wild, and a model that is not stopped at its own end runs on.
    """
    listed = [*(tokenizer.stop_token_ids if tokenizer else ()), *config.end_token_ids]
    ends = tuple(dict.fromkeys(i for i in listed if 0 <= i < config.vocab_size))
    unknown = sorted(set(listed) - set(ends) - {ModelConfig.eos_token_id})
    if unknown:
        log.warning(
            "`eos_token_id` lists %s, outside the vocabulary of %d ids: ignored",
            ", ".join(map(str, unknown)),
            config.vocab_size,
        )
    return ends


def _feed(updates: _Updates) -> None:
    """Wait for what a step brought, and add it to the texts."""
    for handle, event in updates.get():
        text = handle.context
        if not text.finished:
            text.feed(event)
            if text.finished:
                handle.abort("stop")  # a stop string ends the text before the engine knows


def _chunks(handle: Handle, updates: _Updates) -> Iterator[StreamChunk]:
    """An empty chunk for the caller, then those of the continuation."""
    text = handle.context
    try:
        yield StreamChunk("")  # Python runs `finally` only of what has begun
        while not text.finished:
            for _, event in updates.get():
                chunk = text.feed(event)
                if text.error is not None:
                    raise text.error
                yield chunk
                if text.finished:
                    return
    finally:
        handle.abort()


def _raise_if_all_failed(texts: list[IncrementalText]) -> None:
    errors = [text.error for text in texts]
    if errors and errors[0] is not None and all(errors):
        raise errors[0]


def _as_list(prompts: Any) -> list[Any]:
    if isinstance(prompts, (str, dict)):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise RequestError("a prompt is text or a list of token ids", param="prompt")
    ids = whole_numbers(prompts)
    return [ids] if ids else list(prompts)


def _progress(items: list[Any], wanted: bool) -> Any:
    if not wanted:
        return items
    from tqdm import tqdm

    return tqdm(items, unit="prompt")
