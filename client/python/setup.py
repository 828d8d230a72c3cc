"""Makes the message classes from the proto files while the package is built; they are in no source tree.

A checkout has the proto files at its root, a source distribution has copies of them beside this file.
"""

import shutil
from importlib.resources import files
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
PROTO = next((folder for folder in (HERE / "proto", HERE.parents[1] / "proto") if folder.exists()), HERE / "proto")
SOURCES = [f"kvship/v1/{name}.proto" for name in ("types", "generation")]


class BuildWithMessages(build_py):
    def run(self) -> None:
        from grpc_tools import protoc

        super().run()
        if not all((PROTO / source).exists() for source in SOURCES):
            raise SystemExit(f"{PROTO} holds no kvship/v1/*.proto; wanted a checkout of kvship or a source distribution of it")
        arguments = ["protoc", f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}", f"--python_out={self.build_lib}",
                     f"--pyi_out={self.build_lib}", f"--grpc_python_out={self.build_lib}", *SOURCES]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc could not read the proto files")


class SourcesWithProtos(sdist):
    def make_release_tree(self, base_dir: str, names: list[str]) -> None:
        super().make_release_tree(base_dir, names)
        for source in SOURCES:
            target = Path(base_dir) / "proto" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROTO / source, target)


setup(cmdclass={"build_py": BuildWithMessages, "sdist": SourcesWithProtos})
