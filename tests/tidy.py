"""Checks structure, not taste: which folder may include which, what a folder's symbols are
called, what the pure folders may not touch, calls that are banned, sizes.

    python3 tests/tidy.py --check      the tree; prints "path:line: what is wrong"
    python3 tests/tidy.py --self-test  plants one violation of each rule and finds it
"""

import pathlib
import re
import sys

CORE = {"base", "pager", "cluster", "node/core"}
PRODUCT = CORE | {"transport", "kernels", "node/sim", "node", "node/lib", "include"}
MAY_INCLUDE = {
    "include": set(), "base": {"include"}, "pager": {"base"}, "cluster": {"base"}, "transport": {"base"},
    "kernels": {"base"}, "node/core": CORE, "node/sim": CORE, "node": PRODUCT - {"node/lib"},
    "node/lib": {"include", "base", "transport"}, "tests": PRODUCT | {"tests"},
}  # and every folder its own
# Headers of another's folder that a folder, or one file of it, may use beyond that: libkvrail
# and the node have one ring; and embed.c alone starts nodes.
SHARED = {("node/lib", "node/" + name)
          for name in ("ring.h", "remote_wire.h", "daemon/tls.h", "daemon/frame.h",
                       "daemon/outbox.h")}
SHARED |= {("node/lib/embed.c", "node/config.h"), ("node/lib/embed.c", "node/daemon/host.h")}
PREFIX = {
    "include": "kvr_", "base": "kv_", "pager": "kvp_", "cluster": "kvc_", "transport": "kvt_",
    "kernels": "kvk_", "node/core": "kvo_", "node/sim": "kvs_", "node": "kvn_",
    "node/lib": "kvr_",
}
PURE = {"pager", "cluster", "node/core"}
IMPURE_HEADER = r"uv\.h|sys/|time\.h|pthread\.h|threads\.h|unistd\.h|fcntl\.h|signal\.h"
IMPURE_CALL = (
    r"rand|random|srand|time|clock|clock_gettime|gettimeofday|getenv|malloc|calloc"
    r"|realloc|free|printf|fprintf|puts|fputs|perror|fopen|fread|fwrite|fscanf|scanf")
BANNED_CALL = r"strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|alloca"
LATER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b(?!\(#\d+\))")
NOT_A_NAME = {"__attribute__", "_Alignas", "target", "format"}


def folder_of(path):
    found = [f for f in MAY_INCLUDE if path.startswith(f + "/")]
    return max(found, key=len) if found else ""


def strip(text):
    """Without comments and literals; every line stays where it was."""
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    blank = lambda m: '""' if m[0][0] in "\"'" else "\n" * m[0].count("\n") + " "
    return re.sub(pattern, blank, text, flags=re.S)


def outline(code):
    """Without preprocessor lines and without what stands inside braces."""
    lines = lambda m: "\n" * m[0].count("\n")
    code = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", lines, code, flags=re.M)
    depth, out = 0, []
    for char in code:
        depth -= char == "}"
        out.append(char if depth == 0 or char == "\n" else "")
        depth += char == "{"
    return "".join(out)


def external_names(code, header):
    """(line, name) of functions and data that other files can link to or call."""
    code = outline(code)
    # A function's body ends its declaration; a struct's or an initialiser's does not.
    for m in re.finditer(r"[^;{}]*\)\s*\{\s*\}|(?:[^;{}]*\{\s*\})*[^;{}]*;", code):
        text, words = m[0], set(re.findall(r"\w+", m[0]))
        if words & {"typedef", "_Static_assert"}:
            continue
        if "static" in words and not (header and "inline" in words):
            continue
        line = code.count("\n", 0, m.end() - len(text.lstrip())) + 1
        data = re.search(r"(\w+)\s*(?:\[[^]]*\]\s*)*=", text)
        called = [n for n in re.findall(r"(\w+)\s*\(", text) if n not in NOT_A_NAME]
        name = data[1] if data else called[0] if called else ""
        if name and not name.isupper():
            yield line, name


def check_includes(path, folder, text):
    for m in re.finditer(r'^\s*#\s*include\s*(["<])([^">]+)[">]', text, re.M):
        line, name, target = text.count("\n", 0, m.start()) + 1, m[2], folder_of(m[2])
        if m[1] == "<":
            if folder in PURE and re.match(IMPURE_HEADER, name):
                yield line, f"<{name}> in a pure folder"
        elif not target:
            yield line, f'"{name}" is not named from the root of the tree'
        elif (folder, name) in SHARED or (path, name) in SHARED:
            continue
        elif target != folder and target not in MAY_INCLUDE[folder]:
            yield line, f"{folder}/ may not include {target}/"
        elif name.endswith("_priv.h") and folder not in (target, "tests"):
            yield line, f'"{name}" is private to {target}/'


def check_file(path, text):
    folder, header = folder_of(path), path.endswith(".h")
    for line, content in enumerate(text.splitlines(), 1):
        if LATER.search(content):
            yield line, "work for later without an issue number: (#123)"
        if path.endswith((".c", ".h")) and len(content) > 88:
            yield line, f"{len(content)} columns, at most 88"
    if text.count("\n") >= 1000:
        yield 1, "1000 lines or more"
    if not folder or not path.endswith((".c", ".h")):
        return
    yield from check_includes(path, folder, text)
    if folder == "tests":
        return
    if header and "Threading" not in text:
        yield 1, "the header does not say Threading"
    code = strip(text)
    for line, name in external_names(code, header):
        if not name.startswith(PREFIX[folder]) and not (name == "main" and folder == "node"):
            yield line, f"{name} is external and must begin with {PREFIX[folder]}"
    words = [(rf"(?<![\w.>])(?:{BANNED_CALL})\s*\(", "banned call")]
    if folder in PURE:
        words += [(rf"(?<![\w.>])(?:{IMPURE_CALL})\s*\(", "impure call"),
                  (r"\b(?:float|double)\b", "floating point in a pure folder")]
    for pattern, what in words:
        for m in re.finditer(pattern, code):
            yield code.count("\n", 0, m.start()) + 1, f"{what}: {m[0].strip('( ')}"


def check_tree(files):
    for path, text in sorted(files.items()):
        for line, what in check_file(path, text):
            yield f"{path}:{line}: {what}"
    for folder in sorted({folder_of(p) for p in files if p.endswith((".c", ".h"))} & PRODUCT):
        if f"{folder}/README.md" not in files:
            yield f"{folder}/README.md:1: the folder has none"


def read_tree():
    ends, skip = {".c", ".h", ".py", ".md", ".txt"}, re.compile(r"build|\.git/|tests/fuzz/corpus/")
    paths = [p for p in pathlib.Path(".").rglob("*") if p.suffix in ends and p.is_file()]
    return {str(p): p.read_text("utf-8") for p in paths if not skip.match(str(p))}


PLANTED = [
    ("base/a.c", '#include "pager/p.h"\n', "base/ may not include pager/"),
    ("pager/a.c", '#include "cluster/c.h"\n', "pager/ may not include cluster/"),
    ("node/core/a.c", '#include "node/n.h"\n', "node/core/ may not include node/"),
    ("node/a.c", '#include "tests/t.h"\n', "node/ may not include tests/"),
    ("node/lib/a.c", '#include "node/ring.h"\n#include "node/config.h"\n', "node/lib/ may not include node/"),
    ("pager/a.c", '#include "p.h"\n', '"p.h" is not named from the root of the tree'),
    ("node/a.c", '#include "pager/p_priv.h"\n', '"pager/p_priv.h" is private to pager/'),
    ("node/lib/a.c", '#include "node/daemon/host.h"\n', "node/lib/ may not include node/"),
    ("node/lib/embed.c", '#include "node/daemon/host.h"\n#include "node/daemon/node.h"\n',
     "node/lib/ may not include node/"),
    ("cluster/a.c", "#include <sys/mman.h>\n", "<sys/mman.h> in a pure folder"),
    ("pager/a.c", "int\nkv_do(int x)\n{\n}\n", "kv_do is external and must begin with kvp_"),
    ("base/a.c", "const int table[] = {1};\n", "table is external and must begin with kv_"),
    ("base/a.c", "struct t {\n    int a;\n} kv_a, *b = 0;\n", "b is external and must begin with kv_"),
    ("base/a.h", "/* Threading */ int go(void);\n", "go is external and must begin with kv_"),
    ("base/a.h", "int kv_go(void);\n", "the header does not say Threading"),
    ("pager/a.c", "static int f(void)\n{\n    return rand();\n}\n", "impure call: rand"),
    ("pager/a.c", "static void f(void) { free(0); }\n", "impure call: free"),
    ("node/core/a.c", "static double x;\n", "floating point in a pure folder: double"),
    ("node/a.c", "static void f(char *s) { strcpy(s, s); }\n", "banned call: strcpy"),
    ("tests/a.c", "/* TO" + "DO later */\n", "work for later without an issue number: (#123)"),
    ("tests/a.c", "/* " + "x" * 90 + " */\n", "96 columns, at most 88"),
    ("tests/a.py", "\n" * 1000, "1000 lines or more"),
]
CLEAN = {
    "pager/README.md": "", "pager/a.h": "/* Threading: none. */\nint kvp_a(void);\n",
    "pager/a.c": '#include "base/b.h"\n#include "pager/a_priv.h"\n/* rand() double */\n'
    "static const struct {\n    int x;\n} t[] = {{1}};\n"
    "static void f(struct o *o) { o->free(o); }\nint kvp_a(void)\n{\n    return 0;\n}\n",
    "tests/pager/a_test.c": '#include "pager/a_priv.h"\nint main(void) { return 0; }\n',
}


def self_test():
    missed = [f"clean: {p}" for p in check_tree(CLEAN)]
    for path, text, wanted in PLANTED:
        found = [what for _, what in check_file(path, text)]
        missed += [] if found == [wanted] else [f"{path}: wanted {wanted}, found {found}"]
    if "node/README.md:1: the folder has none" not in check_tree({"node/a.c": ""}):
        missed.append("a folder without README.md")
    return missed


if __name__ == "__main__":
    problems = self_test() if "--self-test" in sys.argv else list(check_tree(read_tree()))
    print("\n".join(problems) or "tidy")
    sys.exit(1 if problems else 0)
