"""Three real nodes: what they serve is right, also when one dies or stands still.

    python3 tests/node/nodes_test.py BIN     BIN has kvrail and kvraild
    KVRAIL_NIGHTLY=1 …                       longer pauses, more clients killed
"""

import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from nodes_kit import (FILL_CONFIG, TRANSPORTS, Cluster, client_env, links, metric, refused,
                       run_tests, same_descriptors)

sys.path.insert(0, "integrations/python")
NIGHTLY = "KVRAIL_NIGHTLY" in os.environ  # longer, and more of it


def hits(result):
    return sum(result["hits"].values())


def healthy(result):
    assert result["wrong_bytes"] == 0, result
    counted = hits(result) + sum(result["misses"].values()) + result["unserved"]
    assert counted == result["page_refs"], "a page was counted twice, or never"


def on_each(test, by_day=tuple(TRANSPORTS)):
    """The same on every transport; the name of the one that fails is printed."""
    @functools.wraps(test)
    def both(bin):
        said = []
        for transport in TRANSPORTS if NIGHTLY else by_day:
            try:
                said.append(f"{transport}: {test(bin, transport)}")
            except BaseException:
                print(f"--- {test.__name__} on {transport}", flush=True)
                raise
        return "; ".join(said)
    return both


def on_shm(test):
    """On every transport by night, on shm alone by day."""
    return on_each(test, ("shm",))


def read_by(c, i):
    """Bytes that node i has read from peers: by name, and one-sidedly."""
    text = c.get(i, "/metrics")
    all, granted = (metric(text, f"kvrail_fetched_{kind}bytes_total")
                    for kind in ("", "one_sided_"))
    return all - granted, granted


def grants_held(c, i):
    """Grants that node i has given and that are not over."""
    text = c.get(i, "/metrics")
    return metric(text, "kvrail_grants_given_total") - metric(
        text, "kvrail_grants_ended_total")


def nothing_held(c, i):
    """Once all has come to rest no frame is kept by a grant, a fence or a mover. (What
    leaves may wait until its frame is wanted.)"""
    end = time.monotonic() + 20
    while True:
        text = c.get(i, "/metrics")
        frames = re.findall(r'^kvrail_frames{.*state="(?!free|sealed|leaving).*} (\S+)$',
                            text, re.M)
        held = grants_held(c, i)
        if sum(map(float, frames)) == 0 and held == 0:
            return
        assert time.monotonic() < end, (frames, held)
        time.sleep(0.1)


@on_each
def test_chats(bin, transport):
    """Round robin and skewed: hits come from peers, too, and every byte is right."""
    for balance, least in (("even", 0.85), ("skew", 0.60)):
        with Cluster(bin, transport=transport) as c:
            for i in range(3):
                c.start(i)
            c.wait_linked()
            r = c.drive("--workload", "chats", "--balance", balance)
            healthy(r)
            assert r["requests"] == 1960 and r["unserved"] == 0, r
            assert r["hits"]["peer"] > 1000 and r["hits"]["device"] > 1000, r
            assert r["hit_rate"] > least * r["hit_rate_pooled"], r
            time.sleep(0.6)  # a snapshot is published every 250 ms
            named, granted = map(sum, zip(*(read_by(c, i) for i in range(3))))
            if transport == "tcp":
                assert named > 0 and granted == 0, (named, granted)
            else:
                assert granted > 2 * named, (named, granted)
            for i in range(3):
                nothing_held(c, i)
                c.stop(i)
    return f"hit rate {r['hit_rate']:.3f} of {r['hit_rate_pooled']:.3f} skewed"


@on_shm
def test_pager_level(bin, transport):
    """Engines fill the nodes' memory in place and read it there: every byte of a hit is
    right, with a node killed and started again meanwhile, and after the driver itself was
    killed in the middle of its fills all frames come back."""
    with Cluster(bin, config=FILL_CONFIG, transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        r = c.drive("--workload", "chats", "--level", "pager")
        healthy(r)
        assert r["unserved"] == 0 and r["level"] == "pager", r
        assert r["hits"]["peer"] > 1000 and r["hits"]["device"] > 1000, r
        assert r["hit_rate"] > 0.85 * r["hit_rate_pooled"], r

        def kill_and_start():
            time.sleep(1.5)
            c.kill(1)
            time.sleep(1)
            c.start(1)
            c.wait_linked()

        killed = drive_and_meanwhile(c, kill_and_start, "--workload", "chats", "--level",
                                     "pager", "--compute-us", "1000")
        healthy(killed)
        assert killed["nodes_lost"] == 1 and killed["unserved"] > 0, killed

        for _ in range(3):
            driver = subprocess.Popen(
                c.drive_args("--workload", "chats", "--level", "pager", "--compute-us",
                             "2000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            driver.kill()
            driver.wait()
        for i in range(3):
            nothing_held(c, i)
        healthy(c.drive("--workload", "chats", "--level", "pager"))
        for i in range(3):
            c.stop(i)
    return f"hit rate {r['hit_rate']:.3f} of {r['hit_rate_pooled']:.3f}"


def test_written_again(bin):
    """A page that its engine writes after it was sealed, in its own domain: another node
    compares the digest and has no hit; never bytes that differ from what was sealed."""
    environment = client_env(bin)
    if environment is None:
        return "no libkvrail here: skipped"
    os.environ["KVRAIL_LIBRARY"] = environment["KVRAIL_LIBRARY"]
    import kvrail
    with Cluster(bin, config=FILL_CONFIG) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        open_at = lambda i: kvrail.Client(f"unix:{c.socket(i)}", tenant=7, level="pager")
        with open_at(0) as writer, open_at(1) as reader:
            space = writer.space("chat")
            keys = [space.opaque(b"page-%d" % i) for i in range(8)]
            content = [bytes([i + 1]) * space.page_bytes for i in range(8)]
            own, found = writer.sequence(space), reader.sequence(space)
            own.append(8 * space.page_tokens)
            for i, key in enumerate(keys):
                own.page(i)[:] = content[i]
                own.seal(i, key, anchor=keys[[0, 1, 2, 2, 4, 4, 4, 4][i]])  # segments
            end = time.monotonic() + 10
            while writer.exists(space, keys, loose=True).hits() < 8:
                assert time.monotonic() < end, "sealed pages are not found"
                time.sleep(0.01)
            own.page(5)[7:8] = b"!"
            result = found.fetch(keys, timeout=5.0)
            while result.reasons[5] == "not_found":  # the directory has not heard of it yet
                assert time.monotonic() < end, result.reasons
                time.sleep(0.05)
                found.truncate(0)
                result = found.fetch(keys, timeout=5.0)
            got = [bytes(found.page(i)) for i in range(result.nr_hits)]
            assert got == content[:5], (result.nr_hits, result.statuses)
            assert result.statuses[5] == kvrail.NOT_VERIFIED, result.statuses
            own.end()
            found.end()
        for i in range(3):
            c.stop(i)
    return "five pages, and not the sixth"


def test_metrics(bin):
    """/metrics is what Prometheus takes; only loopback listens; numbers agree."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        c.drive("--workload", "chats")
        time.sleep(0.6)  # a snapshot is published every 250 ms
        text = c.get(0, "/metrics")
        assert metric(text, "kvrail_links_up") == 2
        assert metric(text, "kvrail_requests_total") > 600
        assert metric(text, "kvrail_hits_peer_total") > 0
        if shutil.which("promtool"):
            done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True,
                                  capture_output=True)
            assert done.returncode == 0, done.stdout + done.stderr
        if shutil.which("ss"):
            pids = "|".join(f"pid={n.pid}," for n in c.nodes)
            lines = subprocess.run(["ss", "-lntpH"], capture_output=True, text=True).stdout
            ours = [l.split()[3] for l in lines.splitlines() if re.search(pids, l)]
            assert all(a.startswith("127.0.0.1:") for a in ours), ours
        for i in range(3):
            c.stop(i)
    return "promtool " + ("checked" if shutil.which("promtool") else "is not there: skipped")


def drive_and_meanwhile(c, action, *args):
    driver = subprocess.Popen(c.drive_args(*args), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    action()
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    return json.loads(out)


@on_each
def test_killed(bin, transport):
    """kill -9 of a node and a new one in its place: nothing hangs, nothing is wrong. It
    was owner and reader: what it had been granted is given back by its death alone."""
    with Cluster(bin, transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()

        def action():
            time.sleep(1.5)
            c.kill(1)
            time.sleep(1)
            c.start(1)
        r = drive_and_meanwhile(c, action, "--workload", "chats", "--compute-us", "4000")
        healthy(r)
        assert r["nodes_lost"] == 1 and r["unserved"] > 0, r
        c.wait_linked()
        r = c.drive("--workload", "chats", "--compute-us", "200")
        healthy(r)
        assert r["unserved"] == 0 and r["hits"]["peer"] > 0, r
        for i in range(3):
            nothing_held(c, i)
            c.stop(i)
    return "a node died under load"


@on_each
def test_stopped(bin, transport):
    """SIGSTOP for longer than the others wait, then SIGCONT: it comes back by itself. A
    reader that stands still keeps what it was granted from reuse, and gives it back."""
    with Cluster(bin, transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()

        def action():
            time.sleep(1.0)
            c.nodes[2].send_signal(signal.SIGSTOP)
            time.sleep(4.5)
            c.nodes[2].send_signal(signal.SIGCONT)
        r = drive_and_meanwhile(c, action, "--workload", "chats", "--compute-us", "1000")
        healthy(r)
        c.wait_linked()
        r = c.drive("--workload", "chats")
        healthy(r)
        assert r["unserved"] == 0, r
        for i in range(3):
            nothing_held(c, i)
            c.stop(i)
    return "a node stood still for 4.5 s"


def hold_grants(c, drive):
    """Stops node 1 in the middle of reads: until it stands still with grants of others.
    The driver, which the caller ends."""
    driver = drive()
    for _ in range(100):
        if driver.poll() is not None:  # all was read
            driver = drive()
        time.sleep(0.1)
        c.nodes[0].send_signal(signal.SIGSTOP)
        time.sleep(0.6)  # a snapshot is published every 250 ms
        if sum(grants_held(c, i) for i in (1, 2)) > 0:
            return driver
        c.nodes[0].send_signal(signal.SIGCONT)
    driver.kill()
    driver.wait()
    raise AssertionError("it never held a grant")


def test_still_reader(bin):
    """A reader stands still with grants in its hand. Their time, their link and its fence
    run out, and still they are not over: it maps the memory, and might go on. They end
    when it does go on, and by its death."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        for ends in ("goes on", "dies"):
            c.drive("--workload", "chats")  # pages lie at all nodes; one reads them
            driver = hold_grants(c, lambda: subprocess.Popen(
                c.drive_args("--workload", "chats", "--compute-us", "100", nr=1),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            try:
                time.sleep(5)  # link.grant, link.revoke, liveness.lost
                held = [grants_held(c, i) for i in (1, 2)]
                assert sum(held) > 0, held
                for i in (1, 2):
                    assert links(c, i) == 1
                if ends == "dies":
                    c.kill(0)
                else:
                    c.nodes[0].send_signal(signal.SIGCONT)
                for i in (1, 2):
                    nothing_held(c, i)
            finally:
                driver.kill()
                driver.wait()
        c.start(0)
        c.wait_linked()
        healthy(c.drive("--workload", "chats"))
        for i in range(3):
            nothing_held(c, i)
            c.stop(i)
    return f"{sum(held):.0f} grants outlived all clocks, and ended with their reader"


GROWTH_MIB = 64  # of a node that has touched all its memory before


@on_shm
def test_slow_peer(bin, transport):
    """A node stands still while others read from it: they do not grow meanwhile, and
    have no more descriptors when it is back."""
    still_s = 20 if NIGHTLY else 6
    with Cluster(bin, transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        c.drive("--workload", "chats")  # memory is touched, connections are there
        before = [(c.fds(i), c.rss_mib(i)) for i in range(2)]
        grown, most, drives = [], 0, 0
        c.nodes[2].send_signal(signal.SIGSTOP)
        end = time.monotonic() + still_s
        while time.monotonic() < end:
            r = c.drive("--workload", "chats", "--compute-us", "200", nr=2)
            healthy(r)
            assert r["unserved"] == 0, r
            grown.append(max(c.rss_mib(i) - before[i][1] for i in range(2)))
            most, drives = max(most, c.fds(0), c.fds(1)), drives + 1
        c.nodes[2].send_signal(signal.SIGCONT)
        assert most < max(fds for fds, _ in before) + 32, (most, before)
        c.wait_linked()
        healthy(c.drive("--workload", "chats"))
        same_descriptors(c, [fds for fds, _ in before])
        grown.append(max(c.rss_mib(i) - before[i][1] for i in range(2)))
        assert max(grown) < GROWTH_MIB, grown
        for i in range(3):
            c.stop(i)
    return f"{still_s} s still, {drives} drives, at most {max(grown):.1f} MiB more"


@on_shm
def test_restart_under_load(bin, transport):
    """A rolling restart: each node in turn ends by itself with 0 while requests go on."""
    with Cluster(bin, transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()

        def action():
            for i in range(3):
                time.sleep(0.7)
                c.stop(i)
                c.start(i)
                c.wait_linked()
        r = drive_and_meanwhile(
            c, action, "--workload", "chats", "--balance", "even", "--compute-us", "1500")
        healthy(r)
        assert r["nodes_lost"] >= 1, r
        c.wait_linked()
        r = c.drive("--workload", "chats")
        healthy(r)
        assert r["unserved"] == 0 and r["hits"]["peer"] > 0, r
        for i in range(3):
            c.stop(i)
    return "three restarts under load"


def test_lost_socket(bin):
    """A socket that is not there any more: its owner's pages come by tcp, said once."""
    with Cluster(bin) as c:
        c.start(1)
        c.start(2)
        c.wait_linked(1)
        c.peers_socket(2).unlink()
        c.start(0)
        c.wait_linked()
        time.sleep(1.5)  # tries and pauses
        log = (c.folder / "n0.log").read_text()
        assert log.count("its pages come by tcp until the link ends") == 1, log
        assert "node 3: 8 shm connections broke" in log, log
        r = c.drive("--workload", "chats")
        healthy(r)
        assert r["unserved"] == 0 and r["hits"]["peer"] > 1000, r
        time.sleep(0.6)
        named, granted = read_by(c, 0)
        assert named > 0 and granted > 0, (named, granted)  # of node 3, of node 2
        for i in range(3):
            nothing_held(c, i)
            c.stop(i)
    return "one direction of one pair fell back"


CLIENT_PAGE, CLIENT_KEYS, BATCH, FLIGHTS = 16384, 64, 16, 9


def victim(target, seed):
    """Puts, gets, pins, all in flight at once, until it is killed; says a byte first.
    No two gets write to the same place."""
    import kvrail
    client = kvrail.Client(target, 7)
    space, draw = client.space("chat"), random.Random(seed)
    buffer = client.buffer((CLIENT_KEYS + FLIGHTS * BATCH) * CLIENT_PAGE)
    keys = [space.opaque(b"page %d" % i) for i in range(CLIENT_KEYS)]
    for i in range(CLIENT_KEYS):
        buffer.view[i * CLIENT_PAGE:(i + 1) * CLIENT_PAGE] = page(i)
    free, slots = list(range(FLIGHTS)), {}
    for turn in itertools.count():
        op = draw.choice(("put", "get", "get", "pin", "exists"))
        first, n, slot = draw.randrange(CLIENT_KEYS - BATCH), draw.randint(1, BATCH), free.pop()
        place = CLIENT_KEYS + slot * BATCH if op == "get" else first
        at = [(buffer, (place + i) * CLIENT_PAGE) for i in range(n)]
        tag = client.submit(op, space, keys[first:first + n], loose=True,
                            at=at if op in ("put", "get") else None)
        slots[tag] = slot
        if turn == FLIGHTS:
            os.write(1, b".")
        while not free:
            result = client.next(5)
            free.append(slots.pop(result.tag))


def page(i):
    return random.Random(i).randbytes(CLIENT_PAGE)


def at_rest(c):
    """What clients leave behind if anything does: once numbers have come to rest."""
    text = c.get(0, "/metrics")
    frames = re.findall(r'^kvrail_frames{(.*state="(?!free|sealed).*)} (\S+)$', text, re.M)
    busy = sum(float(n) for _, n in frames)
    return metric(text, "kvrail_clients"), busy, c.fds(0)


def settled(c):
    """At rest, with as many descriptors as a second before."""
    end, fds = time.monotonic() + 20, -1
    while at_rest(c) != (0, 0, fds):
        assert time.monotonic() < end, at_rest(c)
        fds = c.fds(0)
        time.sleep(1)
    return 0, 0, fds


def await_rest(c, wanted):
    end = time.monotonic() + 20
    while at_rest(c) != wanted:
        assert time.monotonic() < end, f"{at_rest(c)} is not {wanted}"
        time.sleep(0.1)


def remote(c):
    """Lets clients of tenant 7 come from other hosts, and says how they reach node i."""
    c.run("keygen", "--psk", c.folder / "seven.psk")
    secret = "secret = file:t7.hex\n"
    text = c.config.read_text()
    assert secret in text
    c.config.write_text(
        text.replace(secret, secret + "client_psk = seven.psk\n") + "[listen]\nclients = yes\n")
    return lambda i: f"tls://127.0.0.1:{c.ports[i]}?cluster=test&psk={c.folder}/seven.psk"


def test_remote_chats(bin):
    """Three nodes by clients of another host: every byte of every hit is checked."""
    with Cluster(bin) as c:
        c.target = remote(c)
        for i in range(3):
            c.start(i)
        c.wait_linked()
        r = c.drive("--workload", "chats")
        healthy(r)
        assert r["requests"] == 1960 and r["unserved"] == 0 and r["nodes_lost"] == 0, r
        assert r["hits"]["peer"] > 1000 and r["hits"]["device"] > 1000, r
        assert r["checked_bytes"] > 1 << 28, r
        for i in range(3):
            nothing_held(c, i)
            c.stop(i)
    return f"{r['checked_bytes']} bytes checked"


def test_client_kills(bin):
    """Clients are killed in the middle of fills, reads and batches: the node gives back
    what they held, and the next one gets right bytes."""
    return client_kills(bin, lambda c: lambda i: f"unix:{c.socket(i)}")


def test_remote_client_kills(bin):
    """The same of clients on other hosts, in the middle of GETs and PUTs."""
    return client_kills(bin, remote)


def client_kills(bin, targets):
    environment = client_env(bin)
    if environment is None:
        return "no libkvrail beside the programs: skipped"
    kills = 200 if NIGHTLY else 60
    with Cluster(bin, pages=120, nr=1) as c:
        target, draw = targets(c)(0), random.Random(60)
        # The sanitizer keeps what was freed for a while, by default 256 MiB of it.
        c.start(0, env=dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=8"))
        c.wait_linked(0)
        for i in range(kills):
            child = subprocess.Popen(
                [sys.executable, __file__, "--victim", target, str(i)],
                stdout=subprocess.PIPE, env=environment)
            assert child.stdout.read(1) == b".", "a client did not begin"
            time.sleep(draw.random() * 0.02)
            child.kill()
            child.wait()
            child.stdout.close()
            if i == 9:  # what stays for ever has come by now
                wanted, rss = settled(c), c.rss_mib(0)
        await_rest(c, wanted)
        grown = c.rss_mib(0) - rss
        assert grown < GROWTH_MIB, grown
        done = subprocess.run(
            [sys.executable, __file__, "--witness", target], env=environment, text=True,
            capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        await_rest(c, wanted)
        c.stop(0)
    return f"{kills} kills, {grown:.1f} MiB more, {done.stdout.strip()}"


def witness(target):
    """The client after all the others: what is there is right, pins do not hold it."""
    import kvrail
    with kvrail.Client(target, 7) as client:
        space = client.space("chat")
        buffer = client.buffer(CLIENT_KEYS * CLIENT_PAGE)
        keys = [space.opaque(b"page %d" % i) for i in range(CLIENT_KEYS)]
        hits = 0
        got = client.get(space, keys, buffer, loose=True, timeout=5.0)
        for i, status in enumerate(got.statuses):
            if status == kvrail.OK:
                start = i * CLIENT_PAGE
                assert bytes(buffer.view[start:start + CLIENT_PAGE]) == page(i), i
                hits += 1
        assert hits > 0, got.statuses
        dropped = client.drop(space, keys, loose=True).statuses
        assert all(s in (kvrail.OK, kvrail.MISS) for s in dropped), dropped
        left = client.exists(space, keys, loose=True).statuses
        assert left == [kvrail.MISS] * CLIENT_KEYS, left
        print(f"{hits} pages right")


def test_bad_input(bin):
    """Each is refused at start with one line that says what to do, and leaves nothing."""
    with Cluster(bin) as c:
        c.start(0)
        c.wait_linked(0)
        refused(c, 1, "another process has the port",
                f"listen.address=127.0.0.1:{c.ports[0]}", code=1)
        refused(c, 1, "listen.unix", "listen.unix=/tmp/" + "x" * 120)
        refused(c, 1, "psk", "tls.psk=missing.psk")
        (c.folder / "cluster.psk").chmod(0o644)
        refused(c, 1, "0600", "tls.psk=cluster.psk")
        (c.folder / "cluster.psk").chmod(0o600)
        refused(c, 1, r'no \[node "9"\]', "cluster.node=9")
        refused(c, 1, "no credentials", "tls.psk=")
        refused(c, 1, "loopback", "tls.psk=", "tls.clear=yes", "listen.address=0.0.0.0:7499")
        refused(c, 1, "pager|pool|memory", "pager.device_bytes=60TiB", code=1)
        refused(c, 1, "log.file|errno", "log.file=/nowhere/at/all.log")
        refused(c, 1, "onesided", "link.transports=onesided", "listen.unix=")
        refused(c, 1, "listen.peers", f"listen.peers={c.socket(1)}")
        refused(c, 1, "listen.peers", "listen.peers=/nowhere/at/all.sock", code=1)
        refused(c, 1, "listen.peers.*another node listens there",
                f"listen.peers={c.peers_socket(0)}", code=1)
        c.stop(0)
    return "13 mistakes"


def test_stranger(bin):
    """Another cluster's key, and another view: no link, and those that are right go on."""
    with Cluster(bin) as c, Cluster(bin) as other:
        other.ports[:] = c.ports
        c.start(0)
        c.start(1)
        c.wait_linked(1)
        c.nodes[2] = other_node = None
        other.config.write_text(c.config.read_text())
        other.start(2, f"listen.http=127.0.0.1:{other.http[2]}")
        other.wait_linked(0)
        time.sleep(1.5)
        health = json.loads(other.get(2, "/healthz"))
        assert health["links_up"] == 0, health
        assert links(c, 0) == 1
        other.stop(2)
        c.start(2, "cluster.epoch=1", "node.1.weight=7")  # the same epoch, another view
        c.wait_linked(0)
        time.sleep(1.5)
        assert links(c, 2) == 0
        for i in range(3):
            c.stop(i)
    return "a wrong key and another view"


def main():
    bin = sys.argv[1]
    only = sys.argv[2:]
    if bin == "--victim":
        victim(only[0], int(only[1]))
    if bin == "--witness":
        return witness(only[0])
    return run_tests(globals(), bin, only)


if __name__ == "__main__":
    sys.exit(main())
