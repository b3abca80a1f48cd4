"""A client that shares nothing with the C tests: run by python_client_test.c against a
node with space "chat" (8 tokens and 1,024 bytes a page). Keys are derived a second time
here, from docs/keys.md alone."""

import hashlib
import hmac
import os
import select
import struct
import sys
import time

sys.path.insert(0, "integrations/python")
import kvrail  # noqa: E402

SECRET, SPACE_ID = b"first tenant's..", b"\1" + bytes(31)
PAGE, TOKENS = 1024, 8


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def derived(tokens):
    prev = sha(b"kvrlroot", hmac.digest(SECRET, SPACE_ID, "sha256"))
    for i in range(0, len(tokens), TOKENS):
        page = tokens[i:i + TOKENS]
        prev = sha(b"kvrlpage", prev, struct.pack(f"<I{len(page)}I", len(page), *page),
                   struct.pack("<I", 0))
        yield prev


def expect(got, wanted):
    if got != wanted:
        raise SystemExit(f"got {got!r}, wanted {wanted!r}")


def expect_error(status, call, *arguments, **words):
    try:
        call(*arguments, **words)
    except kvrail.Error as error:
        expect(error.status, status)
        return str(error)
    raise SystemExit(f"{call} did not fail")


def main(target):
    expect(kvrail.version(), "0.1.0")
    expect_error(kvrail.DENIED, kvrail.Client, target, 20)
    expect_error(kvrail.LINK_LOST, kvrail.Client, "unix:/nowhere", 10)
    with kvrail.Client(target, tenant=10) as client:
        space = client.space("chat")
        expect((space.page_bytes, space.page_tokens), (PAGE, TOKENS))
        tokens = list(range(7000, 7000 + 5 * TOKENS + 3))
        keys = space.keys(tokens)
        expect(keys, list(derived(tokens)))
        expect(space.next(keys[0], tokens[8:16]), keys[1])
        expect(space.opaque(b"block-42"), sha(
            b"kvrlopaq", hmac.digest(SECRET, SPACE_ID, "sha256"), struct.pack("<I", 8),
            b"block-42"))
        n_tokens = [TOKENS] * 5 + [3]
        buffer, other = client.buffer(6 * PAGE), client.buffer(6 * PAGE)
        content = os.urandom(6 * PAGE)
        buffer.view[:] = content

        result = client.get(space, keys, other, n_tokens=n_tokens)
        expect((result.ok, result.hits(), result.statuses), (False, 0, [kvrail.MISS] * 6))
        expect(result.reasons[0], "not_found")
        expect(client.put(space, keys, buffer, n_tokens=n_tokens).statuses, [kvrail.OK] * 6)
        expect(client.put(space, keys, buffer, n_tokens=n_tokens).statuses,
               [kvrail.EXISTS] * 6)
        result = client.get(space, keys, other, n_tokens=n_tokens)
        expect((result.ok, result.hits(), set(result.places)), (True, 6, {"host"}))
        tail = 5 * PAGE + 3 * PAGE // TOKENS
        expect(bytes(other.view[:tail]), content[:tail])
        expect(client.exists(space, keys[:5]).hits(), 5)
        expect(client.pin(space, keys).ok, True)
        expect(client.unpin(space, keys).ok, True)
        expect(client.unpin(space, keys).statuses, [kvrail.MISS] * 6)
        expect(client.drop(space, keys).ok, True)
        line = expect_error(kvrail.INVALID, client.put, space, keys[:1], [(buffer, 6 * PAGE)])
        expect("batch.at.offset is 6144, the limit is 5120" in line, True)

        pool_of_two_layers(client, space)
        tags = {client.submit("exists", space, [k], loose=True) for k in keys}
        while tags:
            if client.arm():
                expect(select.select([client], [], [], 10)[0], [client])
            result = client.next(0)
            if result is not None:
                tags.remove(result.tag)
                expect(result.statuses, [kvrail.MISS])
        buffer.close()
        expect_error(kvrail.STALE, client.put, space, keys[:1], [(buffer, 0)])
    print("python client: ok")


def pool_of_two_layers(client, space):
    """Memory of our own, a part of each page in either layer, 4 bytes of ours between."""
    half, blocks = PAGE // 2, 5
    layers = [bytearray(b"\xa5" * (blocks * (half + 4))) for _ in range(2)]
    runs = [(layer, 0, half + 4, half) for layer in layers]
    expect_error(kvrail.INVALID, client.pool, space, runs, blocks + 1)
    pool = client.pool(space, runs, blocks, nr_slots=2)
    pages = [os.urandom(PAGE) for _ in range(2)]
    keys = [space.opaque(b"pool-%d" % i) for i in range(2)]
    at = lambda b: slice(b * (half + 4), b * (half + 4) + half)
    for block, page in enumerate(pages):
        layers[0][at(block)], layers[1][at(block)] = page[:half], page[half:]
    before = [bytes(layer) for layer in layers]
    expect(client.put(space, keys, [(pool, 0), (pool, 1)], loose=True).ok, True)
    expect(client.get(space, keys, [(pool, 4), (pool, 2)], loose=True).ok, True)
    for block, page in (4, pages[0]), (2, pages[1]):
        expect(bytes(layers[0][at(block)] + layers[1][at(block)]), page)
        for layer in layers:
            layer[at(block)] = b"\xa5" * half
    expect([bytes(layer) for layer in layers], before)
    buffer = client.buffer(PAGE)
    expect(client.get(space, keys[:1], buffer, loose=True).ok, True)
    expect(bytes(buffer.view), pages[0])
    expect(client.drop(space, keys, loose=True).ok, True)
    pool.close()


def await_hits(sequence, keys, hits):
    """A page is found once its digest is known."""
    for _ in range(1000):
        if sequence.fetch(keys).nr_hits == hits:
            return
        sequence.truncate(0)
        time.sleep(0.005)
    raise SystemExit("sealed pages are not found")


def pager(target):
    line = expect_error(kvrail.INVALID, kvrail.Client, target, 20, level="pager")
    expect("fill = yes" in line, True)
    with kvrail.Client(target, tenant=10, level="pager") as client:
        space = client.space("chat")
        expect([(a.block_bytes, len(a.view)) for a in client.arenas], [(PAGE, 64 * PAGE)])
        keys = space.keys(list(range(3 * TOKENS)))
        pages = [os.urandom(PAGE) for _ in keys]
        first = client.sequence(space)
        result = first.fetch(keys)
        expect((result.nr_hits, result.statuses), (0, [kvrail.MISS] * 3))
        first.append(3 * TOKENS)
        for i, page in enumerate(pages):
            first.page(i)[:] = page
            expect(first.seal(i, keys[i], anchor=keys[max(i - 1, 0)]), kvrail.SEALING)
        first.confirm()

        reader = client.sequence(space)
        await_hits(reader, keys, 3)
        expect([bytes(reader.page(i)) for i in range(3)], pages)
        expect(reader.table().blocks, first.table().blocks)
        reader.append(2)
        child = reader.fork()
        child.append(1)
        expect((child.table().n_tokens, reader.table().n_tokens),
               (3 * TOKENS + 3, 3 * TOKENS + 2))
        expect(child.table().blocks[:3], reader.table().blocks[:3])
        expect(child.table().blocks[3] != reader.table().blocks[3], True)
        child.truncate(TOKENS)
        expect(len(child.table().blocks), 1)
        expect_error(kvrail.INVALID, child.truncate, TOKENS + 1)
        expect_error(kvrail.INVALID, child.confirm, 10**6)
        line = expect_error(kvrail.TOO_LARGE, child.append, 65 * TOKENS)
        expect("device.pages" in line, True)
        for sequence in (child, reader, first):
            sequence.end()
        expect_error(kvrail.STALE, first.end)
        expect_error(kvrail.STALE, first.table)
    with kvrail.Client(target, tenant=10) as client:
        expect(client.arenas, [])
        expect_error(kvrail.INVALID, client.sequence, client.space("chat"))
    print("python engine: ok")


{"object": main, "pager": pager}[sys.argv[2]](sys.argv[1])
