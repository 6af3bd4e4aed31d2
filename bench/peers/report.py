"""Tables of run.py out of its rounds.

A round is {name of the side: {"result", "before", "after"}}, with the pace of the machine around each process. attune and a
peer of one round are compared only if the pace moved by no more than `limit` over these four. Memory and losses count from
every run: they do not depend on the pace.
"""

import statistics

import pace
import shapes


def comparable(round_, a, b, limit):
    if a not in round_ or b not in round_:
        return False
    return pace.moved([round_[side][when] for side in (a, b) for when in ("before", "after")]) <= limit


def rate(result, sizes, warmup):
    """Useful tokens a second, over all steps after the warm-up."""
    if "tokens_per_second" in result:
        return result["tokens_per_second"]
    return sum(sum(s["lengths"]) for s in sizes[warmup:]) / sum(result["seconds"][warmup:])


def flops_per_token(config, sizes, warmup, rank):
    timed = sizes[warmup:]
    return sum(shapes.step_flops(config, s["lengths"], s["labelled"], rank) for s in timed) / sum(sum(s["lengths"]) for s in timed)


def spread(values, form="{:.1f}"):
    if not values:
        return "–"
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}–{form.format(max(values))})"


def largest_loss_difference(a, b):
    return max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))


def rows_of(rounds, sides, config, sizes, warmup, limit, rank):
    """What a run of each side took. attune's own pace has to hold still for its rate, as a peer's."""
    work = flops_per_token(config, sizes, warmup, rank)
    out = []
    for side in sides:
        runs = [r[side.name] for r in rounds if side.name in r]
        if not runs:
            continue
        steady = [r for r in runs if pace.moved([r["before"], r["after"]]) <= limit]
        rates = [rate(r["result"], sizes, warmup) for r in steady]
        shares = [v * work * 2 / (pace.peak(r["before"], side.precision) + pace.peak(r["after"], side.precision)) for v, r in zip(rates, steady)]
        peak = max(r["result"]["peak_memory_bytes"] for r in runs)
        result = runs[0]["result"]
        out.append({"name": side.name, "precision": side.precision, "rates": rates, "shares": shares, "peak": peak,
                    "above": peak - result["state_bytes"] if "state_bytes" in result else None, "losses": result.get("losses"), "trained": result.get("trained"), "parameters": result.get("parameters")})
    return out


def comparisons_of(rounds, ours, peers, sizes, warmup, limit):
    """attune beside each peer: ratios of the comparable rounds, and of memory."""
    out = []
    for peer in peers:
        pairs = [(r[ours.name]["result"], r[peer.name]["result"]) for r in rounds if comparable(r, ours.name, peer.name, limit)]
        met = [r for r in rounds if ours.name in r and peer.name in r]
        differences = [largest_loss_difference(r[ours.name]["result"], r[peer.name]["result"]) for r in met if "losses" in r[peer.name]["result"]]
        out.append({"peer": peer.name, "kind": peer.kind, "ratios": [rate(a, sizes, warmup) / rate(b, sizes, warmup) for a, b in pairs],
                    "difference": max(differences, default=None)})
    return out


def summary(rounds, sides, sizes, warmup, limit):
    """Medians, for programs that read on."""
    rates = [rate(r[sides[0].name]["result"], sizes, warmup) for r in rounds if sides[0].name in r]
    compared = comparisons_of(rounds, sides[0], sides[1:], sizes, warmup, limit)
    return {"tokens_per_second": statistics.median(rates), "ratios": {c["peer"]: statistics.median(c["ratios"]) for c in compared if c["ratios"]}}


def gigabytes(value):
    return "–" if value is None else f"{value / 1e9:.2f}"


def show(rounds, sides, config, sizes, warmup, limit, rank=None):
    """`rank`: of the LoRA that was trained; None: all weights were."""
    rows = rows_of(rounds, sides, config, sizes, warmup, limit, rank or 0)
    print("| | tokens/s | share of the peak | peak memory, GB | above its states, GB | loss, first → last step |" + (" trained |" if rank else ""))
    print("|---|---|---|---|---|---|" + ("---|" if rank else ""))
    for r in rows:
        losses = f"{r['losses'][0]:.5f} → {r['losses'][-1]:.5f}" if r["losses"] else "–"
        share = spread([100 * s for s in r["shares"]])
        print(f"| {r['name']} | {spread(r['rates'])} | {share} % of {r['precision']} | {gigabytes(r['peak'])} | {gigabytes(r['above'])} | {losses} |" +
              (f" {r['trained']:,} ({100 * r['trained'] / r['parameters']:.2f} %) |" if rank else ""))
    by_name = {r["name"]: r for r in rows}
    ours = by_name.get(sides[0].name)
    compared = [c for c in comparisons_of(rounds, sides[0], sides[1:], sizes, warmup, limit) if c["peer"] in by_name]
    if ours is None or not compared:
        return
    print(f"\n| {ours['name']} beside | times as fast | comparable rounds | of its peak memory | of its memory above states | largest difference of a step's loss |")
    print("|---|---|---|---|---|---|")
    for c in compared:
        peer = by_name[c["peer"]]
        above = f"{ours['above'] / peer['above']:.2f}" if peer["above"] else "–"
        difference = "–" if c["difference"] is None else f"{c['difference']:.1e}"
        print(f"| {c['peer']} | {spread(c['ratios'], '{:.2f}')} | {len(c['ratios'])} | {ours['peak'] / peer['peak']:.2f} | {above} | {difference} |")
    for kind in dict.fromkeys(c["kind"] for c in compared):
        best = min((c for c in compared if c["kind"] == kind and c["ratios"]), key=lambda c: statistics.median(c["ratios"]), default=None)
        if best:
            print(f"\nagainst {kind}: **{statistics.median(best['ratios']):.2f}×**, by the fastest: {best['peer']}")
