"""The command line: its options here, what the commands do in the modules beside this one, imported when they run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from adjax import __version__
from adjax.errors import AdjaxError

MODEL_HELP = "a model's name or folder (default: the model that comes with adjax)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` in its result is "module.function" of the command, in this package."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")
    parser = argparse.ArgumentParser(
        prog="adjax", description="A streaming neural speech codec in JAX.", parents=[debug], allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"adjax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[debug], allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    c = command("models", "models.models", "list the models known here")
    c.add_argument("--json", action="store_true", help="print JSON instead of a table")

    c = command("encode", "coding.encode", "encode an audio file to a bitstream")
    c.add_argument("input", metavar="IN", help="any audio file that libsndfile reads, at any rate and channel count")
    c.add_argument("output", metavar="OUT.adjx", nargs="?", help="default: IN with the extension .adjx")
    c.add_argument("--model", metavar="M", help=MODEL_HELP)
    c.add_argument("--codebooks", metavar="N", type=_positive, help="use the first N codebooks only (default: all)")

    c = command("decode", "coding.decode", "decode a bitstream to an audio file")
    c.add_argument("input", metavar="IN.adjx")
    c.add_argument("output", metavar="OUT.wav", nargs="?", help="default: IN with the extension .wav, if not there yet")
    c.add_argument("--model", metavar="M", help="the model it was encoded with; " + MODEL_HELP)
    c.add_argument(
        "--rate", choices=("input", "model"), default="input", help="sample rate: the encoded file's or the model's"
    )
    c.add_argument(
        "--skip-damaged", action="store_true", help="decode damaged blocks as silence and name them, instead of failing"
    )

    c = command("roundtrip", "coding.roundtrip", "encode and decode an audio file and say how well and how fast")
    c.add_argument("input", metavar="IN", help="any audio file that libsndfile reads")
    c.add_argument("output", metavar="OUT.wav", help="decoded audio; a picture of both spectrograms goes to OUT.png")
    c.add_argument("--model", metavar="M", help=MODEL_HELP)
    c.add_argument("--codebooks", metavar="N", type=_positive, help="use the first N codebooks only (default: all)")

    c = command("info", "models.info", "show what a bitstream holds and check every block of it")
    c.add_argument("input", metavar="FILE.adjx")
    c.add_argument("--json", action="store_true", help="print JSON instead of text")

    c = command("train", "training.train", "train what a configuration describes")
    c.add_argument("config", metavar="CONFIG", help="Python file that defines `config`, or a run's folder")
    c.add_argument(
        "--run-dir", metavar="DIR", help="checkpoints, logs and the model (default: runs/ and CONFIG's name)"
    )
    c.add_argument("--set", metavar="A.B=C", action="append", default=[], help="change one value; may be repeated")
    c.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    c.add_argument("--export", metavar="DIR", help="write the model here too, in float16 and for inference only")

    c = command("import-torch", "porting.import_torch", "make a model folder of a released PyTorch checkpoint")
    c.add_argument("--encoder", metavar="CKPT", required=True, help="checkpoint; its config.yml lies beside it")
    c.add_argument("--decoder", metavar="CKPT", help="take the decoder from this checkpoint instead")
    c.add_argument("--name", help="the model's name (default: the checkpoint's folder)")
    c.add_argument("output", metavar="OUT_DIR")

    c = command("export-torch", "porting.export_torch", "write a model as the PyTorch program loads it")
    c.add_argument("model", metavar="MODEL", help="a model's name or folder")
    c.add_argument("output", metavar="OUT_DIR")
    c.add_argument("--steps", type=_positive, default=1, help="training steps to state in the checkpoint")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command (of `sys.argv` by default) and returns its exit status: 0, 1 on failure, 130 on interruption.

    Exits by SystemExit after --help and --version (0) and on wrong usage (2).
    """
    arguments = _parse(argv)
    arguments.from_shell = argv is None
    if arguments.from_shell and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # unfinished outputs are removed then too
    try:
        module, function = arguments.run.split(".")
        getattr(import_module(f"adjax.cli.{module}"), function)(arguments)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("adjax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if getattr(arguments, "debug", False):
            raise
        print(f"adjax: error: {' '.join(explain(error).split())}", file=sys.stderr)
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """As `parse_args`, but takes the optional OUT also behind options, as in `encode IN --model M OUT`."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(arguments, "output", "") is None:
        arguments.output = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def explain(error: Exception) -> str:
    """One line on what went wrong."""
    if isinstance(error, AdjaxError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory; shorter inputs, smaller batches or fewer channels take less"
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package '{error.name}' is needed for this command, but is not installed"
    return f"unexpected {type(error).__name__}: {error}; --debug shows where"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive whole number"  # argparse's message names the type
