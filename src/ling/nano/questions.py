"""Twenty questions as a user might type them, written before there was a model to answer them.

Some are what the model is made for, some are near it, and some it cannot know. The answers are
printed as they come.
"""

from __future__ import annotations

from typing import Any

from ..infer.request import SamplingParams
from ..llm import LLM

QUESTIONS = (
    "Hi there!",
    "Who are you?",
    "What can you do?",
    "how are you today",
    "What is 17 + 25?",
    "What is 144 divided by 12?",
    "How many metres are 3 kilometres?",
    "What day comes after Tuesday?",
    "Tom has a red car and a blue bike. Is Tom's bike red?",
    "Name three colours.",
    'What does the word "river" mean?',
    "Sort these numbers: 9, 2, 7.",
    "What is the capital of France?",
    "Tell me a short story about a dog.",
    "Write a Python function that adds two numbers.",
    "I am sad today.",
    "What will the weather be like in Berlin tomorrow?",
    "Who won the football match last night?",
    "Explain how a plane flies.",
    "Thanks, goodbye!",
)
MAX_TOKENS = 96


def answers(llm: LLM) -> list[dict[str, Any]]:
    """What is said to each, alone and greedily; `stopped` where the model ended its turn itself."""
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    outputs = llm.chat([[{"role": "user", "content": q}] for q in QUESTIONS], params)
    return [
        {
            "asked": question,
            "said": output.outputs[0].text,
            "stopped": output.outputs[0].finish_reason == "stop",
        }
        for question, output in zip(QUESTIONS, outputs, strict=True)
    ]
