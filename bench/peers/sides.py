"""What is compared: attune, PyTorch in its modes, llama.cpp. A side runs the steps once, in a process of its own.

A result is {"losses", "seconds" (of each step), "peak_memory_bytes", "state_bytes", "trained", "parameters" (how many), "program"}; llama.cpp has no losses that
can be compared, and "tokens_per_second" instead of the seconds.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ATTUNE = os.environ.get("ATTUNE", str(HERE.parents[1] / "build" / "attune"))
PYTHON = os.environ.get("PYTHON", sys.executable)
LEARNING_RATE, ADAPTER_LEARNING_RATE = 1e-5, 1e-4


class Process:
    """A command that was started; what it says goes to `log`, standard output to a file beside it."""

    def __init__(self, command, log, threads):
        self.command, self.log, self.output = command, log, log.with_name(log.name + ".out")
        with open(log, "wb") as errors, open(self.output, "wb") as output:
            self.popen = subprocess.Popen([str(c) for c in command], stdout=output, stderr=errors, env=os.environ | {"OMP_NUM_THREADS": str(threads)})

    def signal(self, number):
        self.popen.send_signal(number)

    def ended(self):
        return self.popen.returncode is not None or self.popen.poll() is not None

    def wait(self):
        """Standard output and VmHWM."""
        _, status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        self.check()
        return self.output.read_text(encoding="utf-8"), usage.ru_maxrss * 1024

    def check(self):
        if self.popen.returncode:
            raise SystemExit(f"error: {self.command[0]} ended with {self.popen.returncode}; the end of {self.log}:\n" + self.log.read_text(errors="replace")[-3000:])


def execute(command, log, threads):
    """Standard output and VmHWM of a finished process."""
    return Process(command, log, threads).wait()


def version_of(program):
    done = subprocess.run([program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout.strip().splitlines()[0]


def counts(log):
    """How many parameters a run of attune trained, and how many there were."""
    found = re.search(r"trainable parameters: ([\d,]+) of ([\d,]+)", log.read_text(errors="replace"))
    if not found:
        raise SystemExit(f"error: {log} does not say how many parameters were trained")
    return [int(n.replace(",", "")) for n in found.groups()]


@dataclasses.dataclass
class Attune:
    name: str
    precision: str   # "bf16" or "fp32": the peak that its rate is a share of
    settings: list   # of the run
    threads: int
    adapter: pathlib.Path | None = None  # to continue; without, full tuning
    device: str = "cpu"
    planned: dict = dataclasses.field(default_factory=dict)  # the parts of the plan's memory
    kind = "ourselves"  # of the peers of one kind, the fastest counts

    def start(self, out, number):
        target = self.target(out, number)
        tuned = ["finetuning_type=full", f"learning_rate={LEARNING_RATE}"]
        if self.adapter:
            tuned = ["finetuning_type=lora", "lora_dropout=0", f"adapter_name_or_path={self.adapter}", f"learning_rate={ADAPTER_LEARNING_RATE}"]
        settings = [*self.settings, *tuned, "lr_scheduler_type=constant", "max_grad_norm=1.0",
                    "weight_decay=0", "seed=42", f"device={self.device}", "logging_steps=1", "save_strategy=no", "overwrite_output_dir=true", f"output_dir={target}"]
        if not self.planned:
            self.planned = json.loads(execute([ATTUNE, "plan", *settings, "--json"], out / "plan.log", self.threads)[0])["parts"]
        return Process([ATTUNE, "train", *settings], target.with_name(target.name + ".log"), self.threads)

    def target(self, out, number):
        return out / f"{self.name.replace(' ', '-')}.{number}"

    def steps(self, out, number):
        """The lines that the log has of steps so far."""
        log = self.target(out, number) / "trainer_log.jsonl"
        if not log.exists():
            return []
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"throughput"' in line]

    def steps_done(self, process, out, number):
        return len(self.steps(out, number))

    def finish(self, process, out, number):
        process.wait()
        target = self.target(out, number)
        trained, parameters = counts(process.log)
        for weights in target.glob("model*.safetensors"):  # only the figures are needed
            weights.unlink()
        steps = self.steps(out, number)
        tokens = [b["total_tokens"] - a["total_tokens"] for a, b in zip([{"total_tokens": 0}] + steps, steps)]
        results = json.loads((target / "train_results.json").read_text(encoding="utf-8"))
        return {"losses": [e["loss"] for e in steps],
                "seconds": [n / e["throughput"] for n, e in zip(tokens, steps)],
                "tokens": tokens,  # all of them useful: attune pads nothing
                "peak_memory_bytes": results.get("peak_device_memory_bytes", results["peak_memory_bytes"]),
                "state_bytes": sum(self.planned[part] for part in ("weights", "masters", "optimizer")) + trained * (2 if self.precision == "bf16" else 4),
                "trained": trained,
                "parameters": parameters,
                "program": version_of(ATTUNE)}

    def run(self, out, number):
        return self.finish(self.start(out, number), out, number)


@dataclasses.dataclass
class Torch:
    mode: str
    compiled: bool
    model: pathlib.Path
    steps: pathlib.Path
    rows: int
    threads: int
    adapter: pathlib.Path | None
    device: str = "cpu"

    @property
    def name(self):
        return f"PyTorch {'+ PEFT ' if self.adapter else ''}{'compiled' if self.compiled else 'eager'} {self.mode}"

    @property
    def precision(self):
        return "fp32" if self.mode == "fp32" else "bf16"

    @property
    def kind(self):
        return "torch.compile" if self.compiled else "eager"

    def start(self, out, number):
        command = [PYTHON, HERE / "torch_step.py", "--model", self.model, "--steps", self.steps, "--rows", self.rows, "--mode", self.mode,
                   "--threads", self.threads, "--device", self.device, "--learning-rate", ADAPTER_LEARNING_RATE if self.adapter else LEARNING_RATE,
                   *(["--adapter", self.adapter] if self.adapter else []), *(["--compile"] if self.compiled else [])]
        return Process(command, out / f"{self.name.replace(' ', '-')}.{number}.log", self.threads)

    def steps_done(self, process, out, number):
        return process.output.read_text(encoding="utf-8").count("step ")

    def finish(self, process, out, number):
        return json.loads(process.wait()[0].splitlines()[-1])

    def run(self, out, number):
        return self.finish(self.start(out, number), out, number)


@dataclasses.dataclass
class LlamaCpp:
    """llama.cpp's llama-finetune: fp32, one sequence an update, its own AdamW."""
    program: str
    gguf: str
    text: pathlib.Path
    tokens: int
    threads: int
    name = kind = "llama.cpp"
    precision = "fp32"

    def run(self, out, number):
        log = out / f"llama.cpp.{number}.log"
        command = [self.program, "--file", self.text, "-m", self.gguf, "-c", self.tokens, "-b", self.tokens, "-ub", self.tokens, "-t", self.threads,
                   "--epochs", 1, "-ngl", 0, "-o", out / "llama.cpp.gguf"]
        _, peak = execute(command, log, self.threads)
        (out / "llama.cpp.gguf").unlink(missing_ok=True)
        progress = re.findall(r"train: .*?data=(\d+)/\d+ .*? t=(\d+):(\d+):(\d+)", log.read_text(errors="replace"))
        if not progress:
            raise SystemExit(f"error: {log} holds no progress of training; is {self.program} llama.cpp's llama-finetune?")
        sequences, hours, minutes, seconds = map(int, progress[-1])
        return {"tokens_per_second": sequences * self.tokens / max(1, 3600 * hours + 60 * minutes + seconds), "peak_memory_bytes": peak,
                "program": f"llama.cpp {version_of(self.program)}"}
