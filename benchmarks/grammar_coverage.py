"""How much of JSON Schema grammars honour, measured with the public JSON-Schema-Test-Suite; writes docs/guidance.md.

The suite travels in the source archive of the `jsonschema` package:

    pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
    python -m benchmarks.grammar_coverage jsonschema-4.26.0.tar.gz
"""

from __future__ import annotations

import itertools
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tgi.guidance.grammar import Compiler, Constraint, _Bytes, parser_limits
from tgi.guidance.limits import GrammarError

DRAFT = "/json/tests/draft2020-12/"
PAGE = Path(__file__).parent.parent / "docs" / "guidance.md"
BEGIN, END = "<!-- measured by benchmarks/grammar_coverage.py -->", "<!-- end -->"
MOST_KEYS = 4  # orders of so many keys are tried: a grammar wants the schema's
EOS = 256


@dataclass
class Score:
    """What became of one file of the suite."""

    schemas: int = 0
    compiled: int = 0
    valid: int = 0  # valid instances of compiled schemas
    accepted: int = 0  # of those, in some order of keys
    invalid: int = 0
    let_through: list[str] = field(default_factory=list)  # invalid instances that a mask allowed
    reasons: Counter[str] = field(default_factory=Counter)


class Oracle:
    """Compiles schemas and walks instances through their masks, byte by byte."""

    def __init__(self) -> None:
        self._compiler = Compiler()
        self._vocabulary = LLTokenizer(TokenizerWrapper(_Bytes(())), slices=[])

    def compile(self, schema: Any) -> str:
        """Raises: GrammarError."""
        return self._compiler.compile(Constraint("json", json.dumps(schema)))

    def accepts(self, grammar: str, instance: Any) -> bool:
        """Whether the instance can be an output, with its keys in some order."""
        return any(self._walk(grammar, json.dumps(form, separators=(",", ":"))) for form in orders(instance))

    def _walk(self, grammar: str, text: str) -> bool:
        matcher = LLMatcher(self._vocabulary, grammar, limits=parser_limits(), log_level=0)
        for token in [*text.encode(), EOS]:
            mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            if matcher.is_error() or not mask[token]:
                return False
            matcher.consume_token(token)
        return True


def orders(instance: Any) -> Iterator[Any]:
    """The instance with the keys of its outermost object in every order."""
    if isinstance(instance, dict) and 1 < len(instance) <= MOST_KEYS:
        for keys in itertools.permutations(instance):
            yield {key: instance[key] for key in keys}
    else:
        yield instance


def suite(archive: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The required tests of draft 2020-12 and its formats, by the name of their file."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getnames()):
            _, found, name = member.partition(DRAFT)
            wanted = found and name.endswith(".json") and ("/" not in name or name.startswith("optional/format/"))
            file = tar.extractfile(member) if wanted else None
            if file is not None:
                yield name.removesuffix(".json").replace("optional/format/", "format: "), json.load(file)


def measure(archive: Path) -> dict[str, Score]:
    """The scores by file of the suite."""
    oracle = Oracle()
    scores: dict[str, Score] = {}
    for name, cases in suite(archive):
        score = scores[name] = Score()
        for case in cases:
            score.schemas += 1
            try:
                grammar = oracle.compile(case["schema"])
            except GrammarError as error:
                score.reasons[str(error).partition(": ")[2] or str(error)] += 1
                continue
            score.compiled += 1
            for test in case["tests"]:
                accepted = oracle.accepts(grammar, test["data"])
                if test["valid"]:
                    score.valid += 1
                    score.accepted += accepted
                else:
                    score.invalid += 1
                    if accepted:
                        score.let_through.append(f"{case['description']}: {test['description']}")
    return scores


def table(scores: dict[str, Score]) -> str:
    """The scores in Markdown."""
    lines = [
        "| tests of | schemas | compiled | valid outputs possible | invalid outputs possible | refused because |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, score in scores.items():
        reason = score.reasons.most_common(1)[0][0] if score.reasons else ""
        shown = reason.replace("|", "\\|")[:90]
        lines.append(
            f"| {name} | {score.schemas} | {score.compiled} | {score.accepted} of {score.valid} "
            f"| {len(score.let_through)} of {score.invalid} | {shown} |"
        )
    total = [
        sum(getattr(score, name) for score in scores.values()) for name in ("schemas", "compiled", "accepted", "valid")
    ]
    through = sum(len(score.let_through) for score in scores.values())
    invalid = sum(score.invalid for score in scores.values())
    lines.append(f"| **all** | {total[0]} | {total[1]} | {total[2]} of {total[3]} | {through} of {invalid} | |")
    return "\n".join(lines)


def main(archive: Path) -> None:
    """Measure, and write the table into the page."""
    scores = measure(archive)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(scores)}\n{END}{after}", encoding="utf-8")
    for name, score in scores.items():
        for case in score.let_through:
            print(f"{name}: {case}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
