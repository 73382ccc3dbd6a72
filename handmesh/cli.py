"""The commands: parse the flags, do the work, and say what went wrong in one line.

Exit codes: 0 done, 2 bad input or a missing part, 130 Ctrl-C, 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from handmesh.errors import UserError

BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

# Shared library -> the Debian package that has it.
_SYSTEM_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libgomp.so.1": "libgomp1",
    "libX11.so.6": "libx11-6",
    "libSM.so.6": "libsm6",
    "libXext.so.6": "libxext6",
}
# Package of an extra -> the extra.
_EXTRAS = {
    "smplx": "mano",
    **dict.fromkeys(("torch", "torchvision", "timm", "lightning", "onnx", "onnxscript"), "train"),
    **dict.fromkeys(("nncf", "coremltools"), "export"),
}


def demo() -> None:
    """handmesh-demo."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.live.command import DemoCommand, run_demo, with_bare_flags

        run_demo(parse_flags(DemoCommand, with_bare_flags(argv), "handmesh-demo"))

    sys.exit(guard("handmesh-demo", body))


def convert() -> None:
    """handmesh-convert."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.live.convert_command import ConvertCommand, run_convert

        run_convert(parse_flags(ConvertCommand, argv, "handmesh-convert"))

    sys.exit(guard("handmesh-convert", body))


def train() -> None:
    """handmesh-train."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_config, setting_of

        if argv and setting_of(argv[0], "recipe") == "head":
            from handmesh.recipes.head import HeadCommand, make_heads

            make_heads(parse_config(HeadCommand, argv, "handmesh-train"))
            return
        from handmesh.training.command import parse_train, run_train

        run_train(parse_train(list(argv)))

    sys.exit(guard("handmesh-train", body))


def export() -> None:
    """handmesh-export."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.deploy.command import ExportCommand, run_export

        run_export(parse_flags(ExportCommand, argv, "handmesh-export"))

    sys.exit(guard("handmesh-export", body))


def synth() -> None:
    """handmesh-synth."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.synthetic.command import SynthCommand, run_synth

        run_synth(parse_flags(SynthCommand, argv, "handmesh-synth"))

    sys.exit(guard("handmesh-synth", body))


def evaluate() -> None:
    """handmesh-eval."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.evaluation.command import EvalCommand, run_eval

        run_eval(parse_flags(EvalCommand, argv, "handmesh-eval"), tuple(argv))

    sys.exit(guard("handmesh-eval", body))


def mano() -> None:
    """handmesh-mano."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.config import parse_flags
        from handmesh.hand_model.command import ManoCommand, run_mano

        run_mano(parse_flags(ManoCommand, argv, "handmesh-mano"))

    sys.exit(guard("handmesh-mano", body))


def hand() -> None:
    """handmesh-hand."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.render.hand_command import run_hand

        run_hand(argv)

    sys.exit(guard("handmesh-hand", body))


def bench() -> None:
    """handmesh-bench."""

    def body(argv: Sequence[str]) -> None:
        from handmesh.bench.command import run_bench

        run_bench(argv)

    sys.exit(guard("handmesh-bench", body))


def guard(program: str, body: Callable[[Sequence[str]], None]) -> int:
    """Run a command; turn what a user can do something about into one line and an exit code."""
    try:
        body(sys.argv[1:])
        # Now, so that a reader who has left is noticed here.
        sys.stdout.flush()
    except UserError as error:
        return _fail(program, str(error))
    except BrokenPipeError:
        # Whoever read our output has left (`| head`); the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ImportError, OSError) as error:
        cure = missing_part(error)
        if cure is None:
            raise
        return _fail(program, cure)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def missing_part(error: ImportError | OSError) -> str | None:
    """The cure for a package of an extra or a system library that is not there; None for any other error."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        if package in _EXTRAS:
            return f'this needs {package}, which is not installed; run: pip install "handmesh[{_EXTRAS[package]}]"'
    found = re.search(r"(lib[\w.+-]+?\.so[.\d]*): cannot open shared object file", str(error))
    if found is None:
        return None
    package = _SYSTEM_PACKAGES.get(found[1])
    cure = f"on Debian or Ubuntu run: apt-get install {package}" if package else "install the system package that has it"
    return f"the system library {found[1]} is missing; {cure}"


def _fail(program: str, message: str) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT
