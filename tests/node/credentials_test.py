"""Strangers at a node's doors: no credential, a wrong one, one of nobody here, one of
another tenant; and those that are slow on purpose. Nothing is done for them, nothing is
told to them, and the others do not notice.

    python3 tests/node/credentials_test.py BIN [TEST…]

What is said on a link or in a ring is tests/core/credential_test.c's and
tests/node/local_credential_test.c's.
"""

import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time

from nodes_kit import (CERTIFIED, CERTIFIED_2, PATIENCE_S, Cluster, await_line, client_env,
                       links, run_tests, same_descriptors)

sys.path.insert(0, "integrations/python")
HELLO = b"kvl1" + struct.pack("<I", 2)
DATA = b"kvd1" + struct.pack("<IIIQ", 1, 64, 0, 0)  # a header whose check is wrong


def heard(sock):
    """All that the node says until it hangs up; it must do so in time."""
    sock.settimeout(PATIENCE_S)
    got = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
        while chunk := sock.recv(4096):
            got += chunk
    return got


def dial(c, i):
    return socket.create_connection(("127.0.0.1", c.ports[i]), timeout=PATIENCE_S)


def keygen(c, folder, cluster, node):
    """Paths of an authority, of a certificate of that cluster and node, of its key."""
    if not (c.folder / folder).exists():
        c.run("keygen", "--ca", c.folder / folder)
    c.run("keygen", "--ca", c.folder / folder, "--cluster", cluster, "--node", node)
    stem = c.folder / folder / f"node-{node}"
    return c.folder / folder / "ca.pem", f"{stem}.pem", f"{stem}.key"


def tls(c, i, credential=None, newest=ssl.TLSVersion.TLSv1_3):
    """What a node says inside TLS to one with that certificate, who speaks first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    if credential is not None:
        context.load_cert_chain(*credential[1:])
    with dial(c, i) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=f"node-{i + 1}.kvrail") as s:
                s.sendall(HELLO)
                return heard(s)
        except (ssl.SSLError, ConnectionResetError):
            return b""


def test_port(bin):
    """The port of links and data: who is not of the cluster hears not one byte."""
    with Cluster(bin, nr=2, config=CERTIFIED) as c:
        for node in (1, 2):
            keygen(c, "pki", "c1", node)
        c.start(0)
        c.start(1, *CERTIFIED_2)
        c.wait_linked()
        before = [c.fds(i) for i in range(2)]
        for words in (b"GET / HTTP/1.0\r\n\r\n", HELLO, DATA + bytes(64), b"\0" * 64):
            with dial(c, 0) as s:
                s.sendall(words)
                assert heard(s) == b"", words
        since = len(c.log(0))
        for credential, newest, line in (
                (None, ssl.TLSVersion.TLSv1_3, "the peer has no certificate"),
                (keygen(c, "other", "c1", 2), ssl.TLSVersion.TLSv1_3, "not of our authority"),
                (keygen(c, "pki", "c2", 4), ssl.TLSVersion.TLSv1_3, "of another cluster"),
                (keygen(c, "pki", "c1", 9), ssl.TLSVersion.TLSv1_3, "node 9 is not in the view"),
                (keygen(c, "pki", "c1", 5), ssl.TLSVersion.TLSv1_2, "does not speak TLS 1.3")):
            assert tls(c, 0, credential, newest) == b"", line
            await_line(c, 0, line, since)
            since = len(c.log(0))
        assert links(c, 0) == links(c, 1) == 1
        same_descriptors(c, before)
        for i in range(2):
            c.stop(i)
    return "clear words, and TLS with no, foreign and nobody's certificates"


def as_user(env, uid, gid, target, *tenants):
    """What a process of that user and group is told when it opens these tenants."""
    script = (
        "import os, sys; sys.path.insert(0, 'integrations/python'); import kvrail\n"
        "uid, gid = map(int, sys.argv[2:4])\n"
        "os.setgroups([]), os.setgid(gid), os.setuid(uid)\n"
        "for tenant in sys.argv[4:]:\n"
        "    try:\n        kvrail.Client(sys.argv[1], int(tenant)); print('open')\n"
        "    except kvrail.Error as e:\n        print(e)\n")
    done = subprocess.run(
        [sys.executable, "-c", script, target, *map(str, (uid, gid, *tenants))],
        text=True, capture_output=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_socket_of_another_user(bin):
    """The clients' socket is closed to other users; to one of its group it is open, and a
    tenant that is not his looks like one that is not there."""
    env, uid, gid = client_env(bin), 54321, 54322
    if os.geteuid() != 0 or env is None:
        return "takes root, and libkvrail: skipped"
    with Cluster(bin, nr=1) as c:
        c.folder.chmod(0o711)
        c.start(0)
        c.wait_linked(0)
        target = f"unix:{c.socket(0)}"
        told = as_user(env, uid, gid, target, 7, 8)
        assert told[0] == told[1] and "open" not in told, told
        c.stop(0)
        c.start(0, "listen.unix_mode=0660", f"listen.unix_group={gid}")
        c.wait_linked(0)
        told = as_user(env, uid, gid, target, 7, 8)
        assert told[0] == told[1] and "denied" in told[0], told
        assert "open" not in as_user(env, uid, gid + 1, target, 7)
        c.stop(0)
        c.start(0, "listen.unix_mode=0660", f"listen.unix_group={gid}",
                f"tenant.7.uids={uid}")
        c.wait_linked(0)
        told = as_user(env, uid, gid, target, 7, 8)
        assert told[0] == "open" and "denied" in told[1], told
        c.stop(0)
    return told[1]


SLOW, DRIP_S = 24, 0.1


def test_slow_strangers(bin):
    """Connections that say nothing, or a byte now and then, at every door: the requests of
    others are all served meanwhile, and after their time the slow ones are gone."""
    with Cluster(bin, nr=2) as c:
        for i in range(2):
            c.start(i, "listen.handshake=2s")
        c.wait_linked()
        quick = c.drive("--workload", "chats", "--pages", "200")
        before = [c.fds(i) for i in range(2)]
        slow = []
        for n in range(SLOW):
            door = dial(c, 0)
            door.sendall((b"", DATA[:4], b"\x16\x03\x01")[n % 3])
            slow.append(door)
            door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            door.connect(str(c.socket(0)))
            slow.append(door)
        for door in slow:
            door.setblocking(False)
        driver = subprocess.Popen(
            c.drive_args("--workload", "chats", "--pages", "200"), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while driver.poll() is None:
            for door in slow[::2]:
                with contextlib.suppress(OSError):
                    door.send(b"\0")
            time.sleep(DRIP_S)
        out, err = driver.communicate()
        assert driver.returncode == 0, err
        r = json.loads(out)
        assert r["wrong_bytes"] == 0 and r["unserved"] == 0, r
        assert r["requests"] == quick["requests"]
        assert links(c, 0) == 1
        same_descriptors(c, before)  # while the strangers still hold their ends
        for door in slow:
            door.close()
        for i in range(2):
            c.stop(i)
    return f"{len(slow)} slow ones"


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1], sys.argv[2:]))
