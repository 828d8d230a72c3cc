"""Named policies: compression options as text, and budgets that make policies cost the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

# Bytes of a kept token of one head of 64 channels, its position included, over those of a token that is not compressed
# (f16): what a share of the bytes allows to keep (kernels/page_layout.h).
HEAD_DIM = 64
FULL_BYTES = 2 * 2 * HEAD_DIM
TOKEN_BYTES = {
    "f32": 2 * FULL_BYTES + 4,
    "f16": FULL_BYTES + 4,
    "bf16": FULL_BYTES + 4,
    "fp8": 2 * HEAD_DIM + 0.5 + 4,
    "int8": 2 * HEAD_DIM + HEAD_DIM / 4 + 4,
    "int4": HEAD_DIM + HEAD_DIM / 4 + 4,
}


@dataclass(frozen=True)
class Policy:
    """Compression options under a name. `options` is the text form, "scorer=snapkv,kernel=31"."""

    name: str
    options: str

    @staticmethod
    def parse(text: str) -> Policy:
        """"NAME: OPTIONS", or options alone, which then are the name."""
        name, colon, options = text.partition(":")
        return Policy(name.strip(), options.strip()) if colon else Policy(text.strip(), text.strip())

    @property
    def asked(self) -> str:
        """The options, with a share of the tokens as it is: a server's default has a least number of tokens for short prompts."""
        if "budget_ratio=" not in self.options or "min_tokens=" in self.options:
            return self.options
        return f"{self.options},min_tokens=0"

    def share(self, factor: float) -> float:
        """Of the tokens, what makes the cache `factor` times smaller than in f16, pages that are not full aside.

        Raises ValueError, naming the policy, for options that are no pairs and an encoder that is none.
        """
        encoder = "f16"
        for pair in filter(str.strip, self.options.split(",")):
            name, equals, value = (part.strip() for part in pair.partition("="))
            if not equals:
                raise ValueError(f"policy '{self.name}' has the option '{name}'; wanted NAME=VALUE, such as encoder=int4")
            if name == "encoder":
                encoder = value
        if encoder not in TOKEN_BYTES:
            raise ValueError(f"policy '{self.name}' has the encoder '{encoder}'; wanted one of {', '.join(TOKEN_BYTES)}")
        return min(1.0, FULL_BYTES / factor / TOKEN_BYTES[encoder])

    def at_bytes(self, factor: float) -> Policy:
        """The same with that share of the tokens; as it is if it names a budget."""
        if "budget_" in self.options:
            return self
        return Policy(f"{self.name} {factor:g}x", f"{self.options},budget_ratio={self.share(factor):.5f}")


KEEP_ALL = Policy("keep_all", "scorer=keep_all,encoder=f16")

# What is compared at the same bytes. "snapkv, paper" is the window, kernel, pooling and one set of tokens per query head of the
# paper's LongBench runs, in int4 where the paper has half precision; "grouped" is the same with one set per KV head, by the group's
# mean. What the others keep at the start and the end whatever its score: compress/README.md.
_INT4 = "encoder=int4,window=16,kernel=31"
_LIKE_DEFAULT = f"scorer=snapkv,{_INT4},group_reduce=max"
_PAPER = "scorer=snapkv,encoder=int4,window=32,kernel=7,pool=max"
RIVALS = (
    Policy("default", _LIKE_DEFAULT),
    Policy("snapkv, paper", f"{_PAPER},group_reduce=none"),
    Policy("snapkv, paper, grouped", f"{_PAPER},group_reduce=mean"),
    Policy("default + ada", f"{_LIKE_DEFAULT},allocator=ada"),
    Policy("default + pyramid", f"{_LIKE_DEFAULT},allocator=pyramid"),
    Policy("default + chunks", f"{_LIKE_DEFAULT},selector=chunks"),
    *(Policy(scorer, f"scorer={scorer},{_INT4},group_reduce=mean")
      for scorer in ("h2o", "tova", "streaming_llm", "knorm", "keydiff", "expected_attention", "random")),
)
