"""The public conversation trace through three real nodes: the runs of the matrix.

    python3 tests/node/nodes_matrix.py run BIN TRACE NAME FOLDER   writes FOLDER/NAME.json
    python3 tests/node/nodes_matrix.py runs BIN TRACE FOLDER JOBS NAME...
                                                                   so many at a time
    python3 tests/node/nodes_matrix.py result FOLDER NAME          prints what one said
    python3 tests/node/nodes_matrix.py table FOLDER                prints what is there

Undisturbed runs must have nearly the hits of one pooled cache. In the disturbed ones
something happens to node 2 when 4,000 requests have ended; by the last 4,000 requests the
cluster must be what it is in the undisturbed run. tests/nodes_matrix.sh calls this.
"""

import concurrent.futures
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

from nodes_kit import CONFIG, FILL_CONFIG, TRANSPORTS, Cluster

AT, LAST = 4000, 4000  # requests: when something happens, and what is compared
COMPUTE_US = 5000
POOLED_LEAST = 0.97
SIMULATED_POINTS_MOST = 1.0  # of the hit rate, from that of the simulated run
POINTS_MOST = 2.0  # of the last requests' page references, each place of hits
RUN_S = 3600


def kill_and_restart(c):
    c.kill(1)
    time.sleep(5)
    c.start(1)


def stop_and_continue(c):
    c.nodes[1].send_signal(signal.SIGSTOP)
    time.sleep(20)
    c.nodes[1].send_signal(signal.SIGCONT)


KINDS = {  # pages, balance, what happens to node 2
    "even-50000": (50000, "even", None),
    "even-10000": (10000, "even", None),
    "skew-10000": (10000, "skew", None),
    "killed": (10000, "even", kill_and_restart),
    "paused": (10000, "even", stop_and_continue),
}
PAGER = "pager-"  # the same run at the pager level
RUNS = {f"{transport}-{level}{name}": (transport, level == PAGER, *kind)
        for transport in TRANSPORTS for level in ("", PAGER) for name, kind in KINDS.items()}


def undisturbed(name):
    """The run that a disturbed one is compared with: by the same transport and level."""
    transport, pager, *_ = RUNS[name]
    return f"{transport}-{PAGER if pager else ''}even-10000"


def simulated(bin, trace, pages, balance, pager):
    """The same protocols and the same memory in one process, at the pager level."""
    done = subprocess.run(
        [bin / "kvrail", "sim", "--trace", trace, "--pages", str(pages), "--balance", balance,
         "--memory", "own" if pager else "device", "--json"], check=True, capture_output=True, text=True, timeout=RUN_S)
    return json.loads(done.stdout)["hit_rate"]


def marked(path):
    """Requests that have ended, by `kvrail drive --mark`: its last whole line."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else 0


def drive(c, disturb, *args):
    mark, out = c.folder / "mark", c.folder / "out.json"
    with open(out, "w") as file:
        driver = subprocess.Popen(c.drive_args("--mark", mark, *args), stdout=file)
    try:
        while disturb is not None and driver.poll() is None:
            if marked(mark) >= AT:
                print(f"disturbed at request {marked(mark)}", flush=True)
                disturb(c)
                break
            time.sleep(0.05)
        assert driver.wait(RUN_S) == 0, "kvrail drive failed"
    finally:
        driver.kill()
        driver.wait()
    return json.loads(out.read_text())


def points(now, then):
    """By place: the difference of the shares of hits of the last requests, in points."""
    share = lambda r, place: 100 * r["last"]["hits"][place] / r["last"]["page_refs"]
    return {p: share(now, p) - share(then, p) for p in now["last"]["hits"]}


def fetched(c):
    """Bytes that nodes have read from each other, and of them under grants."""
    time.sleep(0.6)  # a snapshot is published every 250 ms
    texts = [c.get(i, "/metrics") for i in range(c.nr)]
    of = lambda name: sum(int(re.search(rf"^{name} (\d+)$", t, re.M)[1]) for t in texts)
    return {"all": of("kvrail_fetched_bytes_total"),
            "one_sided": of("kvrail_fetched_one_sided_bytes_total")}


def check(r, disturbed, undisturbed):
    assert r["wrong_bytes"] == 0 and r["requests"] > AT + LAST, r
    counted = sum(r["hits"].values()) + sum(r["misses"].values()) + r["unserved"]
    assert counted == r["page_refs"], "a page was counted twice, or never"
    if not disturbed:
        assert r["unserved"] == 0, r
        ratio = r["hit_rate"] / r["hit_rate_pooled"]
        assert ratio >= POOLED_LEAST, f"{ratio:.4f} of pooled, at least {POOLED_LEAST}"
        apart = 100 * abs(r["hit_rate"] - r["hit_rate_sim"])
        assert apart <= SIMULATED_POINTS_MOST, \
            f"{apart:.2f} points from the simulated run, at most {SIMULATED_POINTS_MOST}"
    elif undisturbed is not None:
        worst = max(map(abs, points(r, undisturbed).values()))
        assert worst <= POINTS_MOST, f"{worst:.2f} points, at most {POINTS_MOST}"


def run(bin, trace, name, folder):
    bin, folder = pathlib.Path(bin), pathlib.Path(folder)
    transport, pager, pages, balance, disturb = RUNS[name]
    beside = folder / f"{undisturbed(name)}.json"
    assert disturb is None or beside.exists(), f"run {undisturbed(name)} before {name}"
    with Cluster(bin, pages, config=FILL_CONFIG if pager else CONFIG,
                 transport=transport) as c:
        for i in range(3):
            c.start(i)
        c.wait_linked()
        r = drive(c, disturb, "--trace", trace, "--balance", balance, "--last", LAST,
                  "--compute-us", COMPUTE_US, "--level", "pager" if pager else "object")
        c.wait_linked()
        r["fetched"] = fetched(c)
        for i in range(3):
            c.stop(i)
    r["hit_rate_sim"] = simulated(bin, trace, pages, balance, pager)
    (folder / f"{name}.json").write_text(json.dumps(r, indent=2) + "\n")
    print(json.dumps(r, indent=2))
    check(r, disturb is not None, json.loads(beside.read_text()) if disturb else None)


def runs(bin, trace, folder, jobs, *names):
    """Each in a process of its own, whose words and exit status go to FOLDER/NAME.log."""
    def one(name):
        with open(pathlib.Path(folder) / f"{name}.log", "w") as log:
            code = subprocess.run(
                [sys.executable, __file__, "run", bin, trace, name, folder],
                stdout=log, stderr=subprocess.STDOUT).returncode
            log.write(f"\nexit {code}\n")
        print(f"{name}: exit {code}", flush=True)

    disturbed = [n for n in names if RUNS[n][4] is not None]
    for some in [n for n in names if n not in disturbed], disturbed:
        with concurrent.futures.ThreadPoolExecutor(int(jobs)) as pool:
            list(pool.map(one, some))


def result(folder, name):
    text = (pathlib.Path(folder) / f"{name}.log").read_text()
    print(text)
    sys.exit(0 if text.endswith("\nexit 0\n") else 1)


def table(folder):
    folder = pathlib.Path(folder)
    got = {n: json.loads((folder / f"{n}.json").read_text())
           for n in RUNS if (folder / f"{n}.json").exists()}
    print("run                   hit rate  pooled   ratio  simulated  points  wrong  unserved  "
          "under grants  seconds")
    for name, r in got.items():
        granted = 100 * r["fetched"]["one_sided"] / max(1, r["fetched"]["all"])
        print(f"{name:20}  {r['hit_rate']:8.4f}  {r['hit_rate_pooled']:.4f}  "
              f"{r['hit_rate'] / r['hit_rate_pooled']:.4f}     {r['hit_rate_sim']:.4f}  "
              f"{100 * (r['hit_rate'] - r['hit_rate_sim']):+6.2f}  {r['wrong_bytes']:5}  "
              f"{r['unserved']:8}  {granted:10.1f} %  {r['seconds']:7.0f}")
    for name, r in got.items():
        beside = undisturbed(name)
        if RUNS[name][4] is not None and beside in got:
            by_place = ", ".join(f"{p} {d:+.2f}" for p, d in
                                 points(r, got[beside]).items())
            print(f"{name}: last {LAST} requests, points against {beside}: {by_place}")


if __name__ == "__main__":
    {"run": run, "runs": runs, "result": result, "table": table}[sys.argv[1]](*sys.argv[2:])
