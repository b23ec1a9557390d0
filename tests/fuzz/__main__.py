"""Fuzz what is fed in from outside, each target for some seconds, and say how many inputs it got.

    python -m tests.fuzz                      a second each, as the checks do
    python -m tests.fuzz --seconds 300 xml    one target, for longer
    python -m tests.fuzz --input FILE xml     once more what was found

A finding is whatever the target raises. It is shown with its input, which is kept in a file.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: Code of the package, and of the standard library where it is Python that reads for us.
_INSTRUMENTED = ["virtballoon", "tomllib"]
_LONGEST_INPUT = 16384
#: Whatever takes so long for an input hangs, on any machine.
_HANGS_SECONDS = 60


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=int, default=1, help="for each target; default 1")
    parser.add_argument("--input", type=Path, help="run it once instead")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("target", nargs="*", help="default: all")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: skipped, there is no atheris: pip install '.[fuzz]'", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    if options.worker:
        return _work(options.worker, options.target)
    from tests.fuzz.targets import TARGETS

    if unknown := set(options.target) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are: {', '.join(TARGETS)}")
    found = False
    for name in options.target or TARGETS:
        found = not _fuzz(name, options.seconds, options.input) or found
    return 1 if found else 0


def _work(name: str, arguments: list[str]) -> int:
    """Be the process of one target, which the fuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        # The package imports it when there is a file to read, which is too late.
        import tomllib  # noqa: F401

        from tests.fuzz.targets import TARGETS

    atheris.Setup(["fuzz", *arguments], TARGETS[name].run)
    atheris.Fuzz()
    return 0


def _fuzz(name: str, seconds: int, once: Path | None) -> bool:
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as directory:
        corpus, words, findings = (Path(directory, part) for part in ("corpus", "words", "found"))
        corpus.mkdir()
        findings.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
        arguments = [
            f"-max_total_time={seconds}",
            f"-timeout={_HANGS_SECONDS}",
            f"-max_len={_LONGEST_INPUT}",
            *([f"-dict={words}"] if target.words else []),
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
            str(once if once is not None else corpus),
        ]
        result = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--worker", name, "--", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        counted = re.search(r"^stat::number_of_executed_units: +(\d+)", result.stderr, re.MULTILINE)
        print(
            f"fuzz: {name}: {counted[1] if counted else 'an unknown number of'} inputs", flush=True
        )
        if result.returncode == 0:
            return True
        print(result.stdout + result.stderr, file=sys.stderr)
        for finding in findings.iterdir():
            kept = Path(tempfile.gettempdir(), f"fuzz-{name}-{finding.name}")
            kept.write_bytes(finding.read_bytes())
            print(f"fuzz: {name}: {kept}: {kept.read_bytes()!r:.2000}", file=sys.stderr)
    return False


def _quoted(word: str) -> str:
    # The fuzzer's own file format.
    return "".join(c if c.isalnum() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in word)


if __name__ == "__main__":
    sys.exit(main())
