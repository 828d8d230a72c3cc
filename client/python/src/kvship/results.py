"""What a request gives. Reports are the messages of kvship.v1, whose fields the proto files document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvship.v1 import generation_pb2, types_pb2

_PHASES = {value: name for name, value in generation_pb2.GenerateProgress.Phase.items()}
_FINISH_REASONS = {value: name for name, value in generation_pb2.GenerateReport.FinishReason.items()}


@dataclass(frozen=True)
class Token:
    """One output token; `logprob` and `top`, the likeliest as (id, logprob), where logprobs were asked for."""

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Progress:
    """The request waits ("queued") or its prompt is being read ("prefill"; `fraction` of it is)."""

    phase: str
    fraction: float
    prompt_tokens: int


@dataclass(frozen=True)
class Output:
    """Text and tokens since the last one. Text is whole UTF-8 and may lag behind the tokens."""

    text: str
    tokens: tuple[Token, ...]


@dataclass
class Generation:
    """A finished request."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    report: generation_pb2.GenerateReport = field(default_factory=generation_pb2.GenerateReport)

    @property
    def finish_reason(self) -> str:
        """"end", "stop" or "length"; the number of one that only a newer server knows."""
        return _name(_FINISH_REASONS, self.report.finish_reason, "FINISH_REASON_")

    @property
    def usage(self) -> generation_pb2.Usage:
        return self.report.usage

    @property
    def kv(self) -> generation_pb2.KvReport:
        return self.report.kv

    @property
    def timing(self) -> generation_pb2.Timing:
        return self.report.timing


def _name(names: Mapping[int, str], value: int, prefix: str) -> str:
    """A value's name without the prefix, in small letters; its number where only a newer version has a name for it."""
    return names.get(value, str(value)).removeprefix(prefix).lower()


def token(message: types_pb2.OutputToken) -> Token:
    """A token from its message."""
    return Token(message.token_id, message.logprob, tuple((top.token_id, top.logprob) for top in message.top))


class StreamedResult:
    """What the messages of a stream have told so far."""

    def __init__(self) -> None:
        self._result = Generation()
        self._done = False

    def _take(self, response: generation_pb2.GenerateResponse) -> Progress | Output | None:
        """Keeps what a message tells, and returns it as event does."""
        if response.HasField("report"):
            self._result.report = response.report
        told = event(response)
        if isinstance(told, Output):
            self._result.text += told.text
            self._result.tokens.extend(told.tokens)
        return told

    @property
    def result(self) -> Generation:
        """Everything, once the stream has ended. Raises RuntimeError before."""
        if not self._done:
            raise RuntimeError("the stream has not ended; iterate over it first")
        return self._result

    @property
    def report(self) -> generation_pb2.GenerateReport:
        return self.result.report


def event(response: generation_pb2.GenerateResponse) -> Progress | Output | None:
    """What a message of the stream tells; none for the report and for what a newer server may send."""
    which = response.WhichOneof("event")
    if which == "progress":
        progress = response.progress
        return Progress(_name(_PHASES, progress.phase, "PHASE_"), progress.fraction, progress.prompt_tokens)
    if which == "output":
        return Output(response.output.text, tuple(token(each) for each in response.output.tokens))
    return None
