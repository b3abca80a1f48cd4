"""What kvrail doctor sees: each thing that is wrong is one row that says what to do, and
a machine that is right has none.

    python3 tests/node/doctor_test.py BIN [NAME …]
"""

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time

from nodes_kit import Cluster, run_tests


def doctor(c, *sets, config=None, code=None, args=(), text=False, **more):
    """Exit code and rows of the doctor; limits by preexec."""
    words = [c.bin / "kvrail", "doctor", "--config", config or c.config, *args]
    for s in ("cluster.node=1", *sets):
        words += ["--set", s]
    words += [] if text else ["--json"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60,
                          **more)
    assert code is None or done.returncode == code, (done.returncode, done.stdout)
    if text:
        return done.stdout
    assert done.stderr == "", done.stderr
    report = json.loads(done.stdout)
    worst = {"ok": 0, "note": 0, "warn": 3, "fail": 1}
    assert worst[report["worst"]] == done.returncode, report["worst"]
    return done.returncode, report["rows"]


def row(rows, area, words):
    """The one row of that area with these words."""
    found = [r for r in rows if r["area"] == area and words in r["what"]]
    assert len(found) == 1, (area, words, rows)
    return found[0]


def bad(rows):
    return [(r["level"], r["area"]) for r in rows if r["level"] in ("warn", "fail")]


def listen_at(c, i):
    """Somebody at member i's port."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", c.ports[i]))
    s.listen()
    return s


def test_well(bin):
    """A configuration that starts, members that are there: nothing is bad, and what it
    says of the running nodes is so."""
    with Cluster(bin) as c:
        unix = f"listen.unix={c.socket(0)}"
        listeners = [listen_at(c, 1), listen_at(c, 2)]
        code, rows = doctor(c, unix)
        assert code == 0 and bad(rows) == [], bad(rows)
        assert row(rows, "node", "none runs")["level"] == "note"
        assert row(rows, "port", "is free")["level"] == "ok"
        assert "mode 0600" in row(rows, "credentials", "pre-shared key")["what"]
        assert len([r for r in rows if r["area"] == "member"]) == 2
        assert not c.socket(0).exists(), "it made the socket"
        for s in listeners:
            s.close()
        for i in range(3):
            c.start(i)
        c.wait_linked()
        code, rows = doctor(c, unix, f"listen.http=127.0.0.1:{c.http[0]}")
        assert code == 0 and bad(rows) == [], rows
        assert row(rows, "node", "2 of 2 links")["level"] == "ok"
        assert len([r for r in rows if "in use, and a node runs" in r["what"]]) == 2
        text = doctor(c, unix, text=True)
        lines = text.splitlines()
        assert all(line.split()[0] in ("ok", "note") for line in lines), text
        c.stop(1)
        end = time.monotonic() + 10
        while True:
            code, rows = doctor(c, unix)
            if code == 3 and ("warn", "node") in bad(rows):
                break
            assert time.monotonic() < end, rows
            time.sleep(0.2)
        assert bad(rows) == [("warn", "node"), ("warn", "member")], bad(rows)
        assert "Connection refused" in row(rows, "member", "node 2")["what"]
        for i in (0, 2):
            c.stop(i)
    return f"{len(rows)} rows"


def test_config(bin):
    """Each thing that a start would refuse, or that works badly, has its row."""
    with Cluster(bin) as c:
        others = [listen_at(c, 1), listen_at(c, 2)]
        unix = f"listen.unix={c.socket(0)}"

        def one(level, area, words, *sets, **more):
            code, rows = doctor(c, *sets, **more)
            r = row(rows, area, words)
            assert r["level"] == level and bad(rows) == [(level, area)], rows
            assert r["do"] or area == "credentials", r
        code, rows = doctor(c, unix, "cluster.node=0")  # and one member is this node
        assert row(rows, "config", "cluster.node is 0")["do"], rows
        assert bad(rows) == [("warn", "config"), ("warn", "member")], rows
        one("fail", "memory", "pools of 16.0 TiB", unix, "pager.device_bytes=16TiB")
        one("warn", "socket", "no listen.unix", "listen.unix=")
        one("fail", "socket", "is there and is no socket", f"listen.unix={c.config}")
        one("fail", "socket", "No such file", f"listen.unix={c.folder}/none/s")
        one("fail", "log", "No such file", unix, f"log.file={c.folder}/none/log")
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            one("fail", "port", "Address already in use", unix,
                f"listen.http=127.0.0.1:{port}")
        one("fail", "port", "Cannot assign requested address", unix,
            "listen.address=198.51.100.1:7")
        (c.folder / "open").mkdir()
        os.chmod(c.folder / "open", 0o777)
        one("warn", "socket", "everybody may replace", f"listen.unix={c.folder}/open/s")
        clear = c.folder / "clear.conf"
        clear.write_text(c.config.read_text().replace("psk = cluster.psk", "clear = yes"))
        one("warn", "credentials", "tls.clear", unix, config=clear)
        none = c.folder / "none.conf"
        none.write_text(c.config.read_text().replace("psk = cluster.psk", ""))
        one("fail", "credentials", "none are given", unix, config=none)
        os.chmod(c.folder / "cluster.psk", 0o644)
        one("fail", "credentials", "mode", unix)
        os.chmod(c.folder / "cluster.psk", 0o600)
        os.chmod(c.folder / "t7.hex", 0o644)
        code, rows = doctor(c, unix)
        assert code == 1 and bad(rows) == [("fail", "config")], rows
        assert "t7.hex" in row(rows, "config", "mode")["what"], rows
        os.chmod(c.folder / "t7.hex", 0o600)
        one("warn", "descriptors", "may be open", unix, preexec_fn=lambda:
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
        wrong = c.folder / "wrong.conf"
        wrong.write_text(c.config.read_text() + "\n[log]\nlevle = 3\n[spill]\nenabled = 7\n")
        code, rows = doctor(c, config=wrong)
        assert code == 1 and bad(rows) == [("fail", "config")] * 2, rows
        for s in others:
            s.close()
    return "15 rows"


def test_certificates(bin):
    """Of another node, soon over, long good: told in days."""
    with Cluster(bin) as c:
        others = [listen_at(c, 1), listen_at(c, 2)]

        def certs(name, node, days):
            """What it says at node 1 of a certificate of this node."""
            ca = c.folder / name
            c.run("keygen", "--ca", ca)
            c.run("keygen", "--ca", ca, "--cluster", "test", "--node", node, "--days", days)
            lines = (f"ca = {ca}/ca.pem\ncert = {ca}/node-{node}.pem\n"
                     f"key = {ca}/node-{node}.key\n")
            path = c.folder / f"{name}.conf"
            path.write_text(c.config.read_text().replace("psk = cluster.psk", lines))
            code, rows = doctor(c, f"listen.unix={c.socket(0)}", config=path)
            return next(r for r in rows if r["area"] == "credentials")
        good = certs("good", 1, 90)
        assert good["level"] == "ok" and re.search(" (89|90) days", good["what"]), good
        soon = certs("soon", 1, 10)
        assert soon["level"] == "warn" and re.search(" (9|10) days", soon["what"]), soon
        assert soon["do"], soon
        two = certs("two", 2, 90)
        assert two["level"] == "fail" and "of node 2, this is node 1" in two["what"], two
        for s in others:
            s.close()
    return "three certificates"


def test_members(bin):
    """A member that hangs up, one that is not there, one without a name, 198 of them at
    once: never longer than the deadline."""
    with Cluster(bin) as c:
        alive = listen_at(c, 1)
        text = c.config.read_text()
        named = c.folder / "named.conf"
        named.write_text(text.replace(
            f"127.0.0.1:{c.ports[2]}", f"no-such-host.invalid:{c.ports[2]}"))
        start = time.monotonic()
        code, rows = doctor(c, f"listen.unix={c.socket(0)}", config=named,
                            args=("--timeout-ms", "2000"))
        assert time.monotonic() - start < 10
        members = {r["what"].split(":")[0]: r["level"] for r in rows if r["area"] == "member"}
        assert members["node 2"] == "ok" and members["node 3"] in ("fail", "warn"), members
        assert code == (1 if members["node 3"] == "fail" else 3)
        many = c.folder / "many.conf"
        crowd = [socket.create_server(("127.0.0.1", 0)) for _ in range(96)]
        more = "".join(f'[node "{i + 4}"]\naddress = 127.0.0.1:{s.getsockname()[1]}\n'
                       for i, s in enumerate(crowd))
        many.write_text(text + more)
        code, rows = doctor(c, f"listen.unix={c.socket(0)}", config=many)
        what = [r["what"] for r in rows if r["area"] == "member"]
        assert len(what) == 34 and any("65 more are open" in w for w in what), what
        for s in crowd:
            s.close()
        # A backlog that is full: connections hang.
        alive.close()
        deaf = socket.socket()
        deaf.bind(("127.0.0.1", c.ports[1]))
        deaf.listen(0)
        held = []
        for _ in range(8):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", c.ports[1]))
            held.append(s)
        start = time.monotonic()
        code, rows = doctor(c, f"listen.unix={c.socket(0)}", args=("--timeout-ms", "500"))
        assert time.monotonic() - start < 5
        assert code == 3 and row(rows, "member", "node 2")["level"] == "warn", rows
    return "reached, refused, unknown, deaf"


def test_stuck(bin):
    """A node that stands still is told as such, within the deadline."""
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        c.nodes[0].send_signal(19)
        start = time.monotonic()
        code, rows = doctor(c, f"listen.unix={c.socket(0)}", args=("--timeout-ms", "300"))
        assert time.monotonic() - start < 10
        assert code == 1 and row(rows, "node", "does not answer")["level"] == "fail", rows
        c.nodes[0].send_signal(18)
        c.stop(0)
    return "told"


def test_alone(bin):
    """Without a configuration: the machine, and what this build has not."""
    done = subprocess.run([f"{bin}/kvrail", "doctor", "--json"], capture_output=True,
                          text=True, timeout=60)
    rows = json.loads(done.stdout)["rows"]
    assert done.returncode in (0, 3), done
    assert row(rows, "backends", "tcp")["level"] == "ok"
    for name in ("CUDA", "verbs", "UCX", "GPUDirect Storage"):
        assert "not built" in row(rows, "backends", name + ":")["what"]
    assert row(rows, "config", "none was given")
    for words, line in ((("--timeout-ms", "0"), "--timeout-ms: 0 is below the minimum 1"),
                        (("now",), "now: is no option, see --help")):
        done = subprocess.run([f"{bin}/kvrail", "doctor", *words], capture_output=True,
                              text=True, timeout=60)
        assert (done.returncode, done.stderr) == (2, f"kvrail doctor: {line}\n"), done
    return f"{len(rows)} rows"


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1], sys.argv[2:]))
