"""Three nodes and eight clients for as long as asked, every byte of every hit checked,
while nodes and clients are killed (kill -9) and stopped (SIGSTOP) by a seeded schedule.

    python3 tests/node/soak.py BIN [--seconds N] [--seed S] [--json FILE]

Fails when a byte was wrong, a result or a call came later than its deadline and the
longest pause allow, a process ended by itself, something of a client is left in a node at
the end, or a node grows.

Whether a node grows: node 3 lives from start to end (it is paused, never killed; its
peers and clients are), and all its page memory is touched at start. Every second its
resident memory, descriptors and threads are taken, but while it stands still. Of these
the median of the last quarter is compared with that of the second one, so that neither
the start nor a moment with one connection more decides. Allowed are RSS_MIB (not
judged under a sanitizer, which keeps freed memory), FDS and THREADS; and descriptors and
threads are again what they were before the first client, once the last is gone.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

from nodes_kit import CONFIG, Cluster, metric, sanitizers

CLIENTS, EVERY_S = 8, 5
DOWN_S, STILL_S = 1.0, (1.0, 4.0)  # of a killed node; of a stopped process, from to
SLACK_MS = 8000  # the longest pause twice: a client's can fall into its node's
RSS_MIB, FDS, THREADS = 8, 4, 0
PAGES = 1500
SETTLE_S = 30


class Client:
    """A soak_client, started again when it was killed; counts of all its lives."""

    def __init__(self, binaries, cluster, number, seed):
        self.program = pathlib.Path(binaries) / "soak_client"
        self.target = f"unix:{cluster.socket(number % 3)}"
        self.seed, self.lives, self.last = seed * 1000 + number, 0, None
        self.former, self.errors = [], []
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, self.target, str(self.seed + 100 * self.lives), str(SLACK_MS)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lives += 1
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        for line in self.process.stdout:
            if line.endswith("}}\n"):  # whole: the client was not killed in it
                self.last = json.loads(line)

    def end(self, number):
        """By this signal; its words of this life are kept."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.thread.join(30)
        if code != (-signal.SIGKILL if number == signal.SIGKILL else 0):
            self.errors.append(f"a client ended with {code}: {self.process.stderr.read()}")
        if self.last is not None:
            self.former.append(self.last)
        self.last = None
        self.process.stdout.close()
        self.process.stderr.close()

    def words(self):
        return self.former + ([self.last] if self.last is not None else [])


class Soak:
    def __init__(self, binaries, cluster, seed):
        self.bin, self.c, self.draw = binaries, cluster, random.Random(seed)
        self.seed, self.clients = seed, []
        self.samples = [[] for _ in range(3)]  # of each node: (s, MiB, fds, threads)
        self.still, self.done = set(), collections.Counter()
        self.began = time.monotonic()

    def start(self):
        for i in range(3):
            self.c.start(i, "data.populate=yes", "listen.handshake=2s", "log.level=warn")
        self.c.wait_linked()
        time.sleep(1)
        self.rest = [self.sample(i)[2:] for i in range(3)]
        self.clients = [Client(self.bin, self.c, n, self.seed) for n in range(CLIENTS)]

    def sample(self, i):
        threads = int(next(
            line.split()[1] for line in pathlib.Path(
                f"/proc/{self.c.nodes[i].pid}/status").read_text().splitlines()
            if line.startswith("Threads:")))
        return (round(time.monotonic() - self.began, 1), round(self.c.rss_mib(i), 1),
                self.c.fds(i), threads)

    def wait(self, seconds):
        """With a sample of every node that runs each second; nobody may end by himself."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1, left))
            for i, node in enumerate(self.c.nodes):
                if node is not None and i not in self.still:
                    assert node.poll() is None, f"node {i + 1} ended: {node.returncode}"
                    self.samples[i].append(self.sample(i))
            for n, client in enumerate(self.clients):
                assert client.process.poll() is None, f"client {n}: {client.process.stderr.read()}"

    def disturb(self):
        """One thing that goes wrong, and is mended within EVERY_S."""
        what = self.draw.choice(("kill node", "stop node", "kill client", "stop client"))
        self.done[what] += 1
        if what == "kill node":
            i = self.draw.randrange(2)  # node 3 is the one that is watched for growth
            self.c.kill(i)
            self.wait(DOWN_S)
            self.c.start(i, "data.populate=yes", "listen.handshake=2s", "log.level=warn")
            return DOWN_S
        if what == "kill client":
            client = self.draw.choice(self.clients)
            client.end(signal.SIGKILL)
            client.start()
            return 0
        seconds, i = self.draw.uniform(*STILL_S), self.draw.randrange(3)
        process = self.c.nodes[i]
        if what == "stop node":
            self.still.add(i)
        else:
            process = self.draw.choice(self.clients).process
        process.send_signal(signal.SIGSTOP)
        self.wait(seconds)
        process.send_signal(signal.SIGCONT)
        self.still.clear()
        return seconds

    def run(self, seconds):
        end = self.began + seconds
        while (left := end - time.monotonic()) > 0:
            self.wait(min(left, EVERY_S - (self.disturb() if left > 2 * EVERY_S else 0)))

    def finish(self):
        """Clients go; what they had is given back, and the nodes end by themselves."""
        for client in self.clients:
            client.end(signal.SIGTERM)
        self.c.wait_linked()
        left = None
        end = time.monotonic() + SETTLE_S
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(1)
        for i in range(3):
            self.c.stop(i)
        return left

    def left(self):
        """What is not as it was before the first client."""
        wrong = []
        counts = [self.sample(i)[2:] for i in range(3)]  # before we ask by HTTP
        for i, (fds, threads) in enumerate(counts):
            text = self.c.get(i, "/metrics")
            for name in ("kvrail_clients", "kvrail_grants"):
                if metric(text, name):
                    wrong.append(f"node {i + 1}: {name} {metric(text, name)}")
            # A copy that left in vain stays readable, as LEAVING, until its room is wanted.
            busy = re.findall(
                r'^kvrail_frames{.*state="(?!free|sealed|leaving)(\w+)".*} ([1-9]\d*)$', text, re.M)
            if busy:
                wrong.append(f"node {i + 1}: frames that wait for somebody: {busy}")
            if fds > self.rest[i][0] or threads != self.rest[i][1]:
                wrong.append(f"node {i + 1}: {fds} descriptors, {threads} threads, "
                             f"{self.rest[i]} before")
        return wrong


def totals(clients):
    sums, statuses, lives = collections.Counter(), collections.Counter(), 0
    for client in clients:
        lives += client.lives
        for words in client.words():
            statuses.update(words["statuses"])
            longest = max(sums["longest_us"], words["longest_us"])
            sums.update({k: v for k, v in words.items() if k != "statuses"})
            sums["longest_us"] = longest
    return {**sums, "lives": lives, "statuses": dict(sorted(statuses.items()))}


def growth(samples):
    """Median of the last quarter less that of the second, of MiB, fds, threads."""
    quarter = len(samples) // 4
    if quarter < 3:
        return None
    early, late = samples[quarter:2 * quarter], samples[-quarter:]
    return [round(statistics.median(s[k] for s in late)
                  - statistics.median(s[k] for s in early), 1) for k in (1, 2, 3)]


def judge(soak, left):
    """(what to print, what is wrong)."""
    result = totals(soak.clients)
    grown = growth(soak.samples[2])
    result.update(
        seed=soak.seed, seconds=round(time.monotonic() - soak.began), done=dict(soak.done),
        growth_of_node_3=grown and dict(zip(("rss_mib", "fds", "threads"), grown)),
        samples={f"node {i + 1}": s for i, s in enumerate(soak.samples)})
    wrong = list(left) + [e for client in soak.clients for e in client.errors]
    for name in ("wrong", "late", "slow_calls"):
        if result[name]:
            wrong.append(f"{name}: {result[name]}")
    if result["right"] < 100:
        wrong.append(f"only {result['right']} pages were read")
    rss = RSS_MIB if not sanitizers(soak.bin) else float("inf")
    for allowed, name, by in zip((rss, FDS, THREADS), ("MiB", "fds", "threads"),
                                 grown or (0, 0, 0)):
        if by > allowed:
            wrong.append(f"node 3 has grown by {by} {name}, {allowed} are allowed")
    return result, wrong


def show(result):
    print(f"{result['seconds']} s, seed {result['seed']}: {result['right']} pages verified, "
          f"{result['wrong']} wrong; {result['batches']} batches, {result['late']} late, "
          f"{result['lives']} lives of {CLIENTS} clients, longest wait "
          f"{result['longest_us'] / 1e6:.1f} s")
    print("disturbed by: " + ", ".join(f"{n} {what}" for what, n in result["done"].items()))
    for what, n in result["statuses"].items():
        print(f"    {what:24} {n:12}")
    for node, samples in result["samples"].items():
        step = max(1, len(samples) // 8)
        print(f"{node}: " + "  ".join(
            f"{s}s {mib:.0f}MiB {fds}fd {threads}t" for s, mib, fds, threads in samples[::step]))
    print(f"growth of node 3: {result['growth_of_node_3']}")


def main():
    words = argparse.ArgumentParser()
    words.add_argument("binaries")
    words.add_argument("--seconds", type=int, default=600)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--json")
    args = words.parse_args()
    config = CONFIG.replace("[log]", "[limits]\nclients = 16\n[log]")
    with Cluster(args.binaries, PAGES, config=config) as c:
        soak = Soak(args.binaries, c, args.seed)
        try:
            soak.start()
            soak.run(args.seconds)
            left = soak.finish()
        finally:
            for client in soak.clients:
                if client.process.poll() is None:
                    client.process.kill()
    result, wrong = judge(soak, left)
    show(result)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result))
    for line in wrong:
        print(f"FAIL {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
