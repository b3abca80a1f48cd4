"""Three nodes of one cluster as processes of this machine, for tests: ports that the
system picks, credentials made on the spot, everything in a folder that goes away.

    with Cluster(bin, pages) as c:  c.start(1) … c.drive("--workload", "chats")
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback
import urllib.request

CONFIG = """[cluster]
name = test
[tls]
psk = cluster.psk
{nodes}
[pager]
device_bytes = {bytes}
host_bytes = 0
[space "chat"]
model = m
revision = r
page_tokens = 512
page_bytes = 16KiB
[tenant "7"]
secret = file:t7.hex
[log]
level = info
"""
# … where the engines of tenant 7 fill the node's memory in place.
FILL_CONFIG = CONFIG.replace("secret = file:t7.hex\n", """secret = file:t7.hex
domain = own
fill = yes
device_bytes = {bytes}
""")
# … whose nodes know each other by certificates: node 1's; CERTIFIED_2 are the --set's
# of node 2.
CERTIFIED = CONFIG.replace("psk = cluster.psk", """ca = pki/ca.pem
cert = pki/node-1.pem
key = pki/node-1.key""").replace("name = test", "name = c1")
CERTIFIED_2 = ("tls.cert=pki/node-2.pem", "tls.key=pki/node-2.key")
START_S, STOP_S, DRIVE_S, PATIENCE_S = 30, 20, 600, 20
SANITIZER = "Sanitizer: "  # "WARNING: ThreadSanitizer: data race …", "ERROR: …"
TRANSPORTS = {"tcp": "named", "shm": "both"}  # as link.transports has it


def free_ports(n):
    """Different ports; another program may take one before a node does: rare."""
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def metric(text, name):
    """Of /metrics: the sum over all labels."""
    return sum(float(m) for m in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


def sanitizers(binaries):
    """The runtimes that the programs were built with, for LD_PRELOAD of others."""
    used = subprocess.run(["ldd", pathlib.Path(binaries) / "kvraild"], text=True,
                          capture_output=True).stdout
    return re.findall(r"=> (\S*/lib[at]san\.so\S*)", used)


def client_env(bin):
    """For a Python client; None without the library."""
    found = sorted(pathlib.Path(bin).resolve().parent.rglob("libkvrail.so*"))
    return dict(os.environ, KVRAIL_LIBRARY=str(found[0]), LD_PRELOAD=":".join(sanitizers(bin)),
                ASAN_OPTIONS="detect_leaks=0", TSAN_OPTIONS="report_bugs=0") if found else None


class Cluster:
    def __init__(self, binaries, pages=1000, nr=3, config=CONFIG, transport="shm"):
        """All nodes are near: they read each other by shm unless that is forbidden."""
        self.bin, self.nr, self.transport = pathlib.Path(binaries), nr, transport
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvrail-"))
        self.ports, self.http = free_ports(nr), free_ports(nr)
        self.nodes, self.logs, self.pages = [None] * nr, [], pages
        self.target = None  # how drive() reaches node i, if not by its socket
        self.run("keygen", "--psk", self.folder / "cluster.psk")
        self.run("keygen", "--secret", self.folder / "t7.hex")
        nodes = "\n".join(
            f'[node "{i + 1}"]\naddress = 127.0.0.1:{p}' for i, p in enumerate(self.ports))
        self.config = self.folder / "test.conf"
        self.config.write_text(config.format(nodes=nodes, bytes=pages // nr * 16384))

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        for node in self.nodes:
            if node is not None and node.poll() is None:
                node.send_signal(signal.SIGCONT)
                node.kill()
                node.wait()
        logs = [self.folder / f"n{i}.log" for i in range(self.nr)]
        texts = [log.read_text() if log.exists() else "" for log in logs]
        if kind is not None:
            for i, text in enumerate(texts):
                print(f"--- node {i + 1}\n" + text[-3000:])
        shutil.rmtree(self.folder, ignore_errors=True)
        for i, text in enumerate(texts):  # also of nodes that were killed later
            found = text.find(SANITIZER)
            assert found < 0, f"node {i + 1}:\n" + text[max(found - 80, 0):][:6000]

    def run(self, *args):
        return subprocess.run([self.bin / "kvrail", *map(str, args)], check=True,
                              capture_output=True, text=True, timeout=DRIVE_S).stdout

    def socket(self, i):
        return self.folder / f"n{i}.sock"

    def peers_socket(self, i):
        return self.folder / f"n{i}.sock.peers"

    def start(self, i, *sets, prefix=(), env=None):
        """`prefix`: words before the program's, such as those of unshare or prlimit."""
        log = open(self.folder / f"n{i}.log", "a")
        args = [*prefix, self.bin / "kvraild", "--config", self.config]
        for s in (f"cluster.node={i + 1}", f"listen.unix={self.socket(i)}",
                  f"listen.http=127.0.0.1:{self.http[i]}",
                  f"link.transports={TRANSPORTS[self.transport]}", *sets):
            args += ["--set", s]
        self.nodes[i] = subprocess.Popen(args, stdout=log, stderr=log, env=env)
        log.close()

    def log(self, i, since=0):
        path = self.folder / f"n{i}.log"
        return path.read_text()[since:] if path.exists() else ""

    def get(self, i, path):
        url = f"http://127.0.0.1:{self.http[i]}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    def wait_linked(self, up=None):
        """Until every living node sees `up` others."""
        end = time.monotonic() + START_S
        for i in range(self.nr):
            while self.nodes[i] is not None and self.nodes[i].poll() is None:
                try:
                    if json.loads(self.get(i, "/healthz"))["links_up"] >= (
                            self.nr - 1 if up is None else up):
                        break
                except (OSError, KeyError, ValueError):
                    pass
                assert time.monotonic() < end, f"node {i + 1} is not linked in time"
                time.sleep(0.05)

    def drive_args(self, *args, nr=None):
        """Through the first `nr` nodes; through all."""
        out = [self.bin / "kvrail", "drive", "--json", "--pages", str(self.pages)]
        for i in range(self.nr if nr is None else nr):
            out += ["--node", self.target(i) if self.target else str(self.socket(i))]
        return [*map(str, out), *map(str, args)]

    def drive(self, *args, nr=None):
        done = subprocess.run(self.drive_args(*args, nr=nr), capture_output=True,
                              text=True, timeout=DRIVE_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, i):
        """SIGTERM; the node ends by itself, with 0 and nothing left behind."""
        self.nodes[i].send_signal(signal.SIGTERM)
        assert self.nodes[i].wait(STOP_S) == 0, f"node {i + 1} ended badly"
        for socket in (self.socket(i), self.peers_socket(i)):
            assert not socket.exists(), f"{socket.name} is left behind"
        self.nodes[i] = None

    def fds(self, i):
        return len(os.listdir(f"/proc/{self.nodes[i].pid}/fd"))

    def rss_mib(self, i):
        """What is resident of a node now; page memory that was touched is in it."""
        text = pathlib.Path(f"/proc/{self.nodes[i].pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def kill(self, i):
        self.nodes[i].kill()
        self.nodes[i].wait()
        self.nodes[i] = None


def await_line(c, i, pattern, since=0):
    """The line of node i's log that matches; it comes soon."""
    end = time.monotonic() + PATIENCE_S
    while not (found := re.search(f"^.*(?:{pattern}).*$", c.log(i, since), re.M)):
        assert time.monotonic() < end, f"{pattern!r} is not in:\n{c.log(i, since)}"
        assert c.nodes[i].poll() is None, "the node is gone:\n" + c.log(i, since)
        time.sleep(0.05)
    return found[0]


def links(c, i):
    return json.loads(c.get(i, "/healthz"))["links_up"]


def same_descriptors(c, before):
    """Connections that have ended are closed soon, not at once."""
    end = time.monotonic() + 10
    while any(c.fds(i) > n for i, n in enumerate(before)):
        assert time.monotonic() < end, (before, [c.fds(i) for i in range(len(before))])
        time.sleep(0.1)


def refused(c, i, pattern, *sets, code=2, prefix=(), env=None):
    """The start ends with that exit status, one line, and nothing left behind."""
    before = len(c.log(i))
    c.start(i, *sets, prefix=prefix, env=env)
    ended = c.nodes[i].wait(START_S)
    log = c.log(i, before)
    assert log.count("\n") == 1, f"not one line:\n{log}"
    assert ended == code, (ended, log)
    assert re.search(pattern, log), f"{pattern!r} is not in:\n{log}"
    assert not c.socket(i).exists(), "the socket is left behind"
    c.nodes[i] = None


def run_tests(names, binaries, only):
    """Each function test_… of `names`, or those of `only`; 1 when one failed."""
    failed = 0
    for name, test in sorted(names.items()):
        if not name.startswith("test_") or (only and name[5:] not in only):
            continue
        start = time.monotonic()
        try:
            result = test(binaries)
        except Exception:  # pylint: disable=broad-except
            traceback.print_exc()
            result, failed = "FAILED", 1
        print(f"{name}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    return failed
