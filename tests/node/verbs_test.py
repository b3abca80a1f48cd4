"""What a running node tells of itself, to whom, and what the verbs make of it.

    python3 tests/node/verbs_test.py BIN [NAME …]

Who asks is told by the kernel: tests that need other users run as root alone, and say so
where they are skipped.
"""

import array
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from nodes_kit import CONFIG, Cluster, run_tests

ASK, REPORT, REFUSED, GREETING, ATTACH = 8, 9, 4, 1, 2
STATUS, PEERS, SPACES, EXPLAIN = range(4)
TENANT, SEGMENT = 1, 2  # flags
AGAIN, INVALID, DENIED = -1, -20, -23
MAGIC, PACKET, RECORD = 0x7072766B, 112, 120
BURST = A_SECOND = 32  # of node/daemon/reports.h
USERS = (54321, 54322, 54323)  # of tenant 7, of tenant 8, of nobody
TWO_TENANTS = CONFIG.replace('[log]', f'''uids = {USERS[0]}
[tenant "8"]
secret = 00112233445566778899aabbccddeeff
uids = {USERS[1]}
[space "other"]
model = n
revision = s
page_tokens = 512
page_bytes = 16KiB
layout = 1
[log]''')


def verb(c, *args, at=0, code=0):
    """Runs a verb at a node; what it printed, or the line on stderr."""
    done = subprocess.run(
        [c.bin / "kvrail", *map(str, args), "--socket", str(c.socket(at))],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    if code == 2:
        assert done.stderr.count("\n") == 1, done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def as_json(c, *args, at=0, code=0):
    done = subprocess.run(
        [c.bin / "kvrail", *map(str, args), "--json", "--socket", str(c.socket(at))],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


# ---- packets by hand ------------------------------------------------------------------

def packet(kind, nonce=0, tenant=0, **fields):
    values = dict(req=0, status=0, ring_bytes=0, level=0, spaces=0, buffer=0, zero=0,
                  bytes=0, limit=0, value=0, field=b"", magic=MAGIC, version=1)
    values.update(fields)
    v = values
    return struct.pack(
        "<IHHQQiIIHHIIQQQ40s", v["magic"], v["version"], kind, v["req"], nonce, v["status"],
        tenant, v["ring_bytes"], v["level"], v["spaces"], v["buffer"], v["zero"],
        v["bytes"], v["limit"], v["value"], v["field"])


def record(what, first=0, group=0, flags=0, key=b"", segment=b"", space=b""):
    return struct.pack("<IIII32s32s40s", what, first, group, flags, key, segment, space)


class Asker:
    """A connection that has been greeted."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        self.sock.connect(str(path))
        head = self.sock.recv(4096)
        assert len(head) == PACKET and struct.unpack_from("<H", head, 6)[0] == GREETING
        self.nonce = struct.unpack_from("<Q", head, 16)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *parts):
        self.sock.send(b"".join(parts))

    def answer(self):
        """A report; the status of a refusal; None: hung up without a word."""
        try:
            data, control, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(4))
        except ConnectionResetError:
            return None
        if not data:
            return None
        kind, = struct.unpack_from("<H", data, 6)
        if kind == REFUSED:
            return struct.unpack_from("<i", data, 24)[0]
        assert kind == REPORT and len(control) == 1
        fds = array.array("i", control[0][2])
        with os.fdopen(fds[0], "rb") as file:
            length, = struct.unpack_from("<Q", data, 48)
            assert os.fstat(fds[0]).st_size == length
            try:
                os.ftruncate(fds[0], 0)
                raise AssertionError("the report is not sealed")
            except PermissionError:
                pass
            return json.loads(file.read())

    def ask(self, what, tenant=0, **fields):
        self.send(packet(ASK, self.nonce, tenant), record(what, **fields))
        return self.answer()


def ask(path, what, tenant=0, **fields):
    """Once; again when the node says that it is asked too often."""
    for _ in range(200):
        with Asker(path) as asker:
            answer = asker.ask(what, tenant, **fields)
        if answer != AGAIN:
            return answer
        time.sleep(0.05)
    raise AssertionError("AGAIN for 10 s")


def as_user(uid, work):
    """The JSON that work() gives in a process of that user."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(into, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, f"as user {uid}"
    return json.loads(text)


def open_to_all(c):
    """The socket is 0600: an operator who serves other users opens its way."""
    os.chmod(c.folder, 0o755)
    for i in range(c.nr):
        if c.socket(i).exists():
            os.chmod(c.socket(i), 0o666)


# ---- the verbs ------------------------------------------------------------------------

def prefix_file(c, name, n, first=0):
    path = c.folder / name
    path.write_text("[" + ", ".join(str(first + i) for i in range(n)) + "]\n")
    return path


def tail_bytes(tokens):
    return (16384 * tokens // 512 + 255) // 256 * 256


SPACE = ("--space", "chat", "--tenant", "7")


def test_status(bin):
    """Numbers agree with each other and with what was done; the table has them, too."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        driven = c.drive("--workload", "chats")
        status = [as_json(c, "status", at=i) for i in range(3)]
        for i, s in enumerate(status):
            assert s["node"] == i + 1 and s["cluster"] == "test" and s["epoch"] == 1, s
            assert s["pid"] == c.nodes[i].pid and s["port"] == c.ports[i], s
            assert s["http_port"] == c.http[i] and s["uptime_us"] > 0, s
            assert s["links"]["up"] == s["links"]["of"] == 2, s
            pool = s["pools"][0]
            assert sum(pool["states"].values()) == pool["frames"] == 333, pool
            assert pool["free_bytes"] == pool["states"]["free"] * 16384, pool
            assert pool["held"] + pool["idle"] == pool["states"]["sealed"], pool
            used = s["tenants"][0]["device"]["frames"]
            assert s["tenants"][0]["id"] == 7 and 0 < used <= 333, s
            assert s["clients"]["attached"] == 1 and s["clients"]["now"] == 0, s
            for name, table in s["tables"].items():
                assert table["used"] <= table["max"] and table["max"] > 0, (name, table)
        for place in ("device", "peer"):
            counted = sum(s["hits"][place] for s in status)
            assert counted >= driven["hits"][place] > 0, (place, counted, driven)
        assert len({s["incarnation"] for s in status}) == 3
        assert len({s["view_digest"] for s in status}) == 1
        fetched, served = (sum(s[k] for s in status)
                           for k in ("fetched_bytes", "served_bytes"))
        assert 0 < served <= fetched, "what a peer served was fetched, or spilled"
        table = verb(c, "status")
        assert 'node 1 of cluster "test"' in table and "links 2 of 2 up" in table, table
        assert max(map(len, table.splitlines())) <= 120 and table.count("\n") < 40, table
        for i in range(3):
            c.stop(i)
    return f"{sum(sum(s['hits'].values()) for s in status)} hits told"


def test_peers(bin):
    """Both sides of a link say the same of it; a dead peer is told as such."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        c.drive("--workload", "chats")
        end = time.monotonic() + 20
        while True:  # what is on its way arrives: spills go on for a moment
            peers = [{p["node"]: p for p in as_json(c, "peers", at=i)["peers"]}
                     for i in range(3)]
            pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
            if all(peers[a][b + 1]["listed_there"] == peers[b][a + 1]["listed_here"]
                   for a, b in pairs):
                break
            assert time.monotonic() < end, peers
            time.sleep(0.3)
        for a, b in pairs:
            p = peers[a][b + 1]
            assert p["up"] and p["link"] == "up" and p["life"] == "alive", p
            assert p["address"] == f"127.0.0.1:{c.ports[b]}" and p["weight"] == 100, p
            assert p["transport"] == "shm" and p["tenants"] == [7], p
            assert p["dialled"] != peers[b][a + 1]["dialled"], p
            assert p["incarnation"] == as_json(c, "status", at=b)["incarnation"], p
            assert p["data"]["out"] == "open" and p["data"]["out_connections"] == 2, p
            assert not p["sync"]["owed_by_it"], p
            assert p["since_us"] > p["silent_us"] and p["silent_us"] < 5e6, p
        assert any(p["fetched_bytes"] > 0 for n in peers for p in n.values())
        assert any(p["free_frames"] > 0 for n in peers for p in n.values())
        before = peers[0][3]
        c.kill(2)
        end = time.monotonic() + 10
        while (dead := as_json(c, "peers")["peers"][1])["link"] in ("up", "ending"):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert dead["life"] == "lost" and dead["incarnation"] is None, dead
        assert dead["since_us"] < before["since_us"] and dead["transport"] is None, dead
        assert dead["listed_here"] == 0 and dead["fetched_bytes"] >= before["fetched_bytes"]
        assert "alive" in verb(c, "peers") and "lost" in verb(c, "peers")
        c.stop(0)
        c.stop(1)
    return "three views of one cluster"


def test_alone(bin):
    """A node without peers, and a list that is longer than one answer."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        assert as_json(c, "peers") == {"node": 1, "of": 0, "peers": []}
        assert "alone" in verb(c, "peers")
        assert as_json(c, "status")["links"] == {"up": 0, "of": 0}
        c.stop(0)
    with Cluster(bin, nr=1) as c:
        more = "".join(f'[node "{i}"]\naddress = 127.0.0.1:{9 + i}\n' for i in range(2, 200))
        c.config.write_text(c.config.read_text() + more)
        c.start(0)
        c.wait_linked(0)
        peers = as_json(c, "peers")
        assert [p["node"] for p in peers["peers"]] == list(range(2, 200)), peers
        part = ask(c.socket(0), PEERS, first=190)
        assert part["of"] == 198 and [p["node"] for p in part["peers"]][0] == 192, part
        assert ask(c.socket(0), PEERS, first=4000)["peers"] == []
        c.stop(0)
    return "none and 198 peers"


def test_spaces(bin):
    with Cluster(bin, nr=1, config=TWO_TENANTS) as c:
        c.start(0)
        c.wait_linked(0)
        r = as_json(c, "spaces")
        assert [s["name"] for s in r["spaces"]] == ["chat", "other"], r
        s = r["spaces"][1]
        assert s["model"] == "n" and s["page_tokens"] == 512 and s["layout"] == 1, s
        assert s["groups"] == [{"kind": "full", "window": 0}], s
        assert s["tenants"] == [7, 8] and [t["id"] for t in r["tenants"]] == [7, 8], r
        assert 'space "other"' in verb(c, "spaces")
        c.stop(0)
    return "two spaces"


def test_pages(bin):
    """What put takes at one node, get gives at every node, byte for byte: a prefix with
    a tail, one page of it, an engine's own name; what is not there is said."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        tokens = prefix_file(c, "tokens", 2 * 512 + 276)
        data = os.urandom(2 * 16384 + tail_bytes(276))
        pages, out = c.folder / "pages", c.folder / "out"
        pages.write_bytes(data)
        put = as_json(c, "put", *SPACE, "--tokens", tokens, "--in", pages)
        assert [p["status"] for p in put["pages"]] == ["ok"] * 3, put
        assert [p["tokens"] for p in put["pages"]] == [512, 512, 276], put
        again = as_json(c, "put", *SPACE, "--tokens", tokens, "--in", pages)
        assert [p["status"] for p in again["pages"]] == ["exists"] * 3, again
        for i in range(3):
            got = as_json(c, "get", *SPACE, "--tokens", tokens, "--out", out, at=i)
            assert out.read_bytes() == data, f"other bytes at node {i + 1}"
            assert [p["place"] for p in got["pages"]] == ["peer" if i else "device"] * 3
        as_json(c, "get", *SPACE, "--tokens", tokens, "--out", out, "--page", 2, at=1)
        assert out.read_bytes() == data[2 * 16384:]
        piped = subprocess.run(
            [c.bin / "kvrail", "get", *SPACE, "--tokens", "-", "--out", "-", "--socket",
             str(c.socket(2))], input=tokens.read_bytes(), capture_output=True, timeout=60)
        assert piped.returncode == 0 and piped.stdout == data, piped.stderr

        name = ("--key", "image 5 of chat 7", "--tail", "100")
        pages.write_bytes(data[:tail_bytes(100)])
        as_json(c, "put", *SPACE, *name, "--in", pages)
        as_json(c, "get", *SPACE, *name, "--out", out, at=1)
        assert out.read_bytes() == data[:tail_bytes(100)]

        longer = prefix_file(c, "longer", 3 * 512)  # page 2 is full there: another key
        out.unlink()
        missed = as_json(c, "get", *SPACE, "--tokens", longer, "--out", out, code=1)
        assert [p["status"] for p in missed["pages"]] == ["ok", "ok", "miss"], missed
        assert missed["pages"][2]["reason"] == "not_found" and missed["good"] == 2, missed
        assert out.read_bytes() == data[:2 * 16384]
        out.unlink()
        pages.write_bytes(data[16384:32768])  # the second page alone: a hole before it
        hole = prefix_file(c, "hole", 2 * 512, first=9000)
        as_json(c, "put", *SPACE, "--tokens", hole, "--in", pages, "--page", 1)
        missed = as_json(c, "get", *SPACE, "--tokens", hole, "--out", out, code=1)
        assert [p["status"] for p in missed["pages"]] == ["miss", "ok"], missed
        assert missed["good"] == 0 and not out.exists(), "bytes behind a miss"
        text = verb(c, "get", *SPACE, "--key", "never put", "--out", out, code=1)
        assert "miss" in text and "not_found" in text and not out.exists(), text
        for i in range(3):
            c.stop(i)
    return "three pages through three nodes"


def test_many_pages(bin):
    """More pages than one batch's buffer: windows follow each other in their chain."""
    config = CONFIG.replace("page_bytes = 16KiB", "page_bytes = 8MiB")
    with Cluster(bin, nr=1, config=config) as c:
        c.config.write_text(c.config.read_text().replace(
            "host_bytes = 0", "host_bytes = 256MiB"))
        c.start(0, "pager.device_bytes=256MiB")
        c.wait_linked(0)
        tokens, pages = prefix_file(c, "tokens", 19 * 512), c.folder / "pages"
        data = b"".join(bytes([i]) * (8 << 20) for i in range(19))
        pages.write_bytes(data)
        put = as_json(c, "put", *SPACE, "--tokens", tokens, "--in", pages)
        assert put["good"] == put["wanted"] == 19, put
        out = c.folder / "out"
        as_json(c, "get", *SPACE, "--tokens", tokens, "--out", out)
        assert out.read_bytes() == data
        c.stop(0)
    return "19 pages of 8 MiB"


def test_page_input(bin):
    """What is wrong with options and files is one line, and nothing is put."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        tokens, pages = prefix_file(c, "tokens", 512), c.folder / "pages"
        pages.write_bytes(bytes(16383))
        bad = c.folder / "bad"
        bad.write_text("1 2 x")
        none = c.folder / "none"
        none.write_text("[]\n")
        given = ("--tokens", tokens, "--in", pages)
        for words, line in [
                (("put", *SPACE, *given),
                 f"--in: {pages} has 16383 bytes, 1 pages have 16384"),
                (("put", *SPACE, "--tokens", bad, "--in", pages),
                 f"--tokens: {bad}: number 3 is no whole number from 0 to 4294967295"),
                (("put", *SPACE, "--tokens", none, "--in", pages),
                 f"--tokens: {none} has no numbers"),
                (("put", *SPACE, *given, "--key", "x"),
                 "--tokens FILE or --key TEXT: one of the two"),
                (("put", "--space", "chat", *given), "--space NAME and --tenant ID are needed"),
                (("put", "--space", "chat", "--tenant", "x", *given),
                 "--tenant: 'x' is not a whole number from 0 to 4294967295"),
                (("put", "--space", "shat", "--tenant", "7", *given),
                 '--space: the node has no space "shat": kvrail spaces lists them'),
                (("put", *SPACE, *given, "--page", "1"), "--page: 1 is above the maximum 0"),
                (("put", *SPACE, *given, "--group", "1"), "--group: 1 is above the maximum 0"),
                (("put", *SPACE, *given, "--tail", "1"),
                 "--tail: goes with --key; the tokens say how long their last page is"),
                (("put", *SPACE, "--key", "x", "--tail", "513", "--in", pages),
                 "--tail: 513 is above the page's 512 tokens"),
                (("put", *SPACE, "--key", "x" * 257, "--in", pages),
                 "--key: a name of 257 bytes, the limits are 1 and 256"),
                (("put", *SPACE, "--tokens", tokens), "--in FILE is needed"),
                (("put", *SPACE, "--tokens", "-", "--in", "-"),
                 "--tokens - and --in -: both come from stdin"),
                (("get", *SPACE, "--tokens", tokens, "--out", "-", "--json"),
                 "--json and --out -: both go to stdout"),
                (("explain",), "KEY, --key TEXT or --tokens FILE: one of the three"),
                (("explain", "00ff"), "00ff: is not 64 hex digits: --key makes a key of a name"),
                (("explain", "ab" * 32, "cd" * 32), "cd" * 32 + ": one KEY is enough"),
                (("explain", "ab" * 32, "--space", "shat"),
                 "invalid: a field is malformed or out of its bound: ask.spaces is 0, the "
                 "limit is 1"),
                (("explain", "ab" * 32, "--group", "3"),
                 "invalid: a field is malformed or out of its bound: ask.group is 3, the "
                 "limit is 0"),
                (("status", "now"), "now: is no option, see --help"),
        ]:
            text = verb(c, *words, code=2)
            assert text == f"kvrail {words[0]}: {line}\n", text
        piped = subprocess.run(
            [c.bin / "kvrail", "put", *SPACE, "--tokens", str(tokens), "--in", "-",
             "--socket", str(c.socket(0))], input=bytes(16385), capture_output=True, timeout=60)
        assert piped.returncode == 2 and b"has more than the 16384 bytes" in piped.stderr
        text = verb(c, "put", "--space", "chat", "--tenant", "9", *given, code=1)
        assert "denied" in text, text
        assert as_json(c, "status")["pools"][0]["states"]["sealed"] <= 1, "put in part"
        c.stop(0)
    return "21 lines"


def test_no_node(bin):
    """No node, no socket, no configuration: one line, and the exit code."""
    with Cluster(bin, nr=1) as c:
        env = {k: v for k, v in os.environ.items() if not k.startswith("KVRAIL_")}

        def run(*words, **more):
            done = subprocess.run([c.bin / "kvrail", *map(str, words)], text=True,
                                  capture_output=True, env={**env, **more}, timeout=60)
            assert done.stderr.count("\n") == 1 or done.returncode == 0, done.stderr
            return done.returncode, done.stderr
        for name in ("status", "peers", "spaces"):
            code, line = run(name)
            assert code == 2 and "which node? --socket PATH" in line, line
            code, line = run(name, "--socket", c.socket(0))
            assert code == 1 and "is a node running with listen.unix" in line, line
            code, line = run(name, "--socket", "/" + "x" * 200)
            assert code == 2 and "200" in line or "201" in line, line
            code, line = run(name, "--config", c.config)
            assert code == 2 and "has no listen.unix" in line, line
        c.start(0)
        c.wait_linked(0)
        assert run("status", KVRAIL_LISTEN_UNIX=str(c.socket(0)))[0] == 0
        assert run("status", "--config", c.config,
                   KVRAIL_LISTEN_UNIX=str(c.socket(0)))[0] == 0
        c.nodes[0].send_signal(19)  # it stands still: the asker does not
        start = time.monotonic()
        code, line = run("status", "--socket", c.socket(0), "--timeout-ms", "300")
        assert code == 1 and "does not answer in time" in line, line
        assert time.monotonic() - start < 5
        c.nodes[0].send_signal(18)
        c.stop(0)
    return "one line each"


def test_explain(bin):
    """A page that is here, at a peer, dropped, never there: what explain foretells is
    what a GET then does."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        end = time.monotonic() + 30
        while any(as_json(c, "status", at=i)["directory"]["cold"] for i in range(3)):
            assert time.monotonic() < end
            time.sleep(0.2)
        tokens, pages = prefix_file(c, "tokens", 5 * 512), c.folder / "pages"
        pages.write_bytes(os.urandom(5 * 16384))
        keys = [p["key"] for p in
                as_json(c, "put", *SPACE, "--tokens", tokens, "--in", pages)["pages"]]
        opens = [0, 1, 2, 2, 4]  # segments of 1, 1, 2, then 4 pages of 512 tokens
        foretold = set()
        for page in range(5):
            here = as_json(c, "explain", *SPACE, "--tokens", tokens, "--page", page)
            assert here["key"] == keys[page] and here["verdict"]["would"] == "hit", here
            copy = here["here"][0]
            assert (copy["tier"], copy["state"], copy["bytes"]) == ("device", "sealed", 16384)
            assert copy["tokens"] == 512 and copy["listed"], copy
            homes = [h["node"] for h in here["homes"]]
            assert len(set(homes)) == 2 and here["segment"]["key"] == keys[opens[page]], here
            for at in (1, 2):
                told = as_json(c, "explain", *SPACE, "--tokens", tokens, "--page", page,
                               at=at)
                assert [h["node"] for h in told["homes"]] == homes, "homes differ"
                assert told["here"] == [] and told["absent"] == "not_found", told
                would = told["verdict"]["would"]
                foretold.add(would)
                if at + 1 in homes:
                    assert would == "fetch" and told["verdict"]["node"] == 1, told
                    assert [h["node"] for h in told["directory"]["holders"]] == [1], told
                else:
                    assert would == "ask" and told["directory"] is None, told
                    assert told["verdict"]["node"] == homes[0], told
                assert told["lookup"] == {"status": "ok", "place": "peer"}, told
        assert foretold == {"fetch", "ask"}, foretold
        last = as_json(c, "explain", keys[4])
        assert last["here"] and last["segment"] == {"key": keys[4], "from": "copy"}, last
        never = as_json(c, "explain", "ab" * 32)
        assert never["lookup"] == {"status": "miss", "reason": "not_found"}, never
        assert never["segment"]["from"] == "assumed", never
        assert "lookup" not in as_json(c, "explain", "ab" * 32, "--local")
        for i in range(3):  # the homes are gone: nobody knows, and explain says so
            if i > 0:
                c.kill(i)
        end = time.monotonic() + 10
        while as_json(c, "status")["links"]["up"] > 0:
            assert time.monotonic() < end
            time.sleep(0.1)
        for n in range(50):
            key = f"{n:02x}" * 32
            lost = as_json(c, "explain", key)
            homes = [h["node"] for h in lost["homes"]]
            if 1 not in homes:
                assert lost["verdict"] == {
                    "would": "miss", "node": None, "reason": "peer_lost"}, lost
                assert lost["lookup"]["reason"] == "peer_lost", lost
                break
        else:
            raise AssertionError("50 keys, and node 1 is a home of each")
        text = verb(c, "explain", key)
        assert "a GET misses, peer_lost" in text and "lost" in text, text
        c.stop(0)
    return "five pages at three nodes"


def test_evicted(bin):
    """A page that was dropped for room is told as such."""
    with Cluster(bin, pages=40, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        pages = c.folder / "pages"
        pages.write_bytes(os.urandom(30 * 16384))
        first = prefix_file(c, "first", 30 * 512)
        as_json(c, "put", *SPACE, "--tokens", first, "--in", pages)
        second = prefix_file(c, "second", 30 * 512, first=10 ** 6)
        as_json(c, "put", *SPACE, "--tokens", second, "--in", pages)
        gone = 0
        for page in range(30):
            told = as_json(c, "explain", *SPACE, "--tokens", first, "--page", page)
            if not told["here"]:
                reason = told["verdict"]["reason"]
                assert told["lookup"] == {"status": "miss", "reason": reason}, told
                assert told["absent"] == reason in ("evicted", "not_found"), told
                if reason == "evicted":  # the node remembers so many, then forgets
                    gone, last = gone + 1, page
        assert gone > 0, "no page was told to be evicted"
        text = verb(c, "explain", *SPACE, "--tokens", first, "--page", last)
        assert "dropped for room" in text, text
        c.stop(0)
    return f"{gone} pages of 30 are known to be evicted"


# ---- who may ask ----------------------------------------------------------------------

def test_users(bin):
    """A tenant's user sees its own; another's, nothing of it; a stranger, nothing."""
    if os.getuid() != 0:
        return "needs root to be other users: skipped"
    with Cluster(bin, nr=1, config=TWO_TENANTS) as c:
        c.start(0)
        c.wait_linked(0)
        open_to_all(c)
        path = c.socket(0)
        key = b"k" * 32

        def everything():
            return {
                "status": ask(path, STATUS), "peers": ask(path, PEERS),
                "spaces": ask(path, SPACES),
                "own": ask(path, EXPLAIN, 7, flags=TENANT, key=key, space=b"chat"),
                "other": ask(path, EXPLAIN, 8, flags=TENANT, key=key, space=b"chat"),
                "none": ask(path, EXPLAIN, 9, flags=TENANT, key=key, space=b"chat"),
                "any": ask(path, EXPLAIN, key=key, space=b"chat"),
            }
        seven, eight, nobody = (as_user(uid, everything) for uid in USERS)
        assert seven["status"] == seven["peers"] == DENIED, seven
        assert [t["id"] for t in seven["spaces"]["tenants"]] == [7], seven
        assert all(s["tenants"] == [7] for s in seven["spaces"]["spaces"]), seven
        assert seven["own"]["tenant"] == seven["any"]["tenant"] == 7, seven
        assert seven["other"] == seven["none"] == DENIED, "another's tenant is told apart"
        assert [t["id"] for t in eight["spaces"]["tenants"]] == [8], eight
        assert eight["own"] == DENIED and eight["other"]["tenant"] == 8, eight
        assert set(nobody.values()) == {DENIED}, nobody
        log = (c.folder / "n0.log").read_text()
        assert f"uid {USERS[2]} asked what it may not know" in log, log
        root = everything()
        assert root["status"]["node"] == 1 and root["other"]["tenant"] == 8, root
        assert root["any"] == INVALID and root["none"] == DENIED, root
        c.stop(0)
    return "two tenants, a stranger, root"


def test_inherited(bin):
    """A child that inherited the socket is not the process that connected; neither is
    who does not know the nonce."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        with Asker(c.socket(0)) as asker:
            child = os.fork()
            if child == 0:
                try:
                    asker.send(packet(ASK, asker.nonce), record(STATUS))
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert asker.answer() == DENIED
        with Asker(c.socket(0)) as asker:
            asker.nonce ^= 1
            assert asker.ask(STATUS) == DENIED
            asker.sock.settimeout(2)  # shorter than a node waits for ATTACH
            assert asker.answer() is None, "who was refused is still connected"
        with Asker(c.socket(0)) as asker:
            assert asker.ask(STATUS)["node"] == 1
            assert asker.answer() is None, "one question, one answer"
        c.stop(0)
    return "refused"


def test_malformed(bin):
    """What is no question ends its connection without a word; the node goes on."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        with Asker(c.socket(0)) as asker:
            nonce = asker.nonce
        good = packet(ASK), record(STATUS)
        cases = [
            (packet(ASK),), (packet(ASK), record(STATUS)[:-1]), (*good, b"\0"),
            (*good, bytes(4000)), (b"w",), (packet(ASK)[:20],),
            (packet(ASK), record(4)), (packet(ASK), record(0xFFFFFFFF)),
            (packet(ASK), record(STATUS, first=1)),
            (packet(ASK), record(STATUS, group=1)), (packet(ASK), record(PEERS, group=1)),
            (packet(ASK), record(STATUS, flags=TENANT)),
            (packet(ASK), record(EXPLAIN, flags=4)),
            (packet(ASK), record(EXPLAIN, first=1)),
            (packet(ASK), record(STATUS, key=b"x")),
            (packet(ASK), record(EXPLAIN, segment=b"x")),
            (packet(ASK), record(SPACES, space=b"chat")),
            (packet(ASK), record(EXPLAIN, space=b"x" * 40)),
            (packet(ASK, spaces=1), record(STATUS)), (packet(ASK, bytes=1), record(STATUS)),
            (packet(ASK, zero=1), record(STATUS)), (packet(ASK, magic=7), record(STATUS)),
            (packet(REPORT),), (packet(REPORT, bytes=4),), (packet(10), record(STATUS)),
        ]
        for parts in cases:
            with Asker(c.socket(0)) as asker:
                # The nonce of this connection, wherever there is room for one.
                head = bytearray(parts[0])
                if len(head) >= 24:
                    struct.pack_into("<Q", head, 16, asker.nonce)
                asker.send(bytes(head), *parts[1:])
                assert asker.answer() is None, parts
        with Asker(c.socket(0)) as asker:
            fds = array.array("i", [0, 1, 2])
            asker.sock.sendmsg([packet(ASK, asker.nonce), record(STATUS)],
                               [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            assert asker.answer()["clients"]["malformed"] == len(cases)
        assert nonce != 0
        time.sleep(0.3)
        before = c.fds(0)
        for _ in range(20):
            ask(c.socket(0), STATUS)
        end = time.monotonic() + 5
        while c.fds(0) > before:
            assert time.monotonic() < end, "descriptors are left behind"
            time.sleep(0.05)
        c.stop(0)
    return f"{len(cases)} of them"


def test_attached(bin):
    """Who has attached asks on another socket: there it is out of place."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        with Asker(c.socket(0)) as asker:
            asker.send(packet(ATTACH, asker.nonce, 7, ring_bytes=1 << 17))
            data = asker.sock.recv(16384)
            assert struct.unpack_from("<H", data, 6)[0] == 3, "not attached"
            asker.send(packet(ASK), record(STATUS))
            assert asker.answer() is None
        assert as_json(c, "status")["clients"]["malformed"] == 1
        c.stop(0)
    return "ended"


# ---- how often ------------------------------------------------------------------------

def flood(path, until, counts):
    while time.monotonic() < until:
        try:
            with Asker(path) as asker:
                answer = asker.ask(STATUS)
        except (ConnectionError, OSError, AssertionError):
            counts["turned_away"] = counts.get("turned_away", 0) + 1
            continue
        kind = "again" if answer == AGAIN else "report" if answer else "turned_away"
        counts[kind] = counts.get(kind, 0) + 1


def test_flood(bin):
    """Four that ask all the time get no more than the bound says; who works goes on, every
    byte right; and the operator's verb still gets its answer."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        seconds = 3
        start = time.monotonic()
        counts = [{} for _ in range(4)]
        threads = [threading.Thread(target=flood, args=(c.socket(0), start + seconds, n))
                   for n in counts]
        for t in threads:
            t.start()
        r = c.drive("--workload", "chats", nr=1)
        assert r["wrong_bytes"] == 0 and r["unserved"] == 0, r
        status = as_json(c, "status", "--timeout-ms", "20000")
        for t in threads:
            t.join()
        took = time.monotonic() - start
        got = sum(n.get("report", 0) for n in counts)
        again = sum(n.get("again", 0) for n in counts)
        assert got <= BURST + A_SECOND * took + 1, (got, took)
        assert got >= A_SECOND and again > got, (got, again)
        assert status["loop"]["lag_worst_us"] < 1e6, status["loop"]
        c.stop(0)
    return f"{got} reports, {again} times AGAIN in {took:.1f} s"


def test_tenant_flood(bin):
    """A tenant that asks all the time leaves the operator his half."""
    if os.getuid() != 0:
        return "needs root to be other users: skipped"
    with Cluster(bin, nr=1, config=TWO_TENANTS) as c:
        c.start(0)
        c.wait_linked(0)
        open_to_all(c)
        path = c.socket(0)

        def drain():
            answers = []
            for _ in range(4 * BURST):
                with Asker(path) as asker:
                    answers.append(asker.ask(SPACES))
            return [a == AGAIN for a in answers]
        time.sleep(1.2)  # the burst is whole again
        start = time.monotonic()
        again = as_user(USERS[0], drain)
        with Asker(path) as asker:
            assert asker.ask(STATUS) != AGAIN, "the operator has to wait for a tenant"
        took = time.monotonic() - start
        assert any(again) and again.count(False) <= BURST / 2 + A_SECOND * took + 1
        c.stop(0)
    return f"{again.count(False)} of {len(again)} answered"


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1], sys.argv[2:]))
