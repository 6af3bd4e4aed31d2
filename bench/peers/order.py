"""Which samples attune takes in which step: data/order.cpp once more, so that a peer can be given the same ones."""

import bisect

MASK = (1 << 64) - 1
WINDOW = 1024  # best fit looks at this many samples at a time


def mix(a, *rest):
    """util/rng.h: mix_key."""
    a = (a + 0x9E3779B97F4A7C15) & MASK
    a = ((a ^ (a >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    a = ((a ^ (a >> 27)) * 0x94D049BB133111EB) & MASK
    a ^= a >> 31
    return mix(a ^ rest[0], *rest[1:]) if rest else a


def permutation(n, seed, epoch):
    """Permutation, as a list."""
    half = 1
    while (1 << (2 * half)) < n:
        half += 1
    key, mask = mix(seed, epoch), (1 << half) - 1
    out = []
    for place in range(n):
        x = place
        while True:
            left, right = x >> half, x & mask
            for number in range(6):
                left, right = right, left ^ (mix(key, number, right) & mask)
            x = (left << half) | right
            if x < n:
                break
        out.append(x)
    return out


def best_fit(samples, lengths, room):
    """Batcher::pack_window before dealing: longest first into the fullest pack that has room, older packs first."""
    packs, free = [], []  # free: (room left, age of that entry, pack), sorted
    for age, sample in enumerate(sorted(samples, key=lambda s: -lengths[s])):
        place = bisect.bisect_left(free, (lengths[sample],))
        if place < len(free):
            left, _, pack = free.pop(place)
        else:
            left, pack = room, len(packs)
            packs.append([])
        packs[pack].append(sample)
        bisect.insort(free, (left - lengths[sample], age, pack))
    return packs


def epoch_packs(lengths, seed, epoch, room):
    """The samples of an epoch, pack by pack; without `room` (no packing) each alone."""
    order = permutation(len(lengths), seed, epoch)
    if room is None:
        return [[sample] for sample in order]
    out = []
    for begin in range(0, len(order), WINDOW):
        packs = best_fit(order[begin:begin + WINDOW], lengths, room)
        out += [packs[i] for i in permutation(len(packs), mix(seed, 0x9ACC), mix(epoch, begin))]
    return out


def steps(lengths, count, batch, seed, room=None):
    """The samples of the first `count` steps of `batch` samples, or of `batch` packs of at most `room` tokens."""
    out, epoch = [], 0
    while len(out) < count:
        packs = epoch_packs(lengths, seed, epoch, room)
        out += [sum(packs[i:i + batch], []) for i in range(0, len(packs), batch)]
        epoch += 1
    return out[:count]
