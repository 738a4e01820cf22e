"""adjax's streaming steps against eager PyTorch modules of the same layers and weights, turn by turn in one process.

Both take NumPy arrays and return them; weights are random, weight norm is folded. At the start both must give equal
codes and audio from zero buffers. PyTorch runs as a streamer does that does no more: float32, inference mode, not
compiled. With --streams adjax steps all in one batch, against PyTorch one stream after another and in one batch.
On a busy machine PyTorch's threads lose time waiting for each other: compare OMP_WAIT_POLICY=passive and a quiet one.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, cast

import numpy as np

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError:
    raise SystemExit("compare_torch.py needs PyTorch: pip install 'adjax[torch]'") from None

PARTS = {"enc": "symad48", "sym": "symad48", "v0": "symad48-v0", "v1": "symad48-v1", "v2": "symad48-v2"}
LAST_SLOPE = 0.01  # of a vocoder's last leaky ReLU
TURN, WARM_CALLS = 10, 2  # calls in a row before the other's turn, and those before them that do not count
REST_S = 0.01  # before a turn: the waiting threads of one library spin for some milliseconds on the other's cores
CHECKED_CHUNKS, TOLERANCE = 4, 1e-4
Weights = dict[str, Tensor]  # by a checkpoint's names; whoever builds a layer takes its tensors out
Call = Callable[[np.ndarray], np.ndarray]


class Causal(nn.Module):
    """A convolution that keeps the end of its input as the next call's left context."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, context: int) -> None:
        super().__init__()
        self.conv, self.context = conv, context
        self.reset(1)

    def reset(self, streams: int) -> None:
        self.buffer = self.conv.weight.new_zeros(streams, self.conv.in_channels, self.context)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.buffer, x), -1)
        self.buffer = x[..., -self.context :]
        return self.conv(x)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Mean(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, (block(x) for block in self)) / len(self)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def conv1d(weights: Weights, key: str, stride: int = 1, dilation: int = 1, groups: int = 1, up: bool = False) -> Any:
    tensors = {name: weights.pop(f"{key}.{name}") for name in ("weight", "bias") if f"{key}.{name}" in weights}
    first, second, size = tensors["weight"].shape
    if up:
        conv = nn.ConvTranspose1d(first, second, size, stride, padding=stride)  # drops a stride at both ends
    else:
        sizes, bias = (second * groups, first, size, stride, 0, dilation, groups), "bias" in tensors
        conv = nn.Conv1d(*sizes, bias)
    conv.load_state_dict(tensors)
    return conv


def causal(weights: Weights, key: str, stride: int = 1, dilation: int = 1, groups: int = 1) -> Causal:
    if f"{key}.deconv.weight" in weights:
        return Causal(conv1d(weights, f"{key}.deconv", stride, up=True), 1)
    conv = conv1d(weights, f"{key}.conv", stride, dilation, groups)
    return Causal(conv, (conv.kernel_size[0] - 1) * dilation)


def autoencoder(weights: Weights, strides: Sequence[int], first: str, last: str) -> nn.Sequential:
    def unit(key: str, dilation: int) -> nn.Sequential:
        inner, outer = causal(weights, f"{key}.conv1", dilation=dilation), conv1d(weights, f"{key}.conv2")
        return Residual(nn.ELU(), inner, nn.ELU(inplace=True), outer)

    layers: list[nn.Module] = [causal(weights, first)]
    for i, stride in enumerate(strides):
        block = f"{first.split('.')[0]}.conv_blocks.{i}"
        units = [unit(f"{block}.res_units.{j}", dilation) for j, dilation in enumerate((1, 3, 9))]
        resample = causal(weights, f"{block}.conv", stride)
        layers += [resample, *units] if block.startswith("decoder") else [*units, resample]
    return nn.Sequential(*layers, causal(weights, last))


def vocoder(weights: Weights, c: Any) -> nn.Sequential:
    act, inplace = nn.LeakyReLU(c.slope), nn.LeakyReLU(c.slope, inplace=True)

    def block(key: str, dilations: Sequence[int]) -> nn.Sequential:
        first = [causal(weights, f"{key}.convs1.{k}", 1, d, c.groups) for k, d in enumerate(dilations)]
        second = [causal(weights, f"{key}.convs2.{k}", groups=c.groups) for k in range(len(dilations))]
        return nn.Sequential(*(Residual(act, a, inplace, b) for a, b in zip(first, second, strict=True)))

    mean, scale = (weights.pop(name)[:, None] for name in ("mean", "scale"))
    layers: list[nn.Module] = [Function(lambda zq: (zq - mean) / scale), causal(weights, "input_conv")]
    for i, stride in enumerate(c.strides):
        layers += [act, causal(weights, f"upsamples.{i}", stride)]
        if c.groups > 1:
            tile, mix = Function(lambda x: x.repeat(1, c.groups, 1)), conv1d(weights, f"blocks.{i}.conv_out")
            layers += [tile, block(f"blocks.{i}", c.block_dilations[0]), mix]
        else:
            layers += [Mean(block(f"blocks.{i}.blocks.{j}", row) for j, row in enumerate(c.block_dilations))]
    return nn.Sequential(*layers, nn.LeakyReLU(LAST_SLOPE), causal(weights, "output_conv"), nn.Tanh())


def quantizer(embed: Tensor) -> Function:
    """Latents [batch, dim, frames] to codes [batch, frames, stages]."""
    norms = embed.square().sum(-1)

    def encode(z: Tensor) -> Tensor:
        residual, codes = z.transpose(1, 2), []
        for stage, norm in zip(embed, norms, strict=True):
            distance = residual.square().sum(-1, keepdim=True) - 2 * (residual @ stage.T) + norm
            codes.append(distance.argmin(-1))
            residual = residual - (residual + (stage[codes[-1]] - residual))
        return torch.stack(codes, -1)

    return Function(encode)


def lookup(embed: Tensor) -> Function:
    """Codes [batch, frames, stages] to latents [batch, dim, frames]."""
    table, offsets = embed.flatten(0, 1), torch.arange(len(embed)) * embed.shape[1]
    return Function(lambda codes: nn.functional.embedding(codes + offsets, table).sum(2).transpose(1, 2))


def build(part: str) -> tuple[Any, nn.Module]:
    """adjax's codec and the PyTorch module of one part, with the same random weights."""
    from adjax import streaming, torch_port, zoo
    from adjax.benchmark import random_variables
    from adjax.models.codec import without_weight_norm
    from adjax.nn.conv import fold_weight_norm

    model = zoo.MODELS[PARTS[part]]
    variables, folded = random_variables(model), without_weight_norm(model)
    encoder, decoder = cast(Any, folded.encoder), cast(Any, folded.decoder)
    tree, books = {"params": fold_weight_norm(variables["params"])}, variables["codebook"]["quantizer"]
    rows = torch_port.autoencoder_rows(zoo.MODELS["symad48"])
    if part.startswith("v"):
        tree = {"params": {"decoder": tree["params"]["decoder"]}, "stats": variables["stats"]}
        rows = torch_port.vocoder_rows(decoder, model.quantizer.dim)
    rows = [row for row in rows if row.path is not None and row.path[0] != "codebook"]  # stream buffers neither
    weights = {key: torch.tensor(array) for key, array in torch_port.to_torch(rows, tree).items()}
    embedding = lookup(torch.tensor(books["embed"]))
    if part == "enc":
        latents = autoencoder(weights, encoder.strides, "encoder.conv", "projector.project")
        with torch.inference_mode():  # codebooks as large as the latents, or every frame would have the same codes
            books["embed"] *= latents(0.1 * torch.randn(1, 1, 48000)).std().item()
        layers = latents, quantizer(torch.tensor(books["embed"]))
    elif part == "sym":
        layers = embedding, autoencoder(weights, decoder.strides, "decoder.conv1", "decoder.conv2")
    else:
        layers = embedding, vocoder(weights, decoder)
    return streaming.Codec(model, variables), nn.Sequential(*layers).eval()


def adjax_call(codec: Any, part: str, streams: int) -> Call:
    from adjax.streaming import zero_start

    init, step = (codec.init_encoder, codec.encode_step) if part == "enc" else (codec.init_decoder, codec.decode_step)
    state = [zero_start(init(streams))]

    def call(x: np.ndarray) -> np.ndarray:
        state[0], y = step(state[0], x)
        return np.asarray(y)

    return call


def torch_call(net: nn.Module, streams: int) -> Call:
    for module in net.modules():
        if isinstance(module, Causal):
            module.reset(streams)
    device = next(net.parameters()).device

    @torch.inference_mode()
    def call(x: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(x).to(device)).cpu().numpy()

    return call


def chunk(codec: Any, part: str, streams: int, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random input of a part as adjax takes it and as PyTorch does: channels first, codes as int64."""
    rng = np.random.default_rng(seed)
    if part == "enc":
        x = 0.1 * rng.standard_normal((streams, samples, 1), np.float32)
        return x, x.reshape(streams, 1, samples)
    x = rng.integers(0, codec.codebook_size, (streams, samples // codec.hop_length, codec.num_codebooks))
    return x.astype(np.int32), x


def check(codec: Any, net: nn.Module, part: str, samples: int) -> str:
    """How well both agree over chunks from zero buffers; SystemExit where they do not."""
    calls, chunks = (adjax_call(codec, part, 1), torch_call(net, 1)), []
    for seed in range(CHECKED_CHUNKS):
        inputs = chunk(codec, part, 1, samples, seed)
        chunks.append([call(x).ravel() for call, x in zip(calls, inputs, strict=True)])
    a, b = np.concatenate(chunks, axis=1)
    peak, error = np.abs(b).max(), np.abs(a - b).max()
    if not error < (1 if part == "enc" else TOLERANCE * min(1, peak)):
        share = f"{np.mean(a != b):.2%} of the codes" if part == "enc" else f"audio by {error:.1e}, its peak {peak:.2g}"
        raise SystemExit(f"adjax and PyTorch differ in {part} with chunks of {samples} samples: {share}")
    agreed = f"{a.size} codes equal" if part == "enc" else f"audio within {error:.1e} at a peak of {peak:.2g}"
    return f"{part}, {CHECKED_CHUNKS} chunks of {samples} samples from zero buffers: {agreed}"


def measure(codec: Any, net: nn.Module, part: str, samples: int, streams: int, repeats: int) -> dict[str, Any]:
    """Milliseconds for a chunk of every stream, the contenders taking turns, and seconds of audio per second."""
    (many, many_torch), (_, one) = chunk(codec, part, streams, samples), chunk(codec, part, 1, samples)
    ours, alone = adjax_call(codec, part, streams), torch_call(net, 1)
    calls = {"adjax": lambda: ours(many), "torch": lambda: [alone(one) for _ in range(streams)]}
    if streams > 1:
        batch = torch_call(copy.deepcopy(net), streams)
        calls["torch_batch"] = lambda: batch(many_torch)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(-(-repeats // TURN)):
        for name, call in calls.items():
            time.sleep(REST_S)
            for _ in range(WARM_CALLS):
                call()
            for _ in range(TURN):
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
    row: dict[str, Any] = {"part": part, "samples": samples}
    for name, ms in times.items():
        for key, value in (("median", np.median(ms)), ("min", np.min(ms)), ("p95", np.percentile(ms, 95))):
            row[f"{name}_{key}_ms"] = round(float(value), 2)
        if streams > 1:
            seconds = streams * samples / codec.sample_rate
            row[f"{name}_audio_s_per_s"] = round(1000 * seconds / float(np.median(ms)), 2)
    ratios = {f"ratio_of_{key}": row[f"torch_{key}_ms"] / row[f"adjax_{key}_ms"] for key in ("median", "min")}
    return row | {key: round(ratio, 2) for key, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="adjax against eager PyTorch")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--buffers", nargs="+", type=int, default=[600, 1200, 2400, 4800], help="samples at 48 kHz")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, help="cores for both; by default all that the process may use")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    threads = len(cores) if options.threads is None else options.threads
    if not 1 <= threads <= len(cores):
        parser.error(f"--threads must be 1 to {len(cores)}, the cores of this process")
    os.sched_setaffinity(0, cores[:threads])  # before jax sizes its thread pool
    torch.set_num_threads(threads)
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if options.device == "cuda":
        if not torch.cuda.is_available() or jax.default_backend() != "gpu":
            parser.error("--device cuda needs a GPU, a PyTorch with CUDA and adjax[cuda]")
        jax.config.update("jax_default_matmul_precision", "float32")  # neither uses TF32
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # XLA compares algorithms too
    torch.manual_seed(0)
    with torch.device(options.device):
        pairs = {part: build(part) for part in options.parts}
    jobs = [(*pairs[part], part, samples) for part in options.parts for samples in options.buffers]
    checks = [check(*job) for job in jobs]
    rows = [measure(*job, options.streams, options.repeats) for job in jobs]
    processors = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    machine = {"cpu": (processors or [platform.processor()])[0], "cores": os.cpu_count(), "threads": threads}
    machine |= {"streams": options.streams, "device": jax.devices()[0].device_kind, "load_average": os.getloadavg()}
    machine |= {"jax": jax.__version__, "torch": torch.__version__, "kernels": pairs[options.parts[0]][0].uses_kernels}
    machine["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "default")
    if options.json:
        print(json.dumps({"machine": machine, "checks": checks, "rows": rows}, indent=1))
        return
    print(*checks, sep="\n", end="\n\n")
    table = [[key.replace("_per_", "/").replace("_", " ") for key in rows[0]], ["---"] * len(rows[0])]
    for line in [*table, *(row.values() for row in rows)]:
        print(f"| {' | '.join(map(str, line))} |")
    print("", *(f"{key}: {value}" for key, value in machine.items()), sep="\n")


if __name__ == "__main__":
    main()
