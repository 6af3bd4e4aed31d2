"""attune and one peer in memory together: one step of each in turn, each stopped while the other works.

Shared hosts change their pace within minutes. A pair of steps takes a fraction of two whole processes' time and nothing is loaded or
warmed up again, so the pace seldom moves within a pair. It needs memory for both.
"""

import signal
import sys
import time

import pace

POLL = 0.002  # seconds; steps that are worth comparing take many


class Resident:
    """A side whose process stays; it makes steps when it is told to."""

    def __init__(self, side, out):
        self.side, self.out, self.done = side, out, 0
        self.process = side.start(out, 1)

    def step(self):
        """Seconds of the next step. The process stands still afterwards."""
        begin = time.monotonic()
        if self.done:
            self.process.signal(signal.SIGCONT)
        while self.side.steps_done(self.process, self.out, 1) <= self.done:
            if self.process.ended():
                self.process.check()
                raise SystemExit(f"error: {self.side.name} ended after {self.done} steps")
            time.sleep(POLL)
        self.process.signal(signal.SIGSTOP)
        self.done += 1
        return time.monotonic() - begin

    def finish(self):
        self.process.signal(signal.SIGCONT)
        return self.side.finish(self.process, self.out, 1)

    def stop(self):
        if not self.process.ended():
            self.process.signal(signal.SIGKILL)


def run(ours, peer, args):
    """A round for each pair of steps behind the warm-up, as run.py has them; attune goes first in every other one."""
    pairs, residents = [], {}
    try:
        for side in (ours, peer):
            residents[side.name] = Resident(side, args.out)
            for _ in range(args.warmup):
                residents[side.name].step()
        before = pace.now(args.threads)
        for number in range(1, args.steps - args.warmup + 1):
            pair = {}
            for side in (ours, peer) if number % 2 else (peer, ours):
                seconds = residents[side.name].step()
                after = pace.now(args.threads)
                pair[side.name] = {"seconds": seconds, "before": before, "after": after}
                print(f"  pair {number}: {side.name}: {seconds:.2f} s, the pace moved by {100 * pace.moved([before, after]):.1f} %", file=sys.stderr, flush=True)
                before = after
            pairs.append(pair)
        results = {name: resident.finish() for name, resident in residents.items()}
    finally:
        for resident in residents.values():
            resident.stop()
    tokens = results[ours.name]["tokens"]
    return [{name: {"result": results[name] | {"tokens_per_second": tokens[args.warmup + i] / m["seconds"]}, "before": m["before"], "after": m["after"]}
             for name, m in pair.items()} for i, pair in enumerate(pairs)]
