"""Three Python processes, each with a node in it, are a cluster over TLS: what one puts the
others get, every byte checked; and one that dies costs hits, never bytes. Then three nodes in
one process (kvrail drive).

    python3 tests/node/embed_test.py BIN     BIN has kvrail; KVRAIL_LIBRARY names libkvrail.so

One configuration serves all three: which node a process is, and by which certificate, the
environment says. A process ("--engine FILE") takes lines on its standard input and answers
with one each.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from nodes_kit import free_ports

sys.path.insert(0, "integrations/python")

NODES, PAGES, TENANT, WAIT_S = 3, 64, 7, 60
CONFIG = """[cluster]
name = test
{cluster}
[tls]
ca = ca.pem
{tls}
{nodes}
[pager]
device_bytes = 8MiB
host_bytes = 0
[space "chat"]
model = m
page_tokens = 512
page_bytes = 16KiB
[tenant "7"]
secret = file:t7.hex
[log]
level = info
{log}
"""


def content(node, page, size):
    """Bytes that only this page of this node has, and that anybody can make."""
    return hashlib.shake_128(f"{node} {page}".encode()).digest(size)


# ---------------------------------------------------------------------- an engine

class Engine:
    def __init__(self, target):
        import kvrail
        self.kvrail, self.target = kvrail, target
        self.client = kvrail.Client(target, tenant=TENANT)
        self.space = self.client.space("chat")

    def keys(self, node):
        return [self.space.opaque(f"{node} {page}".encode()) for page in range(PAGES)]

    def put(self, node):
        """Its own pages."""
        size = self.space.page_bytes
        buffer = self.client.buffer(PAGES * size)
        for page in range(PAGES):
            buffer.view[page * size:(page + 1) * size] = content(node, page, size)
        result = self.client.put(self.space, self.keys(node), buffer, loose=True)
        buffer.close()
        return {"put": sum(s == self.kvrail.OK for s in result.statuses)}

    def get(self, node, client=None):
        """That node's pages: hits by place, and how many hits have other bytes."""
        client, size = client or self.client, self.space.page_bytes
        buffer = client.buffer(PAGES * size)
        result = client.get(self.space, self.keys(node), buffer, loose=True)
        said = {"hits": 0, "wrong": 0, "peer": 0}
        for page, status in enumerate(result.statuses):
            if status == self.kvrail.OK:
                bytes_ = bytes(buffer.view[page * size:(page + 1) * size])
                said["hits"] += 1
                said["wrong"] += bytes_ != content(node, page, size)
                said["peer"] += result.places[page] == "peer"
        buffer.close()
        return said

    def crowd(self, node):
        """Threads with a client each, of the one node that the process has."""
        said = []

        def one():
            with self.kvrail.Client(self.target, tenant=TENANT) as client:
                said.append(self.get(node, client))

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {key: sum(s[key] for s in said) for key in said[0]}

    def close(self, node):
        self.client.close()
        return {"threads": len(os.listdir("/proc/self/task"))}


def engine(config):
    engine = Engine(f"embed:{config}")
    print(json.dumps({"open": 1}), flush=True)
    for line in sys.stdin:
        word, node = line.split()
        print(json.dumps(getattr(engine, word)(int(node))), flush=True)


# ---------------------------------------------------------------------- the test

class Process:
    def __init__(self, folder, node):
        env = dict(os.environ, KVRAIL_CLUSTER_NODE=str(node),
                   KVRAIL_TLS_CERT=f"node-{node}.pem", KVRAIL_TLS_KEY=f"node-{node}.key",
                   KVRAIL_LOG_FILE=f"n{node}.log")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--engine", folder / "test.conf"], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answer(self):
        line = self.process.stdout.readline()
        assert line, "an engine has ended"
        return json.loads(line)

    def do(self, word, node):
        self.process.stdin.write(f"{word} {node}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        """Its standard input ends, and so does it: 0, whether it closed its client or not."""
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0, "an engine ended badly"


def await_hits(process, node):
    """Until all pages of that node are found; a wrong byte is the end at once."""
    end = time.monotonic() + WAIT_S
    while True:
        said = process.do("get", node)
        assert said["wrong"] == 0, said
        if said["hits"] == PAGES:
            return said
        assert time.monotonic() < end, said
        time.sleep(0.05)


def credentials(run, folder):
    run("keygen", "--ca", folder)
    for node in range(1, NODES + 1):
        run("keygen", "--ca", folder, "--cluster", "test", "--node", node)
    run("keygen", "--secret", folder / "t7.hex")


def config_write(folder, name, ports, **words):
    nodes = "\n".join(f'[node "{i + 1}"]\naddress = 127.0.0.1:{port}'
                      for i, port in enumerate(ports))
    whole = dict({"cluster": "", "tls": "", "log": ""}, nodes=nodes, **words)
    (folder / name).write_text(CONFIG.format(**whole))


def drive(run, folder):
    """Chats through three nodes of one process: they share, and not one byte is wrong."""
    ports, targets = free_ports(NODES), []
    for node in range(1, NODES + 1):
        config_write(folder, f"drive{node}.conf", ports, cluster=f"node = {node}",
                     tls=f"cert = node-{node}.pem\nkey = node-{node}.key",
                     log="file = drive.log")
        targets += ["--node", f"embed:{folder}/drive{node}.conf"]
    said = json.loads(run("drive", "--json", "--workload", "chats", *targets).stdout)
    assert said["wrong_bytes"] == 0 and said["hits"]["peer"] > 0, said
    assert (folder / "drive.log").read_text().count(" stops") == NODES
    return f"three nodes in one process: {said['hits']['peer']} hits at peers"


def cluster(run, folder):
    config_write(folder, "test.conf", free_ports(NODES))
    all = [Process(folder, node) for node in range(1, NODES + 1)]
    try:
        first, second, third = all
        for process in all:
            process.answer()
        assert first.do("put", 1) == {"put": PAGES}
        brought = [await_hits(process, 1) for process in (second, third)]
        assert third.do("put", 3) == {"put": PAGES}
        assert second.do("crowd", 1) == {"hits": 4 * PAGES, "wrong": 0, "peer": 0}
        first.process.kill()
        first.process.wait()
        # The third kept its copies of what the first had; its own are read by the second.
        await_hits(third, 1)
        await_hits(second, 3)
        assert second.do("close", 0)["threads"] <= 1 + 4  # libuv keeps its own, if any
        second.end()
        third.end()  # with its client open
    finally:
        for process in all:
            process.process.kill()
            process.process.wait()
    logs = [(folder / f"n{node}.log").read_text() for node in (2, 3)]
    assert all_stopped(logs), logs
    return f"{sum(b['peer'] for b in brought)} pages came from a peer, by TLS links"


def all_stopped(logs):
    return all("stops" in log and "a bug" not in log for log in logs)


def main(binaries):
    with tempfile.TemporaryDirectory(prefix="kvrail-embed-") as name:
        folder = pathlib.Path(name)
        run = lambda *args: subprocess.run(  # noqa: E731
            [pathlib.Path(binaries) / "kvrail", *map(str, args)], check=True,
            capture_output=True, text=True, timeout=10 * WAIT_S)
        try:
            credentials(run, folder)
            print(cluster(run, folder))
            print(drive(run, folder))
        except BaseException as error:
            print(getattr(error, "stderr", ""))
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
            raise


if __name__ == "__main__":
    if sys.argv[1] == "--engine":
        engine(sys.argv[2])
    else:
        main(sys.argv[1])
