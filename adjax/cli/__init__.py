"""The command line: its options here, what the commands do in the modules beside this one, imported when they run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from adjax import __version__
from adjax.errors import AdjaxError

LIVE_PORT = 47200  # of `adjax send` and `adjax receive`
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

    c = command(
        "live", "live.run", "code live audio from microphone to loudspeaker, and say how late and how whole it was"
    )
    _live_input(c)
    _live_output(c)
    c.add_argument("--fast", action="store_true", help="with two files: as fast as can be, not at real-time pace")
    c.add_argument("--web", action="store_true", help="serve a page that codes the microphone of a browser")
    c.add_argument("--host", default="127.0.0.1", help="with --web: own address (default: %(default)s, this machine)")
    c.add_argument("--port", type=_port, default=8080, help="with --web: own port (default: %(default)s)")
    c.add_argument("--no-open", action="store_true", help="with --web: do not open the page in a browser")
    _live_common(c)

    c = command("send", "live.send", "send live audio over UDP")
    c.add_argument("--host", default="127.0.0.1", help="where `adjax receive` runs (default: %(default)s)")
    c.add_argument("--port", type=_port, default=LIVE_PORT, help="its port (default: %(default)s)")
    c.add_argument(
        "--max-kbps", metavar="K", type=_positive_number, help="bound on the wire's bitrate; leaves out last codebooks"
    )
    _live_input(c)
    _live_common(c)

    c = command("receive", "live.receive", "play live audio that comes over UDP")
    c.add_argument("--bind", default="127.0.0.1", help="own address to listen on (default: %(default)s, this machine)")
    c.add_argument("--port", type=_port, default=LIVE_PORT, help="own port (default: %(default)s)")
    c.add_argument(
        "--jitter-ms", metavar="J", type=_not_negative, default=60.0, help="wait of packets (default: %(default)g)"
    )
    c.add_argument("--stay", action="store_true", help="after one sender's end wait for the next")
    c.add_argument("--model", metavar="M", help="the sender's; " + MODEL_HELP)
    _live_output(c)
    _live_common(c)

    c = command("train", "training.train", "train what a configuration describes")
    c.add_argument("config", metavar="CONFIG", help="Python file that defines `config`, or a run's folder")
    c.add_argument(
        "--run-dir", metavar="DIR", help="checkpoints, logs and the model (default: runs/ and CONFIG's name)"
    )
    c.add_argument("--set", metavar="A.B=C", action="append", default=[], help="change one value; may be repeated")
    c.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    c.add_argument(
        "--stop-after", metavar="MINUTES", type=_positive_number, help="save and end then, or when told to terminate"
    )
    c.add_argument("--export", metavar="DIR", help="write the model here too, small and for inference only")
    c.add_argument(
        "--export-type",
        choices=("float16", "int8", "sparse", "sparse-int4"),
        default="float16",
        help="of its weights; int8 and int4 are of kernels only, large weights apart, with a scale for each output "
        "channel, int4 for each input channel too; sparse is compressed, for models most of whose weights are 0 or "
        "started so (default: %(default)s)",
    )
    c.add_argument(
        "--average",
        metavar="N",
        type=_positive,
        default=1,
        help="with --export: means of the weights of the last N checkpoints that the run has kept (keep_every)",
    )
    c.add_argument("--distributed", action="store_true", help="one of several hosts: ask the environment of the pod")
    c.add_argument("--coordinator", metavar="HOST:PORT", help="one of several hosts: where the first of them listens")
    c.add_argument("--processes", metavar="N", type=_positive, help="with --coordinator: how many there are")
    c.add_argument("--process", metavar="I", type=int, help="with --coordinator: which of them this is, from 0")

    c = command("prepare", "preparation.run", "pack folders of audio for training at scale")
    c.add_argument("paths", metavar="PATHS", nargs="+", help="folders of audio; of a known corpus its folder")
    c.add_argument("out_dir", metavar="OUT_DIR", help="the prepared set, a new folder")
    c.add_argument("--rate", metavar="HZ", type=_positive, help="sample rate (default: that of the files)")
    c.add_argument("--layout", choices=("folder", "vctk", "libritts"), default="folder", help="(default: %(default)s)")
    c.add_argument("--name", metavar="N", help="the data set's name (default: audio, or the layout)")
    c.add_argument("--splits", metavar="DIR", help="use and verify these split lists, such as another set's splits/")
    c.add_argument(
        "--validation-share", metavar="P", type=_not_negative, help="share of a folder's files held out (default: 0)"
    )
    c.add_argument(
        "--microphone", choices=("mic1", "mic2", "both"), default="mic1", help="of VCTK 0.92 (default: %(default)s)"
    )
    c.add_argument("--shards", metavar="N", type=_positive, help="files of the largest split (default: 128 MiB each)")
    c.add_argument(
        "--segment-seconds",
        metavar="S",
        type=_positive_number,
        default=1.0,
        help="audio in a record, which is always read whole (default: %(default)g)",
    )
    c.add_argument("--workers", metavar="N", type=_positive, help="decoding threads (default: one a core, at most 8)")
    c.add_argument("--strict", action="store_true", help="fail at the first file that cannot be read")

    c = command("benchmark", "benchmarking.run", "measure latency, streams together or training on this machine")
    c.add_argument("what", choices=("latency", "throughput", "duplex", "training"))
    c.add_argument(
        "--model", metavar="M", help="measure this model (default: the published parts, and the default model)"
    )
    c.add_argument(
        "--parts",
        metavar="P",
        nargs="+",
        choices=("encoder", "sym", "v0", "v1", "v2"),
        help="these published parts only",
    )
    c.add_argument("--buffers", metavar="MS", nargs="+", type=_positive_number, help="(default: 12.5 25 50 100)")
    c.add_argument("--streams", metavar="N", type=_positive, help="streams together (default: 64, vocoders 16)")
    c.add_argument("--repeats", metavar="N", type=_positive, default=100, help="(default: %(default)s)")
    c.add_argument(
        "--config", metavar="C", default="symad48", help="training: a Python file as for `train`, or a model's name"
    )
    c.add_argument("--phase", choices=("metric", "adversarial"), help="training: this phase only")
    c.add_argument(
        "--batch", metavar="N", nargs="+", type=_positive, help="training: crops, each in turn (the configuration's)"
    )
    c.add_argument(
        "--precision", metavar="P", nargs="+", choices=("float32", "bfloat16"), help="training: each in turn (likewise)"
    )
    c.add_argument("--crop", metavar="N", type=_positive, help="training: samples of a crop (likewise)")
    c.add_argument("--steps", metavar="N", type=_positive, default=10, help="training: timed ones (default: 10)")
    c.add_argument("--json", action="store_true", help="print JSON instead of tables")
    c.add_argument("--plot", metavar="FILE", help="latency: a figure of it against the buffer (.png, .svg or .pdf)")

    c = command("evaluate", "evaluation.run", "measure the quality of models, Opus or decoded files on natural speech")
    c.add_argument("natural", metavar="NATURAL_FOLDER", nargs="*", help="folders, audio files or lists of files (.txt)")
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    c.add_argument("--model", metavar="M", **several, help=MODEL_HELP)
    c.add_argument("--codebooks", metavar="N", type=_positive, **several, help="numbers of codebooks (default: all)")
    c.add_argument(
        "--opus", metavar="KBPS", type=_positive_number, **several, help="also Opus at these actual rates per channel"
    )
    c.add_argument("--decoded", metavar="NAME=FOLDER", **several, help="decoded files of any codec, called as natural")
    c.add_argument("--output", metavar="DIR", dest="folder", help="write results.json and results.csv there")
    c.add_argument("--save-audio", action="store_true", help="natural and decoded audio to DIR as FLAC")
    c.add_argument("--plot", action="store_true", help="quality against bitrate to DIR as PNG and SVG")
    c.add_argument("--jobs", metavar="N", type=_positive, help="processes (default: one for each core)")
    c.add_argument("--limit", metavar="N", type=_positive, help="the first N files only")

    c = command("report", "reporting.run", "make a page to listen to, with all tables, of an evaluation")
    c.add_argument("evaluation", metavar="EVALUATION_DIR", help="what `adjax evaluate --output --save-audio` wrote")
    c.add_argument("output", metavar="OUT.html")
    c.add_argument("--run", metavar="RUN_DIR", dest="run_dirs", **several, help="training runs, for their curves")
    c.add_argument("--benchmark", metavar="FILE.json", **several, help="what `adjax benchmark … --json` printed")
    c.add_argument("--title", metavar="T")
    c.add_argument("--limit", metavar="N", type=_positive, default=10, help="utterances (default: %(default)s)")
    c.add_argument("--utterances", metavar="NAME", **several, help="to listen to these (default: the first)")
    c.add_argument("--systems", metavar="NAME", **several, help="to listen to these (default: all)")
    c.add_argument("--format", choices=("opus", "flac", "wav"), default="opus", help="(default: %(default)s)")
    c.add_argument("--kbps", metavar="K", type=_positive_number, default=128.0, help="of Opus (default: %(default)g)")
    c.add_argument("--credits", metavar="FILE", help="text on whose recordings and models these are, for the page")

    c = command("statistics", "statistics.run", "measure the latents that a vocoder is trained on")
    c.add_argument("model", metavar="MODEL", help="name or folder of the model whose encoder the vocoder goes with")
    c.add_argument("paths", metavar="PATHS", nargs="+", help="the training set: folders, audio files or lists of files")
    c.add_argument("--output", metavar="FILE", default="stats.npy", help="means and deviations (default: %(default)s)")

    c = command("export", "exporting.export", "write encode and decode steps that run without adjax's model code")
    c.add_argument("model", metavar="MODEL", help="a model's name or folder")
    c.add_argument("output", metavar="OUT_DIR", nargs="?", help="default: exported/ and the model's name")
    c.add_argument("--format", choices=("stablehlo",), default="stablehlo", help="(default: %(default)s)")
    c.add_argument("--frames", metavar="N", type=_positive, default=2, help="frames in a chunk (default: %(default)s)")

    c = command("import-torch", "porting.import_torch", "make a model folder, or a run's, of a released checkpoint")
    c.add_argument("--encoder", metavar="CKPT", help="checkpoint; its config.yml lies beside it")
    c.add_argument(
        "--decoder", metavar="CKPT", help="take the decoder, a vocoder or a symmetric one, from this checkpoint"
    )
    c.add_argument("--stats", metavar="FILE", help="the vocoder's input statistics (.npy) instead of its checkpoint's")
    c.add_argument(
        "--training",
        metavar="CKPT",
        help="make OUT_DIR a run that `adjax train OUT_DIR --resume` goes on with where this training checkpoint "
        "stopped; a vocoder's takes its frozen encoder from --encoder",
    )
    c.add_argument("--name", help="the model's name (default: the checkpoint's folder)")
    c.add_argument("output", metavar="OUT_DIR")
    c.set_defaults(wrong=_wrong_import)

    c = command("export-torch", "porting.export_torch", "write a model or a run as the PyTorch program loads it")
    c.add_argument("model", metavar="MODEL", help="a model's name or folder, or a run's folder: training goes on there")
    c.add_argument("output", metavar="OUT_DIR")
    c.add_argument("--steps", type=_positive, help="training steps to state in a model's checkpoint (default: 1)")
    c.add_argument("--at", metavar="STEP", type=int, help="a run's checkpoint (default: the latest)")
    return parser


def _wrong_import(arguments: argparse.Namespace) -> str | None:
    """What is wrong with options of `import-torch` that do not go together, or None."""
    if arguments.training and (arguments.decoder or arguments.stats):
        return "--training takes neither --decoder nor --stats: it takes both networks of its checkpoint"
    return None if arguments.training or arguments.encoder else "--encoder or --training is needed"


def _live_input(c: argparse.ArgumentParser) -> None:
    c.add_argument("--model", metavar="M", help=MODEL_HELP)
    c.add_argument("--codebooks", metavar="N", type=_positive, help="use the first N codebooks only (default: all)")
    c.add_argument("--input", metavar="FILE", help="audio file in place of a microphone")
    c.add_argument("--input-device", metavar="D", help="index or part of the name (default: the system's)")
    c.add_argument("--gain-db", metavar="G", type=_number, default=0.0, help="gain before the encoder (default: 0)")


def _live_output(c: argparse.ArgumentParser) -> None:
    c.add_argument("--output", metavar="FILE", help="audio file in place of a loudspeaker, at the model's rate")
    c.add_argument("--output-device", metavar="D", help="index or part of the name (default: the system's)")
    c.add_argument(
        "--buffer-ms",
        metavar="B",
        type=_not_negative,
        default=20.0,
        help="how late a chunk may be before the loudspeaker misses it (default: %(default)g)",
    )


def _live_common(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--chunk-ms",
        metavar="T",
        type=_positive_number,
        default=25.0,
        help="audio coded at once, rounded to whole hops (default: %(default)g)",
    )
    c.add_argument(
        "--device-latency", choices=("low", "high"), default="high", help="buffers asked of devices (default: high)"
    )
    c.add_argument("--record", metavar="PREFIX", help="write PREFIX-input.wav, PREFIX-output.wav or both")
    c.add_argument("--duration", metavar="S", type=_positive_number, help="seconds until it stops (default: Ctrl-C)")
    c.add_argument("--list-devices", action="store_true", help="list the sound devices and do nothing else")
    c.add_argument("--json", action="store_true", help="print the statistics as JSON")


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
    if reason := getattr(arguments, "wrong", lambda _: None)(arguments):
        parser.error(reason)
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


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) <= 1e6:
        raise ValueError
    return value


def _positive_number(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise ValueError
    return value


_number.__name__ = "number"
_positive_number.__name__ = "positive number"
_not_negative.__name__ = "number from 0 up"
_port.__name__ = "port number"
