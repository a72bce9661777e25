"""Public suites that lm-eval lacks, as files of questions: where they are, how they are asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from .questions import QuizSettings


@dataclass(frozen=True)
class Suite:
    """A data set of the Hugging Face hub that is read as a file of questions."""

    dataset: str
    split: str
    settings: QuizSettings = field(default_factory=QuizSettings)

    def how(self, file: str) -> str:
        """The command that writes the file; it needs a network and `ling[eval]`."""
        return (
            f"python -c \"import datasets; datasets.load_dataset('{self.dataset}', split="
            f"'{self.split}').to_json('{file}')\""
        )


_CONTEST = QuizSettings(question="problem", kind="text", max_tokens=32768)
_OUTPUT = (
    "```python\n{code}\n```\nWhat does `{input}` return? Reason step by step, and put the value, "
    "as Python writes it, in \\boxed{}."
)

SUITES = {
    "hmmt": Suite("MathArena/hmmt_feb_2025", "train", _CONTEST),
    "hmmt_nov": Suite("MathArena/hmmt_nov_2025", "train", _CONTEST),
    "hle": Suite("cais/hle", "test", QuizSettings(kind="text", skip_if="image", max_tokens=32768)),
    "livecodebench_execution": Suite(
        "livecodebench/execution-v2",
        "test",
        QuizSettings(
            question="code", answer="output", kind="value", prompt=_OUTPUT, max_tokens=4096
        ),
    ),
}
