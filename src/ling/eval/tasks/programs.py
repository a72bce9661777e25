"""Programming problems as a task: what the model writes is run in the sandbox."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..code.judge import run_code_task
from ..code.problems import Problem, prompts_of, read_problems
from ..code.sandbox import Limits, require_sandbox
from ..kept import Kept
from ..scorer import Ask
from ..scorers.choose import Subject
from .files import file_id
from .questions import QuizSettings, read_settings
from .task import Outcome, TaskOptions


class Programs:
    """The problems of `path`; of the YAML file beside it `max_tokens`, `stop`, `samples`,
    `temperature` and `top_p` are used.

    Raises `UsageError` where running code was not asked for, or is refused by the kernel.
    """

    def __init__(self, name: str, path: Path, options: TaskOptions) -> None:
        self.name, self._path, self._options = name, path, options
        if not options.run_code:
            raise UsageError(
                f"`{name}` runs the programs that the model writes; `--run-code` runs them, in a "
                "sandbox without network and files (docs/guides/evaluation-code.md)"
            )
        require_sandbox()
        self._settings = read_settings(path.with_name(f"{name}.yaml"), QuizSettings())
        self._problems = read_problems(path, options.limit)
        own = self._settings
        self._limits = Limits(wall_s=own.wall_s, memory_bytes=own.memory_bytes)

    def settings(self) -> dict[str, Any]:
        asked = {
            key: getattr(self._settings, key)
            for key in ("max_tokens", "samples", "temperature", "top_p")
        }
        return {
            "task": self.name,
            "limit": self._options.limit,
            "chat": self._options.chat,
            "asked": asked | {"stop": list(self._settings.stop)},
            "limits": dataclasses.asdict(self._limits),
            "data": file_id(self._path),
        }

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        from tqdm import tqdm

        problems, samples = self._problems, self._settings.samples
        said = scorer.generate([self._ask(p, k) for p in problems for k in range(samples)])
        answers = {p.id: said[i * samples : (i + 1) * samples] for i, p in enumerate(problems)}
        with tqdm(total=len(said), desc="programs", unit="program", disable=None) as bar:
            results = run_code_task(
                problems, answers, self._limits, on_verdict=lambda *_: bar.update()
            )
        metrics = {f"pass@{k}": results.pass_at(k) for k in sorted({1, samples})}
        failed = {
            id: next(v.why for v in verdicts if not v.passed)
            for id, verdicts in results.verdicts.items()
            if not all(v.passed for v in verdicts)
        }
        return Outcome(metrics, "pass@1", count=len(problems), details={"failed": failed})

    def _ask(self, problem: Problem, sample: int) -> Ask:
        prompts, settings = prompts_of(problem), self._settings
        chat = self._options.chat
        return Ask(
            [{"role": "user", "content": prompts.chat}] if chat else prompts.text,
            settings.max_tokens,
            settings.stop or (() if chat else prompts.stops),
            settings.temperature,
            settings.top_p,
            sample,
        )
