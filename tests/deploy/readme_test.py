"""The README's C example is a program: it is cut out of the README, compiled with all
warnings against the library of this build, and run against a node.

    python3 tests/deploy/readme_test.py BIN STATIC-LIBRARY KVRAIL.PC
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/node"))
from nodes_kit import Cluster  # noqa: E402

LINES_MOST, RUN_S = 40, 60


def needs(pc):
    """Words for the linker: what the static library is built on."""
    return re.search(r"^Libs.private: (.*)$", pathlib.Path(pc).read_text(), re.M)[1].split()


def compile_example(folder, library, pc):
    blocks = re.findall(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 1, f"{len(blocks)} C blocks in the README, expected 1"
    assert blocks[0].count("\n") <= LINES_MOST, "the example is no longer a short one"
    source, program = folder / "example.c", folder / "example"
    source.write_text(blocks[0])
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT / 'include'}",
         "-o", program, source, library, *needs(pc)], check=True, timeout=RUN_S)
    return program


def main():
    binaries, library, pc = sys.argv[1:]
    with Cluster(pathlib.Path(binaries).resolve(), nr=1) as c:
        program = compile_example(c.folder, library, pc)
        run = lambda word: subprocess.run(  # noqa: E731
            [program, word], capture_output=True, text=True, timeout=RUN_S)
        c.start(0)
        c.wait_linked()
        told = [run(f"unix:{c.socket(0)}") for _ in range(3)]
        assert all(t.returncode == 0 for t in told), told
        assert [t.stdout for t in told] == ["get: miss\nput: ok\n"] + 2 * ["get: ok\n"], told
        c.stop(0)
        nobody = run(f"unix:{c.socket(0)}")
        assert nobody.returncode == 1 and nobody.stderr.count("\n") == 1, nobody
        print(f"compiled and run; without a node: {nobody.stderr.strip()}")


if __name__ == "__main__":
    main()
