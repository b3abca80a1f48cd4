"""Three real nodes: what they serve is right, also when one dies or stands still.

    python3 tests/node/nodes_test.py BIN     BIN has kvrail and kvraild
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

from nodes_kit import Cluster, free_ports


def hits(result):
    return sum(result["hits"].values())


def healthy(result):
    assert result["wrong_bytes"] == 0, result
    counted = hits(result) + sum(result["misses"].values()) + result["unserved"]
    assert counted == result["page_refs"], "a page was counted twice, or never"


def test_chats(bin):
    """Round robin and skewed: hits come from peers, too, and every byte is right."""
    for balance, least in (("even", 0.85), ("skew", 0.60)):
        with Cluster(bin) as c:
            for i in range(3):
                c.start(i)
            c.wait_linked()
            r = c.drive("--workload", "chats", "--balance", balance)
            healthy(r)
            assert r["requests"] == 1960 and r["unserved"] == 0, r
            assert r["hits"]["peer"] > 1000 and r["hits"]["device"] > 1000, r
            assert r["hit_rate"] > least * r["hit_rate_pooled"], r
            for i in range(3):
                c.stop(i)
    return f"hit rate {r['hit_rate']:.3f} of {r['hit_rate_pooled']:.3f} skewed"


def metric(text, name):
    return sum(float(m) for m in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


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


def test_killed(bin):
    """kill -9 of a node and a new one in its place: nothing hangs, nothing is wrong."""
    with Cluster(bin) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()

        def action():
            time.sleep(1.5)
            c.kill(1)
            time.sleep(1)
            c.start(1)
        r = drive_and_meanwhile(c, action, "--workload", "chats", "--compute-us", "1000")
        healthy(r)
        assert r["nodes_lost"] == 1 and r["unserved"] > 0, r
        c.wait_linked()
        r = c.drive("--workload", "chats", "--compute-us", "200")
        healthy(r)
        assert r["unserved"] == 0 and r["hits"]["peer"] > 0, r
        for i in range(3):
            c.stop(i)
    return "a node died under load"


def test_stopped(bin):
    """SIGSTOP for longer than the others wait, then SIGCONT: it comes back by itself."""
    with Cluster(bin) as c:
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
            c.stop(i)
    return "a node stood still for 4.5 s"


def refused(c, i, pattern, *sets):
    path = c.folder / f"n{i}.log"
    before = len(path.read_text()) if path.exists() else 0
    c.start(i, *sets)
    code = c.nodes[i].wait(30)
    log = path.read_text()[before:]
    assert log.count("\n") == 1, f"not one line:\n{log}"
    assert code == 2, (code, log)
    assert re.search(pattern, log), f"{pattern!r} is not in:\n{log}"
    c.nodes[i] = None


def test_bad_input(bin):
    """Each is refused at start with one line that says what to do, and leaves nothing."""
    with Cluster(bin) as c:
        c.start(0)
        c.wait_linked(0)
        refused(c, 1, "another process has the port", f"listen.address=127.0.0.1:{c.ports[0]}")
        refused(c, 1, "listen.unix", "listen.unix=/tmp/" + "x" * 120)
        refused(c, 1, "psk", "tls.psk=missing.psk")
        (c.folder / "cluster.psk").chmod(0o644)
        refused(c, 1, "0600", "tls.psk=cluster.psk")
        (c.folder / "cluster.psk").chmod(0o600)
        refused(c, 1, r'no \[node "9"\]', "cluster.node=9")
        refused(c, 1, "no credentials", "tls.psk=")
        refused(c, 1, "loopback", "tls.psk=", "tls.clear=yes", "listen.address=0.0.0.0:7499")
        refused(c, 1, "pager|pool|memory", "pager.device_bytes=60TiB")
        refused(c, 1, "log.file|errno", "log.file=/nowhere/at/all.log")
        refused(c, 1, "onesided", "link.transports=onesided")
        c.stop(0)
    return "10 mistakes"


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
        time.sleep(1.5)
        health = json.loads(other.get(2, "/healthz"))
        assert health["links_up"] == 0, health
        assert json.loads(c.get(0, "/healthz"))["links_up"] == 1
        other.stop(2)
        c.start(2, "cluster.epoch=1", "node.1.weight=7")  # the same epoch, another view
        time.sleep(1.5)
        assert json.loads(c.get(2, "/healthz"))["links_up"] == 0
        for i in range(3):
            c.stop(i)
    return "a wrong key and another view"


def main():
    bin = sys.argv[1]
    only = sys.argv[2:]
    for name, test in sorted(globals().items()):
        if name.startswith("test_") and (not only or name[5:] in only):
            start = time.monotonic()
            print(f"{name}: {test(bin)} ({time.monotonic() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
