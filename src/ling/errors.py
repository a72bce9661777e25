"""Every error that `ling` raises on purpose.

LingError
├── InputError (ValueError)          the input is at fault: one line on stderr, exit code 2
│   ├── UsageError                   a flag, a recipe key or a file the user named
│   ├── CheckpointError              a model folder or a run folder
│   │   ├── ConfigError              config.json or a preset
│   │   ├── SafetensorsError         one safetensors file
│   │   ├── ShardIndexError          model.safetensors.index.json
│   │   ├── TokenizerError           tokenizer files
│   │   ├── TemplateError            chat template
│   │   ├── DCPError                 torch distributed checkpoint
│   │   └── GGUFError                one GGUF file
│   ├── DataError                    training or evaluation data (path and line)
│   ├── RequestError                 a request to the engine or the server
│   └── ToolError                    a call of a built-in tool
├── KernelError                      the C++ core refused a call
└── RunError                         a failure that is not the input's fault: exit code 1
"""

from __future__ import annotations


class LingError(Exception):
    """Base of all errors that `ling` raises on purpose."""

    exit_code = 1


class InputError(LingError, ValueError):
    """The user's input is at fault; the message says what, where and how to mend it."""

    exit_code = 2


class UsageError(InputError):
    """A flag, a recipe key or a path given by the user is unusable."""


class CheckpointError(InputError):
    """A model or run folder does not hold what it should."""


class ConfigError(CheckpointError):
    """A model configuration is impossible or unreadable."""


class SafetensorsError(CheckpointError):
    """A safetensors file is damaged or hostile."""


class ShardIndexError(CheckpointError):
    """`model.safetensors.index.json` is damaged or points outside its folder."""


class TokenizerError(CheckpointError):
    """Tokenizer files are missing, damaged or hostile."""


class TemplateError(CheckpointError):
    """A chat template cannot be rendered."""


class DCPError(CheckpointError):
    """A torch distributed checkpoint is damaged or hostile."""


class GGUFError(CheckpointError):
    """A GGUF file is damaged, hostile or of another architecture."""


class DataError(InputError):
    """Training or evaluation data is unusable.

    `path` and `line` (1-based) lead the message when they are known; `reason` is the rest.
    """

    def __init__(self, message: str, *, path: object = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)
        self.reason, self.path, self.line = message, path, line


class RequestError(InputError):
    """A generation request is unusable; carries what the HTTP layer needs to answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after_s = retry_after_s

    @classmethod
    def timed_out(cls) -> RequestError:
        """The error of a request whose deadline is over."""
        message = "the request did not end within its `timeout_s`"
        return cls(message, status=504, code="timeout", param="timeout_s")


class ToolError(InputError):
    """A call of a built-in tool that has no result; the message is for the model to read."""


class KernelError(LingError):
    """The C++ core refused a call or is unusable."""


class RunError(LingError):
    """Something failed that is not the input's fault, such as a full disk."""
