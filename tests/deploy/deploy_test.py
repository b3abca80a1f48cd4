"""What deploy/ holds works, as far as it can be tried without systemd and without hosts.

    python3 tests/deploy/deploy_test.py BIN     BIN has kvrail and kvraild

The unit is one that systemd would load; the configuration of three hosts is right for each
of them, and three nodes link with it; three-nodes.sh leaves nothing behind however it ends.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "node"))
from nodes_kit import Cluster, run_tests  # noqa: E402

DEPLOY = pathlib.Path("deploy")
WAIT_S, RUN_S = 60, 300


def run(*args, **more):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True,
                          timeout=RUN_S, **more)


def test_scripts(bin):
    """shellcheck has nothing to say; skipped where it is not."""
    if not shutil.which("shellcheck"):
        return "skipped: shellcheck is not there"
    scripts = [*DEPLOY.glob("*.sh"), pathlib.Path("tests/nodes_matrix.sh")]
    done = run("shellcheck", "-x", *scripts)
    assert done.returncode == 0, done.stdout
    return f"{len(scripts)} scripts"


def test_unit(bin):
    """systemd-analyze takes the unit as it stands, but for the path of the program: the one
    in the unit is where an operator installs it, here it is what was built."""
    text = (DEPLOY / "kvraild.service").read_text()
    installed = "/usr/local/bin/kvraild"
    assert text.count(f"ExecStart={installed} --config") == 1
    assert "Type=notify" in text and "ExecReload=/bin/kill -HUP $MAINPID" in text
    if not shutil.which("systemd-analyze"):
        return "skipped: systemd-analyze is not there"
    with tempfile.TemporaryDirectory() as folder:
        unit = pathlib.Path(folder) / "kvraild.service"
        built = str((bin / "kvraild").resolve())
        unit.write_text(text.replace(f"ExecStart={installed}", f"ExecStart={built}"))
        done = run("systemd-analyze", "verify", unit)
        said = [l for l in (done.stdout + done.stderr).splitlines() if "kvraild" in l]
        assert done.returncode == 0 and not said, done.stdout + done.stderr
        # A wrong key must be seen, or the above means nothing.
        unit.write_text(unit.read_text().replace("LimitMEMLOCK=", "LimitMEMLOK="))
        done = run("systemd-analyze", "verify", unit)
        assert "LimitMEMLOK" in done.stdout + done.stderr, "verify sees nothing"
    return "systemd-analyze verify"


def test_syscalls(bin):
    """A node with clients calls nothing that the unit's filter refuses. Skipped without
    strace and systemd-analyze."""
    if not shutil.which("strace") or not shutil.which("systemd-analyze"):
        return "skipped: strace or systemd-analyze is not there"
    if b"__asan_init" in (bin / "kvraild").read_bytes():
        return "skipped: a sanitizer calls more than the program, and cannot be traced"
    allowed = filter_set("@system-service") - filter_set("@privileged")
    with Cluster(bin, nr=2) as c, tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "strace"
        wrapper = pathlib.Path(folder) / "kvraild"
        wrapper.write_text(f'#!/bin/sh\nexec strace -f -qq -D -o {log} {bin}/kvraild "$@"\n')
        wrapper.chmod(0o755)
        c.bin = pathlib.Path(folder)
        c.start(0)
        c.bin = bin
        c.start(1)
        c.wait_linked()
        c.drive("--workload", "chats")
        for i in range(2):
            c.stop(i)
        for _ in range(50):  # the tracer writes what is left once its child has ended
            if "+++ exited with 0" in log.read_text():
                break
            time.sleep(0.1)
        called = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.M))
    assert {"memfd_create", "pidfd_open", "sendmsg"} <= called, called
    assert called <= allowed, f"the unit refuses {called - allowed}"
    return f"{len(called)} system calls"


def filter_set(name):
    """The calls of a set, with the sets that it names."""
    done = run("systemd-analyze", "syscall-filter", name)
    calls = set()
    for word in re.findall(r"^    ([@\w-]+)$", done.stdout, re.M):
        calls |= filter_set(word) if word.startswith("@") else {word}
    return calls


def test_three_hosts(bin):
    """The configuration with credentials made as its README says is right for each node,
    not for a fourth; with loopback addresses and small pools three nodes link by their
    certificates and serve each other."""
    with Cluster(bin) as c:
        ca = c.folder / "ca"
        c.run("keygen", "--ca", ca)
        hosts = []
        for tenant in (7, 8):
            c.run("keygen", "--secret", c.folder / f"tenant-{tenant}.hex")
        for node in (1, 2, 3):
            c.run("keygen", "--ca", ca, "--cluster", "prod", "--node", node)
            host = c.folder / f"host-{node}"
            host.mkdir()
            hosts.append(host / "kvrail.conf")
            for file in (DEPLOY / "three-hosts/kvrail.conf", ca / "ca.pem",
                         c.folder / "tenant-7.hex", c.folder / "tenant-8.hex"):
                shutil.copy(file, host)
            for end in ("pem", "key"):
                shutil.copy(ca / f"node-{node}.{end}", host / f"node.{end}")
            done = run(bin / "kvraild", "--config", hosts[-1], "--check-config",
                       env={**os.environ, "KVRAIL_CLUSTER_NODE": str(node)})
            assert (done.returncode, done.stdout) == (0, f"{hosts[-1]}: ok\n"), done.stderr
        done = run(bin / "kvraild", "--config", hosts[0], "--check-config",
                   "--set", "cluster.node=4")
        assert done.returncode == 2 and 'no [node "4"]' in done.stderr, done.stderr

        sets = [f"node.{i + 1}.address=127.0.0.1:{p}" for i, p in enumerate(c.ports)]
        sets += ["pager.device_bytes=5MiB", "pager.host_bytes=0", "tenant.7.uids=",
                 "tenant.8.device_bytes=1MiB", "tenant.8.host_bytes=0",
                 "space.chat.page_bytes=16KiB", "space.chat.page_tokens=512"]
        for i in range(3):
            c.config = hosts[i]
            c.start(i, *sets)
        c.wait_linked()
        r = c.drive("--workload", "chats")
        assert r["wrong_bytes"] == 0 and r["hits"]["peer"] > 0, r
        for i in range(3):
            c.stop(i)
    return f"three certificates, hit rate {r['hit_rate']:.3f}"


class ThreeNodes:
    """A run of three-nodes.sh in a temporary folder of its own."""

    def __init__(self, bin, *args):
        self.folder = tempfile.mkdtemp(prefix="kvrail-deploy-")
        self.json = self.folder + ".json"
        env = {**os.environ, "TMPDIR": self.folder, "KVRAIL_BIN": str(bin)}
        # A shell cannot trap what was ignored when it began.
        self.process = subprocess.Popen(
            ["sh", "deploy/three-nodes.sh", "--json", self.json, *args], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def processes(self, name):
        """Ids of those that have our folder on their command line."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if self.folder.encode() in words and name in words.split(b"\0")[0]:
                found.append(int(path.parent.name))
        return found

    def wait_driven(self):
        end = time.monotonic() + WAIT_S
        while len(self.processes(b"kvraild")) < 3 or not any(
                b"\0drive\0" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()
                for p in self.processes(b"kvrail")):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end, "the driver does not start"
            time.sleep(0.05)

    def end(self):
        """Its exit status and what it said; nothing is left."""
        out, err = self.process.communicate(timeout=RUN_S)
        left = self.processes(b"kvrail")
        files = os.listdir(self.folder)
        shutil.rmtree(self.folder)
        assert not left and not files, (left, files)
        return self.process.returncode, out, err


def test_three_nodes(bin):
    """A table, JSON, 0; and it refuses what it does not know with 2."""
    for level in ("object", "pager"):
        three = ThreeNodes(bin, "--page-bytes", "4KiB", "--level", level)
        code, out, err = three.end()
        assert code == 0, err
        r = json.loads(pathlib.Path(three.json).read_text())
        os.unlink(three.json)
        assert re.search(r"wrong bytes +0\n", out) and r["page_bytes"] == 4096, out
        assert r["level"] == level and r["hits"]["peer"] > 0, r
        assert r["wrong_bytes"] == 0 and r["unserved"] == 0, r
        assert r["hit_rate"] > 0.8 * r["hit_rate_pooled"], r
    for wrong in (["--no-such-option"], ["--pages", "many"], ["--pages", "2"], ["--pages"],
                  ["--page-bytes", "100"], ["--page-bytes", "1GiB"], ["--balance", "odd"],
                  ["--level", "deep"], ["--transport", "ip"],
                  ["--trace", "/nowhere/at/all"],
                  ["--compute-us", "-1"]):
        code, out, err = ThreeNodes(bin, *wrong).end()
        assert code == 2 and "usage:" in err, (wrong, code, err)
    return f"hit rate {r['hit_rate']:.3f} of {r['hit_rate_pooled']:.3f}"


def test_three_nodes_interrupted(bin):
    """SIGTERM to the script alone, and Ctrl-C to all of it: everything goes away."""
    for number, everybody in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        three = ThreeNodes(bin, "--compute-us", "200000")
        three.wait_driven()
        (os.killpg if everybody else os.kill)(three.process.pid, number)
        code, _, err = three.end()
        assert code == 128 + number, (code, err)
    return "SIGTERM, SIGINT"


def test_three_nodes_fails(bin):
    """A node that dies under it, before the driver has attached or after: 1, what the nodes
    said last, and nothing is left."""
    three = ThreeNodes(bin, "--compute-us", "2000")
    three.wait_driven()
    os.kill(three.processes(b"kvraild")[0], signal.SIGKILL)
    code, _, err = three.end()
    pathlib.Path(three.json).unlink(missing_ok=True)
    assert code == 1 and "--- node-" in err, (code, err)
    assert re.search(r"a node ended with 137|drive ended with [12]", err), err
    return "a node was killed"


if __name__ == "__main__":
    sys.exit(run_tests(globals(), pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]))
