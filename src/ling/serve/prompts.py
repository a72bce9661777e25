"""Request bodies to token ids and sampling parameters; runs in threads, never on the event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..data import chat
from ..errors import RequestError
from .conversation import Conversation, Transcript
from .schema.common import Sampling
from .schema.completion import CompletionRequest

if TYPE_CHECKING:
    from ..data.reasoning import ReasoningMode
    from ..data.tokenizer import Tokenizer
    from ..grammar.spec import StructuredOutputs
    from ..infer.request import SamplingParams
    from ..llm import LLM
    from .service import Job

DEFAULT_COMPLETION_TOKENS = 16


def tokenizer_of(llm: LLM, param: str) -> Tokenizer:
    """The model's tokenizer; raises `RequestError` when it has none."""
    if llm.tokenizer is None:
        raise RequestError("this model has no tokenizer: it reads token ids only", param=param)
    return llm.tokenizer


def encode_text(llm: LLM, text: str) -> list[int]:
    """Ids of a prompt as `LLM.generate` reads it: names of control tokens are plain text."""
    return tokenizer_of(llm, "prompt").encode(text)


def encode_chat(llm: LLM, transcript: Transcript) -> chat.ChatPrompt:
    """Render the conversation with the model's template, then encode it."""
    tokenizer = tokenizer_of(llm, transcript.param)
    continued, opened = transcript.continue_final_message, transcript.add_generation_prompt
    return chat.encode_chat(
        chat.continuing(llm.render) if continued else llm.render,
        tokenizer,
        transcript.messages,
        transcript.tools,
        not continued if opened is None else opened,
        **transcript.template_options,
    )


def conversation_prompt(llm: LLM, conversation: Conversation) -> chat.ChatPrompt:
    """`encode_chat`, cut to the length that the request allows."""
    text, ids = encode_chat(llm, conversation)
    ids = truncated(llm, ids, conversation.sampling, conversation.max_tokens)
    return chat.ChatPrompt(text, ids)


def text_of(llm: LLM, ids: Sequence[int]) -> str:
    """Text of a prompt given as ids, control tokens included; empty without a tokenizer."""
    return "" if llm.tokenizer is None else llm.tokenizer.decode(ids, skip_special_tokens=False)


def offsets(llm: LLM, ids: Sequence[int]) -> list[int]:
    """Where in `text_of` each token of a prompt begins."""
    from ..outputs import TextOffsets

    places, tokenizer = TextOffsets(), llm.tokenizer
    return [places.add(b"" if tokenizer is None else tokenizer.token_bytes(i)) for i in ids]


def decode(llm: LLM, ids: list[int]) -> str:
    """Text of `ids`; raises `RequestError` for ids that stand for nothing."""
    tokenizer = tokenizer_of(llm, "tokens")
    _check_ids(llm, ids, "tokens")
    return tokenizer.decode(ids, skip_special_tokens=False)


def completion_prompts(llm: LLM, body: CompletionRequest) -> list[list[int]]:
    """Ids of every prompt of a completion request."""
    given = (encode_text(llm, p) if isinstance(p, str) else _check_ids(llm, p) for p in body.prompt)
    return [truncated(llm, ids, body, body.max_tokens) for ids in given]


def truncated(llm: LLM, ids: list[int], body: Sampling, max_tokens: int | None) -> list[int]:
    """The end of a prompt that is longer than `truncate_prompt_tokens`; -1 leaves the answer its
    room."""
    most = body.truncate_prompt_tokens
    if most == -1:
        most = max(llm.max_model_len - max(max_tokens or 1, 1), 1)
    return ids if most is None or len(ids) <= most else ids[len(ids) - most :]


def scoring_jobs(jobs: Sequence[Job], top: int) -> list[Job]:
    """The same prompts with log probabilities of all their tokens, and one new token each."""
    return [
        replace(job, params=replace(job.params, max_tokens=1, min_tokens=0, prompt_logprobs=top))
        for job in jobs
    ]


def chat_params(
    llm: LLM,
    conversation: Conversation,
    prompt: list[int],
    spec: StructuredOutputs | None = None,
    reasoning: ReasoningMode = "none",
) -> list[SamplingParams]:
    """Parameters of the `n` choices; without a limit the answer may fill the context."""
    limit, logprobs = conversation.max_tokens, conversation.top_logprobs
    form: dict[str, Any] = {}
    if spec is not None or conversation.thinking_budget is not None:
        form = {"structured_outputs": spec, "thinking_budget": conversation.thinking_budget}
        form["reasoning"] = reasoning
    return _params(llm, conversation.sampling, prompt, limit, logprobs, conversation.param, form)


def completion_params(
    llm: LLM,
    body: CompletionRequest,
    prompt: list[int],
    spec: StructuredOutputs | None = None,
) -> list[SamplingParams]:
    """Parameters of the `n` choices of one prompt."""
    limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens or 1
    form = {} if spec is None else {"structured_outputs": spec}
    return _params(llm, body, prompt, limit, body.logprobs, "prompt", form)


def _params(
    llm: LLM,
    body: Sampling,
    prompt: list[int],
    limit: int | None,
    logprobs: int | None,
    param: str,
    form: Mapping[str, Any] = MappingProxyType({}),
) -> list[SamplingParams]:
    from ..infer.request import SamplingParams

    room = _room(llm, prompt, param)
    fields = "min_tokens stop_token_ids ignore_eos skip_special_tokens include_stop_str_in_output"
    fields += " return_routed_experts routed_experts_start_len"
    sampling = "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty"
    sampling += " seed"
    given = {name: getattr(body, name) for name in f"{fields} {sampling}".split()}
    options: dict[str, Any] = {
        **llm.sampling_defaults,
        **{name: value for name, value in given.items() if value is not None},
        **form,
    }
    least = options.get("min_tokens", 0)
    if least > room:
        raise RequestError(
            f"`min_tokens` is {least}, but the context has room for {room}", param="min_tokens"
        )
    most = room if limit in (None, -1) else limit
    if least <= most:
        most = min(most, room)
    options |= {"max_tokens": most, "logprobs": logprobs}
    if body.logit_bias:
        ids = _check_ids(llm, [int(i) for i in body.logit_bias], "logit_bias")
        options["logit_bias"] = dict(zip(ids, body.logit_bias.values(), strict=True))
    if body.stop:
        tokenizer_of(llm, "stop")
        options["stop"] = body.stop
    # Each choice has its own seed, so that `n` choices differ and are repeatable.
    seed = options.pop("seed", None)
    seeds = [None if seed is None else seed + i for i in range(body.n or 1)]
    return [SamplingParams(seed=seed, **options) for seed in seeds]


def _room(llm: LLM, prompt: list[int], param: str) -> int:
    """Tokens that still fit behind `prompt`; raises `RequestError` when none does."""
    if not prompt:
        raise RequestError("the prompt is empty", param=param)
    room = llm.max_model_len - len(prompt)
    if room < 1:
        raise RequestError(
            # litellm and others know the error by its first words, which are OpenAI's.
            f"this model's maximum context length is {llm.max_model_len} tokens; the prompt has "
            f"{len(prompt)}, and at least one must be left for the answer",
            code="context_length_exceeded",
            param=param,
        )
    return room


def _check_ids(llm: LLM, ids: list[int], param: str = "prompt") -> list[int]:
    bad = next((i for i in ids if not 0 <= i < llm.config.vocab_size), None)
    if bad is not None:
        raise RequestError(
            f"token id {str(bad)[:30]} is not in the vocabulary of {llm.config.vocab_size}",
            param=param,
        )
    return ids
