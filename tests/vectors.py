"""The test vectors of docs/keys.md and docs/digest.md, recomputed from the documents.

Written from the documents alone, with nothing of ours but the text: when the C library
and this program agree on a vector, a third implementation can rely on the documents.

    python3 tests/vectors.py     checks every vector; exit 1 when one differs
"""

import hashlib
import hmac
import re
import struct
import sys

M64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
ROOT_START = int.from_bytes(b"kvrlleaf", "big")

def unhex(text):
    return b"" if text == "-" else bytes.fromhex(text)

# ---- docs/keys.md -------------------------------------------------------------------

def pack(value):
    """Canonical msgpack of lists, strings and unsigned integers."""
    if isinstance(value, list):
        n = len(value)
        head = bytes([0x90 | n]) if n < 16 else b"\xdc" + struct.pack(">H", n)
        return head + b"".join(map(pack, value))
    if isinstance(value, str):
        text = value.encode()
        n = len(text)
        return (bytes([0xA0 | n]) if n < 32 else bytes([0xD9, n])) + text
    if value < 128:
        return bytes([value])
    for head, fmt, top in ((0xCC, ">B", 8), (0xCD, ">H", 16), (0xCE, ">I", 32)):
        if value < 1 << top:
            return bytes([head]) + struct.pack(fmt, value)
    raise ValueError(value)

def canonical(model, revision, fmt, page_tokens, groups, tag):
    text = [("" if t == "-" else t) for t in (model, revision, fmt, tag)]
    pairs = [[int(n) for n in g.split(":")] for g in groups.split(",")]
    return pack([*text[:3], int(page_tokens), pairs, text[3]])

def sha(tag, *parts):
    assert len(tag) == 8
    return hashlib.sha256(tag + b"".join(parts)).digest()

def u32(n):
    return struct.pack("<I", n)

def hmac256(secret, message):
    return hmac.new(secret, message, hashlib.sha256).digest()

def check(secret):
    return struct.unpack("<Q", hmac256(unhex(secret), b"kvrail.check")[:8])[0]

def page(prev, first, step, n, extra):
    tokens = [(int(first) + i * int(step)) & 0xFFFFFFFF for i in range(int(n))]
    extra = unhex(extra)
    body = struct.pack(f"<{len(tokens)}I", *tokens)
    return sha(b"kvrlpage", unhex(prev), u32(len(tokens)), body, u32(len(extra)), extra)

def opaque(salt, key):
    key = unhex(key)
    return sha(b"kvrlopaq", unhex(salt), u32(len(key)), key)

# ---- docs/digest.md -----------------------------------------------------------------

def mix64(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)

K = [mix64((i + 1) * GOLDEN & M64) for i in range(528)]

def stream(seed, size):
    words = [mix64((int(seed) + (i + 1) * GOLDEN) & M64) for i in range(size // 8 + 1)]
    return struct.pack(f"<{len(words)}Q", *words)[:size]

def leaf(data):
    padded = data + bytes(-len(data) % 64)
    words = struct.unpack(f"<{len(padded) // 8}Q", padded)
    a, b = [0] * 8, [0] * 8
    for i in range(0, len(words), 2):
        j = i % 8
        x0, x1 = words[i] ^ K[i], words[i + 1] ^ K[i + 1]
        lo0, hi0, lo1, hi1 = x0 & 0xFFFFFFFF, x0 >> 32, x1 & 0xFFFFFFFF, x1 >> 32
        a[j] += lo0 * hi0 + x1
        a[j + 1] += lo1 * hi1 + x0
        b[j] += hi0 * lo1
        b[j + 1] += hi1 * lo0
    total = len(data) * GOLDEN
    for j in range(8):
        p = ((a[j] & M64) ^ K[512 + j]) * ((b[j] & M64) ^ K[520 + j])
        total += (p & M64) ^ (p >> 64)
    return mix64(total & M64)

def digest(data):
    leaves = [leaf(data[at : at + 4096]) for at in range(0, len(data), 4096)]
    places = [mix64((i * GOLDEN + ROOT_START) & M64) for i in range(len(leaves))]
    total = sum(mix64(v ^ p) for v, p in zip(leaves, places)) & M64
    return mix64(total ^ mix64((len(data) + (len(leaves) + 1) * GOLDEN) & M64))

# ---- the documents ------------------------------------------------------------------

KINDS = {
    "canonical": lambda *a: canonical(*a).hex(),
    "space": lambda *a: sha(b"kvrlspac", canonical(*a)).hex(),
    "salt": lambda secret, space: hmac256(unhex(secret), unhex(space)).hex(),
    "check": lambda secret: f"{check(secret):016x}",
    "proof": lambda check, node, inc: "%016x" % struct.unpack("<Q", hmac256(
        struct.pack("<Q", int(check, 16)), struct.pack("<IQ", int(node), int(inc, 16)))[:8]),
    "hmac": lambda secret, message: hmac256(unhex(secret), unhex(message)).hex(),
    "root": lambda salt: sha(b"kvrlroot", unhex(salt)).hex(),
    "page": lambda *a: page(*a).hex(),
    "opaque": lambda *a: opaque(*a).hex(),
    "constant": lambda i: f"{K[int(i)]:016x}",
    "leaf": lambda seed, size: f"{leaf(stream(seed, int(size))):016x}",
    "digest": lambda seed, size: f"{digest(stream(seed, int(size))):016x}",
}

def main():
    wrong = 0
    for path, least in (("docs/keys.md", 20), ("docs/digest.md", 12)):
        text = open(path, encoding="utf-8").read()
        blocks = re.findall(r"^```vectors\n(.*?)^```", text, re.M | re.S)
        lines = [line for block in blocks for line in block.splitlines() if line]
        for line in lines:
            question, _, answer = line.partition(" = ")
            kind, *args = question.split()
            actual = KINDS[kind](*args)
            if actual != answer:
                print(f"{path}: {question}: document {answer}, computed {actual}")
                wrong += 1
        if len(lines) < least:
            print(f"{path}: {len(lines)} vectors, expected at least {least}")
            wrong += 1
    return 1 if wrong else 0

if __name__ == "__main__":
    sys.exit(main())
