#!/usr/bin/env python3
"""Checks the vectors of docs/placement.md against a second implementation of its rules.

  placement_vectors.py            check every line of the block, exit 1 on a difference
  placement_vectors.py --print    print the block anew, for a change of the rules

Written from the page alone: whole numbers of any size, no call into the C code.
"""

import hashlib
import pathlib
import sys

DOC = pathlib.Path(__file__).resolve().parent.parent / "docs" / "placement.md"
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def neg_log2(h):
    h = max(h, 1)
    zeros = 64 - h.bit_length()
    m = h << zeros
    fraction = 0
    for _ in range(40):
        m = m * m >> 63
        digit = m >> 64
        m >>= digit
        fraction = 2 * fraction + digit
    return ((zeros + 1) << 40) - fraction


def homes(members, key, nr):
    word = int.from_bytes(key[:8], "little")
    bids = []
    for index, (node, weight) in enumerate(sorted(members)):
        h = mix(word ^ mix(node + GOLDEN))
        bids.append((neg_log2(h), weight, h, index, node))
    best = []
    while bids and len(best) < nr:
        first = bids[0]
        for bid in bids[1:]:
            left, right = bid[0] * first[1], first[0] * bid[1]
            if (left, -bid[2], bid[3]) < (right, -first[2], first[3]):
                first = bid
        bids.remove(first)
        best.append(first[4])
    return best


def segment(page_tokens, page):
    longest = max(1, 2048 // page_tokens)
    first, length = 0, 1
    while page >= first + length:
        first += length
        length = min(longest, max(1, first))
    return first, length


def view_text(members):
    return ",".join(f"{node}:{weight}" for node, weight in members)


def vectors():
    yield from (f"neg_log2 {h:016x} {neg_log2(h):x}" for h in (
        0, 1, 2, 3, 0xFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1,
        0xB504F333F9DE6484, 0xC000000000000000, 0x123456789ABCDEF0,
        0xFFFFFF0000000000, MASK - 1, MASK))
    for page_tokens in (512, 16, 100, 2048, 4096):
        for page in (0, 1, 2, 3, 5, 7, 8, 31, 32, 33, 51, 52, 71, 200, 65535):
            first, length = segment(page_tokens, page)
            yield f"segment {page_tokens} {page} {first} {length}"
    views = [
        [(1, 1)],
        [(1, 1), (2, 1), (3, 1)],
        [(1, 5), (2, 5), (3, 5), (7, 5), (4000000000, 5)],
        [(1, 1), (2, 2), (3, 4)],
        [(10, 1), (20, 65536), (30, 300), (40, 300)],
        [(n, 1 + n % 7) for n in range(100, 112)],
    ]
    for members in views:
        for i in range(6):
            key = hashlib.sha256(f"segment {i}".encode()).digest()
            best = ",".join(map(str, homes(members, key, 4)))
            yield f"homes {view_text(members)} {key.hex()} {best}"


def check(line):
    kind, *words = line.split()
    if kind == "neg_log2":
        return f"{kind} {words[0]} {neg_log2(int(words[0], 16)):x}"
    if kind == "segment":
        first, length = segment(int(words[0]), int(words[1]))
        return f"{kind} {words[0]} {words[1]} {first} {length}"
    if kind == "homes":
        members = [tuple(map(int, m.split(":"))) for m in words[0].split(",")]
        best = homes(members, bytes.fromhex(words[1]), 4)
        return f"{kind} {words[0]} {words[1]} {','.join(map(str, best))}"
    return f"unknown kind {kind}"


def main():
    if sys.argv[1:] == ["--print"]:
        print("\n".join(vectors()))
        return 0
    text = DOC.read_text(encoding="utf-8")
    block = text.split("```vectors\n")[1].split("```")[0].strip().splitlines()
    wrong = [(line, check(line)) for line in block if check(line) != line]
    for line, ours in wrong:
        print(f"{DOC.name}: {line}\n  computed: {ours}", file=sys.stderr)
    print(f"{len(block)} vectors, {len(wrong)} differ")
    return 1 if wrong or not block else 0


if __name__ == "__main__":
    sys.exit(main())
