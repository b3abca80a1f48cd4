"""What is wrong with a node's configuration, machine or neighbours is told in one line
with what mends it; the node stays up or does not start, never half.

    python3 tests/node/bad_input_test.py BIN [TEST…]

tests/README.md, "Bad input", has the table. What needs root or a newer kernel says that
it is skipped.
"""

import os
import pathlib
import re
import resource
import socket
import struct
import subprocess
import sys
import time

from nodes_kit import (CERTIFIED, CERTIFIED_2, CONFIG, PATIENCE_S, Cluster, await_line,
                       client_env, links, metric, refused, run_tests, sanitizers)

sys.path.insert(0, "integrations/python")
DAY_S = 86400


def limits(*words):
    """Words before a program that change its limits: -n 64, -v 100000."""
    return ["sh", "-c", f'ulimit {" ".join(words)} && exec "$@"', "sh"]


def odd_machine(bin, **settings):
    """An environment in which the machine is odd; see odd_machine.c."""
    module = next(pathlib.Path(bin).resolve().parent.rglob("libodd_machine.so"))
    preload = ":".join([*sanitizers(bin), str(module)])
    return dict(os.environ, LD_PRELOAD=preload, **{k: str(v) for k, v in settings.items()})


def client(bin, c, i, *words, prefix=()):
    """A client of node i in a process of its own: this file, with --client."""
    env = client_env(bin)
    if env is None:
        return None
    return subprocess.Popen(
        [*prefix, sys.executable, __file__, "--client", f"unix:{c.socket(i)}", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env)


def be_client(target, *words):
    """Puts and gets a page; "stay": then waits to be killed."""
    import kvrail
    with kvrail.Client(target, 7) as node:
        space, buffer = node.space("chat"), node.buffer(2 * 16384)
        buffer.view[:16384] = bytes(range(256)) * 64
        key = [space.opaque(b"one page")]
        put = node.put(space, key, buffer, loose=True)
        assert put.statuses[0] in (kvrail.OK, kvrail.EXISTS), put.statuses
        got = node.get(space, key, loose=True, at=[(buffer, 16384)])
        assert got.statuses == [kvrail.OK], got.statuses
        assert buffer.view[16384:] == buffer.view[:16384]
        print("served", flush=True)
        if "stay" in words:
            sys.stdin.read()


def serves(bin, c, i):
    one = client(bin, c, i)
    if one is not None:
        out, err = one.communicate(timeout=60)
        assert out == "served\n", err


# ---- at start


def test_start_places(bin):
    """What another process has, or what is not there: 1, for it may be right later."""
    with Cluster(bin) as c:
        c.start(0)
        c.wait_linked(0)
        refused(c, 1, "another process has the port: does a node run already",
                f"listen.address=127.0.0.1:{c.ports[0]}", code=1)
        refused(c, 1, "another process listens there", f"listen.http=127.0.0.1:{c.http[0]}",
                code=1)
        before = c.socket(0).stat().st_ino
        refused_socket(c, f"listen.unix={c.socket(0)}")
        assert c.socket(0).stat().st_ino == before
        refused(c, 1, "is the folder there, and writable", "listen.unix=/nowhere/n.sock",
                code=1)
        refused(c, 1, "is there and is no socket", f"listen.unix={c.config}")
        refused(c, 1, "125 characters are above the maximum 107",
                "listen.unix=/tmp/" + "x" * 120)
        refused(c, 1, "no address of this machine", "listen.address=192.0.2.1:7499", code=1)
        refused(c, 1, "No such file", "log.file=/nowhere/at/all.log")
        c.stop(0)
    return "8 places"


def refused_socket(c, setting):
    refused(c, 1, "another node listens there: stop it, or choose another path", setting,
            code=1)


def test_start_group(bin):
    """The clients' socket is the owner's, or a group's that is there; never everybody's."""
    with Cluster(bin, nr=1) as c:
        refused(c, 0, '"0666" is not one of 0600, 0660|0600.*0660', "listen.unix_mode=0666")
        refused(c, 0, "listen.unix_mode = 0660", "listen.unix_group=0")
        refused(c, 0, "no group 'nobody-at-all'", "listen.unix_mode=0660",
                "listen.unix_group=nobody-at-all")
        c.start(0)
        c.wait_linked(0)
        assert c.socket(0).stat().st_mode & 0o777 == 0o600
        c.stop(0)
        group = os.getgroups()[0] if os.geteuid() else 12345
        c.start(0, "listen.unix_mode=0660", f"listen.unix_group={group}")
        c.wait_linked(0)
        found = c.socket(0).stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, group), found
        c.stop(0)
    return "0600, 0660, and no other"


def certified(bin):
    c = Cluster(bin, nr=2, config=CERTIFIED)
    c.run("keygen", "--ca", c.folder / "pki")
    for i, days in ((1, 30), (2, 2)):
        c.run("keygen", "--ca", c.folder / "pki", "--cluster", "c1", "--node", str(i),
              "--days", str(days))
    return c


def test_start_certificates(bin):
    """Missing, another node's, expired, not yet valid: by the clock of this machine."""
    with certified(bin) as c:
        refused(c, 0, "pki/none.pem.*(missing|No such file)", "tls.cert=pki/none.pem")
        refused(c, 0, "pki/none.key.*(missing|No such file)", "tls.key=pki/none.key")
        refused(c, 0, "node 2, this is node 1", *CERTIFIED_2)
        for days, word in ((31, "expired .* by this clock: is it right"),
                           (-2, "not yet valid by this clock, but from")):
            env = odd_machine(bin, KVRAIL_ODD_CLOCK_S=days * DAY_S)
            refused(c, 0, word, env=env)
    return "two files, another's, and a clock that is far off either way"


def test_peer_clock(bin):
    """A clock that is 10 days ahead finds the other's short certificate expired: no link,
    one line, both stay up. With a pre-shared key no clock matters."""
    with certified(bin) as c:
        c.start(0, env=odd_machine(bin, KVRAIL_ODD_CLOCK_S=10 * DAY_S))
        c.start(1, *CERTIFIED_2)
        await_line(c, 0, "node 2 .*certificate expired .* by this clock: is it right")
        assert links(c, 0) == links(c, 1) == 0
        c.stop(0)
        c.start(0)
        c.wait_linked()
        c.stop(0)
        c.stop(1)
    with Cluster(bin, nr=2) as c:
        c.start(0, env=odd_machine(bin, KVRAIL_ODD_CLOCK_S=4000 * DAY_S))
        c.start(1)
        c.wait_linked()
        c.stop(0)
        c.stop(1)
    return "refused with certificates, none the wiser with a key"


# ---- other nodes


def stays_out(c, i, pattern, *sets):
    """Node i with these settings links to nobody, and says why in one line."""
    since = len(c.log(i))
    c.start(i, *sets)
    line = await_line(c, i, pattern, since)
    time.sleep(0.5)
    assert links(c, i) == 0
    assert links(c, 0) == 1, "the others are not as they were"
    c.stop(i)
    return line


def test_strange_nodes(bin):
    """Nodes that do not belong: each says why, or is told; the two that do go on."""
    with Cluster(bin) as c:
        c.start(0)
        c.start(1)
        c.wait_linked(1)
        c.run("keygen", "--psk", c.folder / "other.psk")
        stays_out(c, 2, "nodes of one have the same cluster.name", "cluster.name=other")
        stays_out(c, 2, "another pre-shared key: all nodes have one file",
                  "tls.psk=other.psk")
        line = stays_out(c, 2, "view_differs: .* raise cluster.epoch", "node.1.weight=7")
        assert " warn " in line, line
        (c.folder / "t8.hex").write_text("ab" * 32)
        (c.folder / "t8.hex").chmod(0o600)
        stays_out(c, 2, "tenant_secret: give each tenant the same secret",
                  "tenant.7.secret=file:t8.hex")
        # Twice node 1: the first goes on, the second hears that there is one.
        c.start(2, "cluster.node=1", f"listen.address=127.0.0.1:{c.ports[2]}")
        line = await_line(c, 2, "duplicate_node: .*another cluster.node")
        assert links(c, 2) == 0 and links(c, 0) == 1
        c.stop(2)
        c.start(2)
        c.wait_linked(2)
        # Twice node 3, which dials nobody: it hears nothing, and says so.
        c.stop(1)
        c.start(1, "cluster.node=3", f"listen.address=127.0.0.1:{c.ports[1]}",
                "link.redial=20ms")
        await_line(c, 1, "node 2 dials this one and has not come")
        line = await_line(c, 1, "node 1 dials this one and has not come")
        assert "is this the only process that is node 3?" in line, line
        assert links(c, 1) == 0 and links(c, 0) == 1
        c.stop(1)
        c.start(1)
        c.wait_linked(2)
        for i in range(3):
            c.stop(i)
    return "another cluster, key, view, secret, and a second of one id"


def test_other_version(bin):
    """A peer of a protocol to come is told VERSION, and its link ends with one line."""
    with Cluster(bin, nr=2, config=CONFIG.replace("psk = cluster.psk", "clear = yes")) as c:
        c.start(1)
        c.wait_linked(0)
        with socket.create_connection(("127.0.0.1", c.ports[1])) as s:
            s.settimeout(PATIENCE_S)
            hello = bytes((0x82, 0, 99, 1, 1))  # msgpack: {proto: 99, type: HELLO}
            s.sendall(b"kvl1" + struct.pack("<I", 1))
            s.sendall(struct.pack("<I", len(hello)) + hello)
            heard = b""
            while chunk := s.recv(4096):
                heard += chunk
        line = await_line(c, 1, "node 1 sent a bad message: version")
        assert heard.startswith(b"kvl1") and len(heard) > 12, heard
        assert links(c, 1) == 0
        c.stop(1)
    return line.split("link: ")[1]


# ---- limits of the process and the machine


def test_files(bin):
    """Too few descriptors for what the configuration asks: no start. Fewer than were
    there at start: who is there goes on, newcomers wait, and come when there are more."""
    with Cluster(bin, nr=1) as c:
        refused(c, 0, r"file descriptors: \d+ are wanted, the limit is 64: raise it .ulimit -n",
                code=1, prefix=limits("-n", "64"))
        c.start(0, prefix=limits("-Sn", "64"))  # the soft limit is no obstacle
        c.wait_linked(0)
        pid, since = c.nodes[0].pid, len(c.log(0))
        stays = client(bin, c, 0, "stay")
        if stays is None:
            return "refused at start; no libkvrail: the rest is skipped"
        assert stays.stdout.readline() == "served\n"
        was = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (c.fds(0), was[1]))
        late = client(bin, c, 0)
        await_line(c, 0, "accepting pauses: .*raise ulimit -n|no pidfd: Too many", since)
        assert stays.poll() is None
        resource.prlimit(pid, resource.RLIMIT_NOFILE, was)
        late.communicate(timeout=60)
        serves(bin, c, 0)
        stays.communicate("", timeout=60)
        c.stop(0)
    return "refused at start; survived while it runs"


def test_memory(bin):
    """No locked memory is needed. Address space: refused, naming the limit. Files that
    may not grow, so that no client's rings can be made: that client is refused."""
    with Cluster(bin, nr=1) as c:
        if not sanitizers(bin):
            refused(c, 0, "RLIMIT_AS .ulimit -v; systemd: LimitAS=.: raise it",
                    "pager.device_bytes=512MiB", code=1, prefix=limits("-v", "400000"))
        refused(c, 0, "make the pools smaller or raise that limit",
                "pager.device_bytes=60TiB", code=1)
        c.start(0, prefix=limits("-l", "0"))
        c.wait_linked(0)
        serves(bin, c, 0)
        pid, since = c.nodes[0].pid, len(c.log(0))
        was = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, was[1]))
        one = client(bin, c, 0)
        if one is not None:
            out, err = one.communicate(timeout=60)
            assert out == "" and "attach.ring_bytes" in err, (out, err)
        assert c.nodes[0].poll() is None, "SIGXFSZ"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, was)
        serves(bin, c, 0)
        c.stop(0)
    return "locked memory, address space" + (" (not under a sanitizer)" if sanitizers(bin)
                                             else "") + ", files' size"


def cause_lines(c, i):
    """Clients that talk nonsense: each is a line of the log."""
    for _ in range(16):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(c.socket(i)))
            s.settimeout(PATIENCE_S)
            s.recv(256)
            s.send(b"nonsense")
            assert s.recv(256) == b""
    time.sleep(0.3)  # a snapshot is published every 250 ms


def test_full_disk(bin):
    """No room for the log: lines are lost and counted, stderr has one line that says so,
    requests go on; with room again the log goes on and says how many are missing."""
    with Cluster(bin, nr=1) as c:
        disk = c.folder / "disk"
        disk.mkdir()
        mounted = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk],
            capture_output=True).returncode == 0
        try:
            if mounted:
                (disk / "ballast").write_bytes(bytes(4096))
            path = disk / "n.log" if mounted else pathlib.Path("/dev/full")
            c.start(0, f"log.file={path}", "log.level=debug")
            c.wait_linked(0)
            end = time.monotonic() + PATIENCE_S
            while metric(c.get(0, "/metrics"), "kvrail_log_lines_dropped_total") == 0:
                assert time.monotonic() < end, path.read_text()
                cause_lines(c, 0)
            serves(bin, c, 0)
            told = c.log(0)
            assert told.count("\n") == 1 and re.search(
                f"log: {path}: No space left on device: lines are lost", told), told
            if mounted:
                (disk / "ballast").unlink()
                cause_lines(c, 0)
                c.stop(0)
                text = path.read_text()
                assert re.search(r"\d+ lines dropped", text), text
            else:
                c.stop(0)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", disk], check=True)
    return "a tmpfs of 8 KiB" if mounted else "/dev/full; a tmpfs takes root: skipped"


# ---- process namespaces


def other_namespace():
    """Words before a program that give it a process namespace; None where that is not
    allowed."""
    words = ["unshare", "--pid", "--fork", "--kill-child"]
    done = subprocess.run([*words, "true"], capture_output=True)
    return words if done.returncode == 0 else None


def at_rest(c):
    end = time.monotonic() + PATIENCE_S
    while metric(c.get(0, "/metrics"), "kvrail_clients") > 0:
        assert time.monotonic() < end, "a client is not given up"
        time.sleep(0.1)


def test_namespaces(bin):
    """A client in a namespace below the node's is one like any; one that the node does
    not see is served, and its death known by its hang-up: the log says so."""
    words = other_namespace()
    if words is None:
        return "no namespaces here: skipped"
    with Cluster(bin, nr=1) as c:
        c.start(0)
        c.wait_linked(0)
        inside = client(bin, c, 0, "stay", prefix=words)
        if inside is None:
            return "no libkvrail: skipped"
        assert inside.stdout.readline() == "served\n", inside.stderr.read()
        assert "namespace" not in c.log(0)
        inside.kill()  # unshare; it takes the client with it
        inside.wait()
        at_rest(c)
        c.stop(0)
        c.start(0, prefix=words)
        c.wait_linked(0)
        outside = client(bin, c, 0, "stay")
        assert outside.stdout.readline() == "served\n", outside.stderr.read()
        await_line(c, 0, "process namespace that this node does not see: .*--pid=host")
        outside.kill()
        outside.wait()
        at_rest(c)
        serves(bin, c, 0)
        child = pathlib.Path(f"/proc/{c.nodes[0].pid}/task/{c.nodes[0].pid}/children")
        os.kill(int(child.read_text().split()[0]), 15)
        assert c.nodes[0].wait(PATIENCE_S) == 0
        c.nodes[0] = None
    return "below, and beside"


# ---- stop


def test_stop_waits_not_for_names(bin):
    """A resolver that keeps silent for minutes holds up a stop for its bound alone."""
    with Cluster(bin, nr=2) as c:
        c.start(0, "node.2.address=cache-2:7400",
                env=odd_machine(bin, KVRAIL_ODD_NAMES_S=300))
        c.wait_linked(0)
        time.sleep(1)
        began = time.monotonic()
        c.nodes[0].terminate()
        code = c.nodes[0].wait(30)
        took = time.monotonic() - began
        assert code == 1 and 8 < took < 20, (code, took)
        assert "stop is not over after 10 s" in c.log(0), c.log(0)
        assert not c.socket(0).exists()
        c.nodes[0] = None
    return f"{took:.0f} s"


def main():
    if sys.argv[1] == "--client":
        return be_client(*sys.argv[2:])
    return run_tests(globals(), sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
