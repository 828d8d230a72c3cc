#!/usr/bin/env python3
"""Holds every #include to the table of folders in docs/design.md, and every source file to its length.

A folder includes what its row allows, by path from the root. CUDA and NCCL headers stay in folders cuda/ and
transport/nccl_*, which builds on base alone; gRPC and Protobuf stay out of that and of base to compress; no file
includes itself by a detour.
"""

import os
import re
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What builds without gRPC and Protobuf.
CORE = {"base", "kernels", "kv", "engine", "compress"}

CUDA_HEADER = re.compile(
    r"(cuda|cub/|cublas|cudnn|cusparse|curand|nvtx|nvml|cooperative_groups|thrust/|cutlass/|cute/|mma\.h|nccl)")
CUDA_HOMES = re.compile(r"((tests/|bench/)?(kernels|engine|compress|prefill_service)/cuda/|(tests/)?transport/nccl_|bench/nccl_)")
# Builds on base alone, without what the rest of its folder needs.
NCCL_FILE = re.compile(r"transport/nccl_")
RPC_HEADER = re.compile(r"(grpc/|grpcpp/|grpc\+\+/|google/protobuf/|kvship/v\d)")

INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')
# A table beside functions, of C++ code: what stands in a namespace is not indented.
NAMESPACE_TABLE = re.compile(r"(?:inline |static )*constexpr (?:std::array<.*|[^()=;]*)\b(\w+)(?:\[[^]]*\])*\s*(?:=|\{)")
MAX_LINES = 400
SOURCES = (".h", ".cc", ".cu", ".cuh")
COUNTED = SOURCES + (".py", ".sh", ".proto", ".cmake")


def read_table(text):
    """The rows of the design's table: {folder: the folders that it may include besides itself}."""
    rows = {}
    for match in re.finditer(r"^\| (\w+)/ \|.*\| ([^|]+) \|$", text, re.MULTILINE):
        rows[match.group(1)] = match.group(2)
    allowed = {}
    for folder, cell in rows.items():
        words = set(re.findall(r"[\w/]+", cell))
        allowed[folder] = set(rows) - words if "all" in words else words & set(rows)
    return allowed


def design_table():
    with open(os.path.join(ROOT, "docs", "design.md"), encoding="utf-8") as file:
        return read_table(file.read())


MAY_INCLUDE = design_table()


def source_files(root):
    """The paths, from the root, of every source file in a folder; build folders and hidden ones are left out."""
    for where, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        if where == root:
            folders[:] = [f for f in folders if f != "build" and not f.startswith("build-")]
            continue
        for name in sorted(names):
            if name.endswith(COUNTED):
                yield os.path.relpath(os.path.join(where, name), root)


def home_of(header):
    """The project folder that a header path names, or None for other people's headers."""
    if re.match(r"kvship/v\d", header):
        return "proto"
    first = header.split("/")[0]
    return first if "/" in header and first in MAY_INCLUDE else None


def include_violations(root, path, line, quoted, header):
    folder = path.split("/")[0]
    home = home_of(header)
    at = f"{path}:{line}: "
    if home is None:
        if quoted and os.path.exists(os.path.join(root, os.path.dirname(path), header)):
            yield at + f'"{header}" is included by a path that does not start at the root'
        if CUDA_HEADER.match(header) and not CUDA_HOMES.match(path):
            yield at + f"<{header}>: CUDA and NCCL headers stay in folders cuda/ and transport/nccl_*"
    elif home != folder and home not in MAY_INCLUDE[folder]:
        allowed = " ".join(sorted(MAY_INCLUDE[folder])) or "nothing else"
        yield at + f"{folder} may not include {header} (it may include {allowed})"
    elif home != "proto" and not os.path.exists(os.path.join(root, header)):
        yield at + f"{header} does not exist"
    if RPC_HEADER.match(header) and (folder in CORE or NCCL_FILE.match(path)):
        yield at + f"<{header}>: {folder if folder in CORE else path} builds without gRPC and Protobuf"
    if NCCL_FILE.match(path) and home not in (None, "base") and not NCCL_FILE.match(header):
        yield at + f"{path} may not include {header} (it may include base and transport/nccl_*)"


def cycles(graph):
    """One line for each include that closes a ring."""
    state = {}

    def visit(path, trail):
        state[path] = "open"
        for header, line in graph.get(path, ()):
            if state.get(header) == "open":
                yield f"{path}:{line}: include cycle: " + " -> ".join(
                    trail[trail.index(header):] + [header])
            elif header not in state:
                yield from visit(header, trail + [header])
        state[path] = "done"

    for path in sorted(graph):
        if path not in state:
            yield from visit(path, [path])


def tables_of_device_code(graph, tables):
    """Tables in namespaces that a .cu file sees: nvcc compiles reading one on a device into a trap, without a word."""
    seen, todo = set(), [path for path in graph if path.endswith(".cu")]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo.extend(header for header, _ in graph.get(path, ()))
    for path, line, name in tables:
        if path in seen:
            yield f"{path}:{line}: {name} is in a namespace: device code reads tables of functions alone"


def violations(root):
    found, graph, tables = [], {}, []
    for path in source_files(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) > MAX_LINES:
            found.append(f"{path}:{len(lines)}: longer than {MAX_LINES} lines")
        if not path.endswith(SOURCES):
            continue
        if path.split("/")[0] not in MAY_INCLUDE:
            found.append(f"{path}:1: the folder is not in the design's table")
            continue
        if path.endswith(".cu"):
            graph[path] = []
        for number, text in enumerate(lines, start=1):
            table = NAMESPACE_TABLE.match(text)
            if table and ("[" in text or "std::array" in text):
                tables.append((path, number, table.group(1)))
            match = INCLUDE.match(text)
            if not match:
                continue
            quoted, header = match.group(1) == '"', match.group(2)
            found.extend(include_violations(root, path, number, quoted, header))
            if home_of(header) and header != path:  # Highway's foreach_target includes the file itself
                graph.setdefault(path, []).append((header, number))
    return found + list(cycles(graph)) + list(tables_of_device_code(graph, tables))


class EachRuleIsEnforced(unittest.TestCase):
    """Writes a small tree that breaks one rule, and looks for the sentence about it."""

    def found_in(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(text)
            return violations(root)

    def test_an_allowed_include_passes(self):
        self.assertEqual([], self.found_in({
            "base/a.h": "#include <vector>\n", "engine/b.cc": '#include "base/a.h"\n#include "absl/status/status.h"\n'}))

    def test_a_folder_outside_the_row_is_named_with_file_and_line(self):
        found = self.found_in({"compress/a.h": "", "engine/b.cc": '\n#include "compress/a.h"\n'})
        self.assertEqual(1, len(found), found)
        self.assertIn("engine/b.cc:2: engine may not include compress/a.h", found[0])

    def test_decode_service_never_sees_compress(self):
        self.assertTrue(self.found_in({"compress/a.h": "", "decode_service/b.h": '#include "compress/a.h"\n'}))

    def test_angle_brackets_do_not_hide_a_project_header(self):
        self.assertTrue(self.found_in({"kv/a.h": "", "base/b.cc": "#include <kv/a.h>\n"}))

    def test_cuda_headers_stay_in_their_folders(self):
        text = "#include <cuda_runtime.h>\n"
        self.assertTrue(self.found_in({"kernels/cpu/a.cc": text}))
        self.assertTrue(self.found_in({"transport/grpc_channel.cc": "#include <nccl.h>\n"}))
        self.assertEqual([], self.found_in({"kernels/cuda/a.cu": text, "transport/nccl_channel.cc": text}))

    def test_rpc_headers_stay_out_of_the_core(self):
        self.assertTrue(self.found_in({"kv/a.cc": "#include <grpcpp/grpcpp.h>\n"}))
        self.assertTrue(self.found_in({"compress/a.cc": "#include <google/protobuf/message.h>\n"}))
        self.assertTrue(self.found_in({"kv/a.cc": '#include "kvship/v1/generation.pb.h"\n'}))
        self.assertEqual([], self.found_in({"client/a.cc": '#include "kvship/v1/generation.pb.h"\n'}))

    def test_nccl_builds_on_base_alone(self):
        files = {"base/a.h": "", "transport/nccl_a.h": "", "transport/channel.h": ""}
        self.assertEqual([], self.found_in({
            **files, "transport/nccl_b.cc": '#include "base/a.h"\n#include "transport/nccl_a.h"\n'}))
        self.assertTrue(self.found_in({**files, "transport/nccl_b.cc": '#include "transport/channel.h"\n'}))
        self.assertTrue(self.found_in({**files, "transport/nccl_b.cc": "#include <grpcpp/grpcpp.h>\n"}))

    def test_paths_start_at_the_root(self):
        found = self.found_in({"base/a.h": "", "base/b.cc": '#include "a.h"\n'})
        self.assertIn("base/b.cc:1:", found[0])

    def test_a_folder_outside_the_table_is_named(self):
        self.assertEqual(["extra/a.cc:1: the folder is not in the design's table"], self.found_in({"extra/a.cc": ""}))

    def test_a_header_that_is_not_there_is_named(self):
        self.assertIn("base/a.h does not exist", self.found_in({"kv/b.cc": '#include "base/a.h"\n'})[0])

    def test_an_include_cycle_is_shown_whole(self):
        found = self.found_in({"base/a.h": '#include "base/b.h"\n', "base/b.h": '#include "base/a.h"\n'})
        self.assertEqual(["base/b.h:1: include cycle: base/a.h -> base/b.h -> base/a.h"], found)

    def test_device_code_has_no_tables_in_namespaces(self):
        table, local = "inline constexpr int kTerms[] = {1};\n", "int f() {\n  constexpr int kTerms[] = {1};\n}\n"
        cuda = {"kernels/cuda/b.cu": '#include "kernels/a.h"\n'}
        self.assertEqual(["kernels/a.h:1: kTerms is in a namespace: device code reads tables of functions alone"],
                         self.found_in({"kernels/a.h": table, **cuda}))
        self.assertTrue(self.found_in({"kernels/cuda/b.cu": "constexpr std::array<int, 2> kTerms = {1, 2};\n"}))
        self.assertEqual([], self.found_in({"kernels/a.h": local, **cuda}))
        self.assertEqual([], self.found_in({"kernels/a.h": "inline constexpr int kTerms = 1;\n", **cuda}))
        self.assertEqual([], self.found_in({"kernels/a.h": table}))

    def test_a_long_file_is_named(self):
        self.assertEqual(["base/a.cc:401: longer than 400 lines"], self.found_in({"base/a.cc": "\n" * 401}))


class TheTableOfTheDesign(unittest.TestCase):
    def test_is_read_row_by_row(self):
        table = read_table("""| folder | what lives there | may include |
|---|---|---|
| base/ | words | - |
| kv/ | a cache, and `more/` | base |
| top/ | everything | all but kv |
| tests/ | mirrors the tree | all |
""")
        self.assertEqual({"base": set(), "kv": {"base"}, "top": {"base", "top", "tests"},
                          "tests": {"base", "kv", "top", "tests"}}, table)

    def test_keeps_the_two_sides_apart(self):
        self.assertEqual({"base", "kernels", "kv"}, MAY_INCLUDE["engine"])
        self.assertEqual({"base", "kernels", "kv"}, MAY_INCLUDE["compress"])
        self.assertNotIn("compress", MAY_INCLUDE["decode_service"])
        self.assertNotIn("decode_service", MAY_INCLUDE["prefill_service"])


class TheTree(unittest.TestCase):
    def test_includes_only_what_the_design_allows(self):
        paths = list(source_files(ROOT))
        self.assertGreater(len(paths), 20, "the tree was not found")
        found = violations(ROOT)
        self.assertFalse(found, "\n" + "\n".join(found))


if __name__ == "__main__":
    sys.exit(unittest.main())
