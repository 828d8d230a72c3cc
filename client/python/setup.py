"""Makes the message classes from /proto while the package is built; they are in no source tree."""

from importlib.resources import files
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROTO = Path(__file__).resolve().parents[2] / "proto"


class BuildWithMessages(build_py):
    def run(self) -> None:
        from grpc_tools import protoc

        super().run()
        sources = [f"kvship/v1/{name}.proto" for name in ("types", "generation")]
        if not all((PROTO / source).exists() for source in sources):
            raise SystemExit(f"{PROTO} holds no kvship/v1/*.proto; the package is built from a checkout of kvship")
        arguments = ["protoc", f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}", f"--python_out={self.build_lib}",
                     f"--pyi_out={self.build_lib}", f"--grpc_python_out={self.build_lib}", *sources]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc could not read the proto files")


setup(cmdclass={"build_py": BuildWithMessages})
