"""kvship-eval: studies of accuracy, bytes and time against a running service."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvship

from kvship_eval import (
    longbench,
    longbench_sets,
    longeval,
    needle,
    observe,
    overhead,
    policies,
    report,
    runs,
    sensitivity,
    service,
    sweep,
)
from kvship_eval.cases import ANSWERS, FORMS, FUNCTION_CALL, HALVES, Cases, Kind
from kvship_eval.haystack import Haystack
from kvship_eval.inspect_program import Inspect
from kvship_eval.policy import KEEP_ALL, RIVALS, Policy
from kvship_eval.records import Records, digest

READY_TIMEOUT_S = 30
OUT = Path("kvship-eval-results")


def _kind(text: str) -> Kind:
    form, _, answer = text.rpartition("-")
    kind = Kind(form, answer)
    if kind != FUNCTION_CALL and (form not in FORMS or answer not in ANSWERS):
        raise argparse.ArgumentTypeError(f"'{text}' is no kind; wanted {FUNCTION_CALL}, or FORM-ANSWER, FORM one of "
                                         f"{', '.join(FORMS)}, ANSWER one of {', '.join(ANSWERS)}")
    return kind


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _register_lengths(text: str) -> list[int]:
    lengths = _numbers(text)
    if max(lengths) > longeval.MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"'{text}' has a length above {longeval.MOST_TOKENS}, the most that there are lines for")
    return lengths


def _factors(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError:
        factors = []
    if not factors or not all(1 <= factor < math.inf for factor in factors):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of finite factors of at least 1, 4,8,16")
    return factors


def _policy(text: str) -> Policy:
    policy = Policy.parse(text)
    try:
        policy.share(1)  # now, and not after the first answers
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if policy.name == KEEP_ALL.name and policy.options != KEEP_ALL.options:
        raise argparse.ArgumentTypeError(f"policy '{policy.name}' has the options '{policy.options}'; that name is the full cache's, "
                                         f"{KEEP_ALL.options}")
    return policy


class _AddPolicy(argparse.Action):
    """Records go by the names of policies: one of each."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest) or []
        if values.name in [policy.name for policy in before]:
            raise argparse.ArgumentError(self, f"two policies have the name '{values.name}'; wanted one of each")
        setattr(namespace, self.dest, [*before, values])


def _cases(parser: argparse.ArgumentParser, lengths: str, cases: int | None, half: str = "report") -> None:
    parser.add_argument("--lengths", type=_numbers, default=_numbers(lengths), help=f"prompt tokens ({lengths})")
    parser.add_argument("--haystack", type=Path, nargs="+", help="text files (licences that every Debian has)")
    parser.add_argument("--half", choices=HALVES, default=half,
                        help=f"texts, sentences, seeds and kinds: those that settings are chosen on, or the others ({half})")
    parser.add_argument("--kinds", type=_kind, nargs="+", help="FORM-ANSWER ... (those of the half)")
    parser.add_argument("--cases", type=_positive, default=cases, help=f"cases per kind and length ({cases or 'fewer of long prompts'})")
    parser.add_argument("--seed", type=int, default=0)


def _policies(parser: argparse.ArgumentParser, default: list[Policy]) -> None:
    parser.add_argument("--policy", type=_policy, action=_AddPolicy, dest="policies", metavar="NAME:OPTIONS",
                        help="may be given several times")
    parser.set_defaults(default_policies=default)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvship-eval", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True)

    def add(name: str, text: str, service: bool = True) -> argparse.ArgumentParser:
        study = studies.add_parser(name, help=text, description=text)
        study.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
        if service:
            study.add_argument("--server", default="localhost:50050", help="decode server (localhost:50050)")
        return study

    study = add("needle", needle.__doc__ or "")
    _cases(study, "1000,2000,4000", 5)
    _policies(study, [KEEP_ALL, *(RIVALS[0].at_bytes(factor) for factor in (4, 8, 16, 32))])
    study = add("longeval", longeval.__doc__ or "")
    study.add_argument("--lengths", type=_register_lengths, default=_numbers("200,300,500,1000"),
                       help="prompt tokens, some 24 to a line (200,300,500,1000)")
    study.add_argument("--cases", type=_positive, default=5, help="depths per length (5)")
    study.add_argument("--seed", type=int, default=0)
    lines = "scorer=snapkv,encoder=int4"
    _policies(study, [KEEP_ALL, Policy("snapkv", lines).at_bytes(8), Policy("no pooling", f"{lines},pool=none").at_bytes(8)])
    study = add("longbench", longbench.__doc__ or "")
    study.add_argument("--data", type=Path, help="folder with NAME.jsonl of each set (the synthetic sample)")
    study.add_argument("--sets", nargs="+", choices=longbench_sets.SETS, default=list(longbench_sets.SETS), metavar="SET")
    study.add_argument("--prompts", type=Path, help="LongBench's dataset2prompt.json, for its prompts instead of ours")
    study.add_argument("--max-lengths", type=Path, help="LongBench's dataset2maxlen.json, for output tokens per set")
    study.add_argument("--context", type=_positive, default=7500, help="prompt tokens; longer ones lose their middle (7500)")
    study.add_argument("--limit", type=_positive, help="questions per set, at most")
    study.add_argument("--no-chat", action="store_true",
                       help="no prompt in the model's chat template, as published for Mistral and Mixtral")
    _policies(study, [KEEP_ALL, RIVALS[0].at_bytes(16)])
    study = add("policies", policies.__doc__ or "")
    _cases(study, "1000,4000", 2)
    study.add_argument("--factors", type=_factors, default=[4.0, 8.0, 16.0], help="times fewer bytes (4,8,16)")
    _policies(study, list(RIVALS))
    study = add("sensitivity", sensitivity.__doc__ or "")
    _cases(study, "2000", 2, half="choose")
    study.add_argument("--budget", default="encoder=int4,budget_ratio=0.19", help="options that stay")
    study.add_argument("--windows", type=_numbers, default=[16, 32, 64])
    study.add_argument("--kernels", type=_numbers, default=[1, 5, 15, 31, 63])
    study.add_argument("--pools", nargs="+", choices=("avg", "max"), default=["avg", "max"])
    study = add("overhead", overhead.__doc__ or "")
    study.add_argument("--lengths", type=_numbers, default=_numbers("1000,2000,4000,7500"))
    study.add_argument("--batches", type=_numbers, default=[1, 2, 4, 8])
    study.add_argument("--output-tokens", type=_positive, default=64, help="decode steps that are timed (64)")
    study.add_argument("--rounds", type=_positive, default=3)
    study.add_argument("--prefill-pid", type=_positive, help="process whose peak memory is read, on this machine")
    _policies(study, [KEEP_ALL, Policy("512 kept", "scorer=snapkv,budget_tokens=512,encoder=f16"), RIVALS[0].at_bytes(16)])
    study = add("observe", observe.__doc__ or "", service=False)
    study.add_argument("--inspect", type=Path, required=True, help="the program kvship-inspect")
    study.add_argument("--model", type=Path, required=True)
    study.add_argument("--length", type=_positive, default=3500, help="prompt tokens (3500)")
    study.add_argument("--documents", type=_positive, default=5, help="documents (5)")
    study = add("sweep", sweep.__doc__ or "", service=False)
    study.add_argument("--inspect", type=Path, required=True, help="the program kvship-inspect")
    study.add_argument("--model", type=Path, required=True)
    _cases(study, "1000,2000,4000,7500", None, half="choose")
    study.add_argument("--factors", type=_factors, default=[4.0, 8.0, 16.0, 32.0])
    _policies(study, sweep.CANDIDATES)
    add("report", "All plots and tables of a folder as one HTML file.", service=False)
    return parser


def _chosen_cases(args: argparse.Namespace) -> Cases:
    half = HALVES[args.half]
    return Cases(dataclasses.replace(half, texts=args.haystack or half.texts, kinds=args.kinds or half.kinds,
                                     seed=half.seed + args.seed))


def _chosen(args: argparse.Namespace) -> list[Policy]:
    return args.policies or args.default_policies


def _run_needle(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    needle.run(client, records, _chosen(args), _chosen_cases(args), args.lengths, args.cases)


def _run_longeval(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    longeval.run(client, records, _chosen(args), args.lengths, args.cases, args.seed)


def _run_longbench(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    sets = longbench_sets.chosen(args.sets, args.prompts, args.max_lengths)
    longbench.run(client, records, _chosen(args), sets, args.data, args.context, args.limit, not args.no_chat)


def _run_policies(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    policies.run(client, records, _chosen(args), args.factors, _chosen_cases(args), args.lengths, args.cases)


def _run_sensitivity(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    sensitivity.run(client, records, args.budget, args.windows, args.kernels, args.pools, _chosen_cases(args), args.lengths,
                    args.cases)


def _run_overhead(client: kvship.Client, records: Records, args: argparse.Namespace) -> None:
    overhead.run(client, records, _chosen(args), args.lengths, args.batches, args.output_tokens, args.rounds,
                 Haystack(HALVES["report"].texts), args.prefill_pid)


_ON_SERVICE: dict[str, Callable[[kvship.Client, Records, argparse.Namespace], None]] = {
    "needle": _run_needle, "longeval": _run_longeval, "longbench": _run_longbench, "policies": _run_policies,
    "sensitivity": _run_sensitivity, "overhead": _run_overhead}
_PLOTS = {"needle": needle.plot, "longeval": longeval.plot, "longbench": longbench.plot, "policies": policies.plot,
          "sensitivity": sensitivity.plot, "overhead": overhead.plot, "observe": observe.plot, "sweep": sweep.plot}


def _write_report(folder: Path) -> None:
    """Plots what has been measured so far, and puts it on one page."""
    made = [path for plot in _PLOTS.values() for path in plot(folder)]
    print(report.write_report(folder, list(dict.fromkeys(path.stem for path in made))))


def _records(args: argparse.Namespace, name: str, model: str, identity: str) -> Records:
    """What is on record of a study; the run is noted once it adds to it."""
    return Records(args.out, name, digest(identity), lambda: runs.note(args.out, name, sys.argv[1:], model))


def _run(args: argparse.Namespace) -> None:
    if args.study == "report":
        return _write_report(args.out)
    if args.study == "observe":
        inspect = Inspect(args.inspect, args.model)
        observe.run(inspect, _records(args, "observe", args.model.stem, inspect.identity()), args.length, args.documents)
    elif args.study == "sweep":
        inspect = Inspect(args.inspect, args.model)
        sweep.run_sweep(inspect, _records(args, f"sweep-{args.half}", args.model.stem, inspect.identity()), args.half,
                        sweep.settings(_chosen(args), args.factors), sweep.points(_chosen_cases(args), args.lengths, args.cases))
    else:
        options = overhead.CHANNEL_OPTIONS if args.study == "overhead" else ()
        with kvship.Client(args.server, channel_options=options) as client:
            client.wait_until_ready(READY_TIMEOUT_S)
            model = client.model_info()
            _ON_SERVICE[args.study](client, _records(args, args.study, model.name, service.identity(model)), args)
    for path in _PLOTS[args.study](args.out):
        print(path)


def main() -> int:
    """The exit code: 0, or 1 after a sentence on stderr; what was measured until then is kept."""
    args = _parser().parse_args()
    goes_on = "what was measured is kept; the same command goes on from there"
    try:
        _run(args)
    except kvship.Unavailable as error:
        print(f"kvship-eval {args.study}: the service at {args.server} is gone: {error}; {goes_on}", file=sys.stderr)
        return 1
    except (kvship.Error, ValueError, RuntimeError, OSError) as error:
        print(f"kvship-eval {args.study}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"kvship-eval {args.study}: interrupted; {goes_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
