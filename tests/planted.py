"""Prints the table of planted bugs; see planted.sh. Exits 1 when one is not found, or
is found in another way than its table says."""
import json
import subprocess
import sys
import time

SEEDS = 60
JOBS = "2"
# What counts with digests off: a wrong byte or another tenant's in a client's hands, a
# lost last copy. An assertion or a checker of states does not.
BYTES = ("I1", "I9", "L")
BUGS = [
    ("reuse-on-time", "an expired grant's frame is reused on time alone"),
    ("no-generation", "a frame's generation begins anew when it is reused"),
    ("visible-early", "a put's page is found before its bytes are there"),
    ("late-completion", "a late completion is applied to what has its slot now"),
    ("old-incarnation", "messages of a former incarnation are accepted"),
    ("dedup-early", "dedup frees the frame before the engine confirmed"),
    ("opaque-no-tenant", "opaque keys and the index leave the tenant out"),
    ("have-to-both", "a home tells HAVE to both holders of a copy"),
    ("skip-digest", "the batch path does not compare digests"),
    ("leak-on-miss", "the miss path of a fetch keeps a reference"),
    ("expired-freed", "an expired grant is dropped without a fence"),
]

# How each becomes a wrong byte or a lost copy when nothing compares digests.
CHAINS = {
    "reuse-on-time":
        "a node posts a one-sided read and is stopped, its clock with it; the read goes "
        "on past the grant's end, the owner fills the frame anew, and the node, when it "
        "goes on, takes the other page's bytes for in time.",
    "no-generation":
        "the completion of a frame's ZERO comes twice, the second time while the frame, "
        "in a new life, is zeroed again under the same order id; the put's bytes are let "
        "in, the zeros still land on them, and a GET reads the mix.",
    "visible-early":
        "a GET or a sequence finds the page of a put and copies it out while its bytes "
        "are on their way, or after the put ended at its deadline and its client used "
        "the buffer for something else.",
    "late-completion":
        "a completion that comes late or twice ends the read that has the slot now; its "
        "page is listed and read before its bytes have landed.",
    "old-incarnation":
        "a restarted node counts its calls from one again; a FOUND or GRANTED that "
        "answered its former life answers the new life's call of that number, and the "
        "node reads where another page lies.",
    "dedup-early":
        "a sequence's own frame is freed and filled anew at once when an equal copy "
        "exists, while kernels in flight still read it by the older table.",
    "opaque-no-tenant":
        "two tenants' equal opaque names are one key, and the second gets the first's "
        "page.",
    "have-to-both":
        "each of two holders is told that the other keeps the copy; both let go, and "
        "nobody has it.",
}


def sim(program, *args):
    command = [program, "sim", "--nodes", "5", "--faults", "all", "--json", *args]
    begin = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True)
    return json.loads(run.stdout), time.monotonic() - begin


def first_failure(program, *args):
    """The first seed that fails, alone, so that the time is that of finding it."""
    begin = time.monotonic()
    for seed in range(1, SEEDS + 1):
        result, _ = sim(program, "--first-seed", str(seed), "--seeds", "1", *args)
        if result["failures"]:
            return result["failures"][0], time.monotonic() - begin
    return None, time.monotonic() - begin


def all_seeds(program, *args):
    result, _ = sim(program, "--seeds", str(SEEDS), "--jobs", JOBS, *args)
    return result


def cell(failure):
    what = failure["what"].replace("|", "/")[:70]
    return f"{failure['invariant']}: {what} | {failure['seed']}"


def row(name, text, failure, seconds):
    if failure is None:
        return f"| {name} | {text} | **not found** in {SEEDS} seeds | | {seconds:.1f} s |"
    return f"| {name} | {text} | {cell(failure)} | {seconds:.1f} s |"


def cold_believed(program):
    """Found by hits lost against the same seeds without it, which the program runs too,
    and by nothing else. How far other seeds without it are from these says what chance
    does: it must be far less than what is lost."""
    plant = ("--plant", "cold-believed")
    result, seconds = sim(program, "--seeds", str(SEEDS), "--jobs", JOBS, *plant)
    other = all_seeds(program, *plant, "--plant-off", "--first-seed", str(SEEDS + 1))
    hits, twin = result["hits"], result["hits_without_the_bug"]
    lost, chance = 1 - hits / twin, abs(1 - other["hits"] / twin)
    found = ([f["invariant"] for f in result["failures"]] == ["hits"]
             and result["violations_without_the_bug"] == other["violations"] == 0
             and chance * 3 < lost)
    text = (f"hits: {hits} against {twin} of the twin run, {lost:.1%} lost; seeds "
            f"{SEEDS + 1} to {2 * SEEDS} without the bug differ by {chance:.1%}")
    verdict = text if found else f"**not found**: {text}"
    return (f"| cold-believed | the empty answer of a cold home is believed | {verdict} "
            f"| 1 to {SEEDS} | {seconds:.1f} s |"), found


def with_checks(program):
    """The first table; how many bugs were not found."""
    print("| bug | what it breaks | found by | seed | time |")
    print("| --- | --- | --- | --- | --- |")
    missing = 0
    for name, text in BUGS:
        failure, seconds = first_failure(program, "--plant", name)
        missing += failure is None
        print(row(name, text, failure, seconds), flush=True)
    line, found = cold_believed(program)
    print(line)
    return missing + (not found)


def by_bytes(program, name):
    """One row of the second table, and whether the bug shows there as it must: every
    violation is one of bytes, and the same worlds without the bug have none."""
    plant = ("--plant", name, "--digest-off")
    failure, seconds = first_failure(program, *plant)
    if failure is None:
        return f"| {name} | **not found** | | {seconds:.1f} s | 0 | |", False
    seen = all_seeds(program, *plant)
    twin = all_seeds(program, *plant, "--plant-off")
    only_bytes = all(f["invariant"] in BYTES for f in seen["failures"])
    good = only_bytes and twin["violations"] == 0
    mark = "" if only_bytes else "**not by bytes** "
    return (f"| {name} | {mark}{cell(failure)} | {seconds:.1f} s "
            f"| {seen['violations']} | {twin['violations']} |"), good


def without_digests(program):
    """The second table; how much in it is not as it must be."""
    print("| bug | found by | seed | time | seeds that find it | of its twins |")
    print("| --- | --- | --- | --- | --- | --- |")
    wrong = 0
    for name in CHAINS:
        line, good = by_bytes(program, name)
        wrong += not good
        print(line, flush=True)
    return wrong


def main():
    program = sys.argv[1]
    print("# Planted bugs\n")
    print("Each is a run-time switch of test builds (`kvrail sim --plant NAME`), looked for")
    print(f"in up to {SEEDS} seeds of five nodes with all faults. Made by "
          "`sh tests/planted.sh`,")
    print("which fails when one is not found as its table says. The worlds are those of")
    print("`focus()` in `node/sim/run.c`. `cold-believed` breaks nothing but costs hits:")
    print("those of the same seeds without it are counted too, and it is found when more")
    print("than a tenth is lost.\n")
    bad = with_checks(program)
    print("\n## Again, with digests off (`--digest-off`)\n")
    print("Every digest is 0, so all compare equal. What only a digest can find is left out")
    print("of `--faults all` then: flipped bits, reads of a dead process' memory. Only a wrong")
    print("byte (I1) or another tenant's (I9) that a client or an engine was given counts, or")
    print("a copy that nobody has any more because two were told HAVE (L); checkers that see")
    print("the cause earlier keep quiet, and an assertion does not count. The worlds are those")
    print("of `focus_bytes()` in `node/sim/run.c`: each has what hides its bug taken away. Freed")
    print("frames are not poisoned: a wrong byte is one that somebody wrote. The last two")
    print(f"columns: how many of seeds 1 to {SEEDS} show the bug, and how many of their twins,")
    print("the same worlds without it (`--plant-off`), have any violation.\n")
    bad += without_digests(program)
    result = all_seeds(program, "--digest-off")
    bad += result["violations"]
    print(f"\nWithout a bug planted: {result['violations']} violations in {SEEDS} seeds, "
          f"{result['pages_checked']} pages checked.")
    print("\nHow each becomes a wrong byte or a lost copy:\n")
    for name, chain in CHAINS.items():
        print(f"- **{name}**: {chain}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
