"""The two programs that time a model on a phone: their command lines, and the numbers in their output."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nas.devices import Job, Run
from nas.devices._runner import RunnerLost
from nas.devices.onnxruntime import exported
from nas.errors import DeviceError, InputError
from nas.networks import Subject

__all__ = ["Answer", "BenchmarkModel", "PerfTest", "Tool"]

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_ENDS_AND_MIDDLE = {0.0, 0.5, 1.0}  # the quantiles that are required


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one invocation of a tool gave.

    Attributes:
        said: lines that it printed.
        result: lines of the file `result` that it wrote.
        facts: state of the phone, for `Run.facts`.
    """

    said: Sequence[str]
    result: Sequence[str]
    facts: Mapping[str, str]


class Tool(Protocol):
    """A program that times a model.

    Attributes:
        name: name of the program.
        model: name of the model's file.
        versions: versions of the packages that export the models, where they affect the times.
    """

    name: str
    model: str
    versions: Mapping[str, str]

    def export(self, subject: Subject) -> bytes:
        """The model of a subject."""
        ...

    def measure(self, job: Job, execute: Callable[[Sequence[str]], Answer]) -> Run:
        """Time the model. `execute` runs the tool with arguments, and may be called more than once.

        Raises:
            RunnerLost: the output of the tool is not as expected.
        """
        ...

    def refusal(self, said: Sequence[str]) -> str | None:
        """Why it will fail in every job and what to do, from the lines it printed before it ended with an error."""
        ...


class PerfTest:
    """ONNX Runtime's onnxruntime_perf_test.

    Args:
        provider: execution provider, as its option -e names it.
        threads: threads inside an operator.
        fallback: whether the CPU may run what the provider cannot.
    """

    name = "onnxruntime_perf_test"
    model = "model.onnx"
    versions: Mapping[str, str] = {}

    def __init__(self, *, provider: str, threads: int, fallback: bool) -> None:
        self._provider = provider
        strict = provider != "cpu" and not fallback
        self._arguments = [
            "-I",  # The tool makes its own input.
            *("-e", provider, "-x", str(threads), "-s"),
            *(("-C", "session.disable_cpu_ep_fallback|1") if strict else ()),
        ]

    def export(self, subject: Subject) -> bytes:
        """An ONNX model."""
        return exported(subject)

    def measure(self, job: Job, execute: Callable[[Sequence[str]], Answer]) -> Run:
        """Time the model.

        The tool takes a number of runs or a duration in whole seconds. So the number of runs is increased until they
        take long enough.
        """
        runs = job.minimum_runs
        while True:
            answer = execute([*self._arguments, "-m", "times", "-r", str(runs), self.model, "result"])
            run, total_ms = _perf_test_run(answer, runs)
            if total_ms >= job.duration_ms or runs >= job.maximum_runs:
                return run
            wanted = math.ceil(1.1 * runs * job.duration_ms / total_ms)
            runs = min(job.maximum_runs, max(2 * runs, wanted))

    def refusal(self, said: Sequence[str]) -> str | None:
        """The provider is not part of this build, or the tool does not know its arguments."""
        text = "\n".join(said)
        if "is not supported in this build" in text:
            return (
                f"the runner was built without {self._provider}; build one with it, as in build.sh --use_"
                f"{self._provider}, or choose another --option provider=NAME"
            )
        if "[result_file]" in text or "Unknown command line flag" in text:  # It shows its usage.
            return f"the runner does not know its arguments, such as provider {self._provider}; give a newer one"
        return None


class BenchmarkModel:
    """LiteRT's benchmark_model.

    Args:
        provider: cpu or the name of a delegate.
        threads: threads of the CPU.
        fallback: whether the CPU may run what the delegate cannot.
        longest_s: limit for the duration of the tool's runs.
    Raises:
        InputError: an unknown provider.
        DeviceError: the package that exports its models is not installed.
    """

    name = "benchmark_model"
    model = "model.tflite"

    _PROVIDERS: Mapping[str, Sequence[str]] = {
        "cpu": ["--use_xnnpack=false"],
        "xnnpack": ["--use_xnnpack=true"],
        "gpu": ["--use_gpu=true", "--gpu_precision_loss_allowed=false"],
        "nnapi": ["--use_nnapi=true"],
    }

    def __init__(self, *, provider: str, threads: int, fallback: bool, longest_s: float) -> None:
        if provider not in self._PROVIDERS:
            known = ", ".join(self._PROVIDERS)
            raise InputError(f"--device android: benchmark_model has no provider {provider}; there are {known}")
        if importlib.util.find_spec("litert_torch") is None:
            raise DeviceError(
                "android: nothing here makes models for benchmark_model; pip install litert-torch "
                f"torch=={importlib.metadata.version('torch')}, or give onnxruntime_perf_test as the runner"
            )
        self._provider = provider
        self._fallback = fallback
        self._arguments = [
            f"--graph={self.model}",
            f"--num_threads={threads}",
            f"--max_secs={longest_s:g}",
            *self._PROVIDERS[provider],
        ]
        self.versions: Mapping[str, str] = {"litert-torch": importlib.metadata.version("litert-torch")}

    def export(self, subject: Subject) -> bytes:
        """A .tflite model whose input and output maps have the channels last. Takes 0.5 to 2 s for a layer."""
        from nas.networks.modules import build_deployed, example_input

        module, image = build_deployed(subject), example_input(subject)
        # The package prints every step to stdout, which is for data.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            litert_torch = importlib.import_module("litert_torch")
            maps = [0] if module(image).ndim == image.ndim else []
            last_channels = litert_torch.to_channel_last_io(module, args=[0], outputs=maps).eval()
            converted = litert_torch.convert(last_channels, (image.permute(0, 2, 3, 1).contiguous(),))
            model: bytes = converted.model_content()
        return model

    def measure(self, job: Job, execute: Callable[[Sequence[str]], Answer]) -> Run:
        """Time the model.

        Short runs may be more than `maximum_runs`: the tool has no option for that limit.
        """
        least = [f"--num_runs={job.minimum_runs}", f"--min_secs={job.duration_ms / 1000:g}"]
        answer = execute([*self._arguments, *least])
        self._check_delegate("\n".join(answer.said))
        # The first such line is about the warm-up.
        line = next((line for line in reversed(answer.said) if re.match(r"(INFO: )?count=", line)), "")
        values = dict(re.findall(rf"(\w+)=({_NUMBER})", line))
        if "(all same)" in line and "curr" in values:
            values |= dict.fromkeys(("min", "median", "max"), values["curr"])
        names = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
        quantiles_ms = {fraction: float(values[name]) / 1000 for name, fraction in names.items() if name in values}
        count = int(values.get("count", "0"))
        if count < job.minimum_runs:
            raise RunnerLost(f"the runner reports {count} of {job.minimum_runs} runs")
        if not quantiles_ms.keys() >= _ENDS_AND_MIDDLE:
            raise RunnerLost("the runner is too old to print a median; give a newer benchmark_model")
        return Run(quantiles_ms=quantiles_ms, count=count, facts=answer.facts)

    def refusal(self, said: Sequence[str]) -> str | None:
        """The tool does not know its arguments."""
        unknown = next((line for line in said if "Unconsumed cmdline flags" in line), None)
        return f"the runner does not know its arguments ({unknown}); give a newer one" if unknown else None

    def _check_delegate(self, said: str) -> None:
        """Find out whether the delegate ran the model. What it cannot run goes to the CPU, without an error.

        Raises:
            RunnerLost: it ran nothing, or only a part where no fallback is allowed.
        """
        if self._provider == "cpu" or "model graph will be completely executed by the delegate" in said:
            return
        if "model graph will be partially executed by the delegate" not in said:
            raise RunnerLost(f"the delegate {self._provider} runs nothing of it")
        if not self._fallback:
            raise RunnerLost(
                f"the delegate {self._provider} runs a part; with --option fallback=true the processor runs the rest"
            )


def _perf_test_run(answer: Answer, runs: int) -> tuple[Run, float]:
    """The measurement of one invocation, and the total time of its runs in milliseconds.

    The result has a line for each run. The column with the seconds depends on the version: it is the one whose mean
    equals the average that the tool printed. Some versions write statistics only, which give quantiles.

    Raises:
        RunnerLost: there are neither times nor quantiles, or lines are incomplete.
    """
    text = "\n".join([*answer.said, *answer.result])
    printed = re.search(rf"Average inference time cost:\s*({_NUMBER})\s*ms", text)
    average_ms = float(printed[1]) if printed else 0.0
    if not average_ms > 0:
        raise RunnerLost("the runner printed no average time")
    rows = [line.split(",") for line in answer.result if "," in line]
    if not rows:
        lines = re.findall(rf"(?m)^(Min|Max|P[0-9]+) Latency:\s*({_NUMBER})\s*s", text)
        quantiles_ms = {_fraction(name): float(seconds) * 1000 for name, seconds in lines}
        if not quantiles_ms.keys() >= _ENDS_AND_MIDDLE:
            raise RunnerLost("the runner gave neither times nor quantiles")
        return Run(quantiles_ms=quantiles_ms, count=runs, facts=answer.facts), average_ms * runs
    if len(rows) == runs and len({len(row) for row in rows}) == 1:
        for column in zip(*rows, strict=True):
            times_ms = tuple(float(cell) * 1000 if re.fullmatch(_NUMBER, cell) else math.nan for cell in column)
            if math.isclose(statistics.fmean(times_ms), average_ms, rel_tol=1e-3):
                return Run(times_ms=times_ms, facts=answer.facts), sum(times_ms)
    raise RunnerLost(
        f"the runner's result is damaged: {len(rows)} lines for {runs} runs, the last {','.join(rows[-1])!r}"
    )


def _fraction(name: str) -> float:
    """Min, Max, P50 or P999 as the fraction of the runs that took no longer."""
    return {"Min": 0.0, "Max": 1.0}[name] if name in ("Min", "Max") else float(f"0.{name[1:]}")
