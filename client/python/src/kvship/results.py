"""What a request gives. Reports are the messages of kvship.v1, whose fields the proto files document."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvship.v1 import generation_pb2, types_pb2


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
        """"end", "stop" or "length"."""
        name = generation_pb2.GenerateReport.FinishReason.Name(self.report.finish_reason)
        return name.removeprefix("FINISH_REASON_").lower()

    @property
    def usage(self) -> generation_pb2.Usage:
        return self.report.usage

    @property
    def kv(self) -> generation_pb2.KvReport:
        return self.report.kv

    @property
    def timing(self) -> generation_pb2.Timing:
        return self.report.timing


def token(message: types_pb2.OutputToken) -> Token:
    """A token from its message."""
    return Token(message.token_id, message.logprob, tuple((top.token_id, top.logprob) for top in message.top))


def event(response: generation_pb2.GenerateResponse) -> Progress | Output | None:
    """What a message of the stream tells; none for the report and for what a newer server may send."""
    which = response.WhichOneof("event")
    if which == "progress":
        progress = response.progress
        phase = generation_pb2.GenerateProgress.Phase.Name(progress.phase).removeprefix("PHASE_").lower()
        return Progress(phase, progress.fraction, progress.prompt_tokens)
    if which == "output":
        return Output(response.output.text, tuple(token(each) for each in response.output.tokens))
    return None
