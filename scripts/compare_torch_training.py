"""adjax's training step against an eager PyTorch step of the same layers and losses, in two processes that take turns.

Usage: python scripts/compare_torch_training.py [--phase metric|adversarial] [--batch N] [--crop SAMPLES] [--turns N]
The step is that of configs/symad48.py: symAD at 48 kHz, mel and commitment losses, Adam, codebooks by moving averages;
adversarial: encoder and codebooks frozen, the decoder's update, a second pass of it, the discriminators' update. Both
start from the same weights, and must give the same losses at their first two steps: so the gradients are compared too.
While one process steps, the other waits. PyTorch: float32, eager, its own threads. The natural crops' features get no
gradient, nor do the discriminators in the generator's update: the graph is no larger than it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from adjax.cli.training import ALLOCATOR, read_config
from adjax.config import TrainConfig

CONFIG = Path(__file__).parents[1] / "configs" / "symad48.py"
BATCH = {"metric": 16, "adversarial": 4}
CHECKED_STEPS, TOLERANCE = 2, 1e-3
REST_S = 0.3  # before a turn: the threads of the other process spin for some milliseconds
DILATIONS = (1, 3, 9)  # of a residual unit's first convolution
Step = Callable[[], dict[str, float]]


def adjax_step(config: TrainConfig, phase: str, folder: Path) -> Step:
    """Compiled; writes `folder`/state.npz for the other process."""
    import jax

    from adjax import dsp, torch_port
    from adjax.benchmark import steps
    from adjax.train.state import make_optimizers

    state = steps.random_state(config, make_optimizers(config))
    books = state.codebooks
    embed = 0.05 * books.embed  # about the latents' size, or every frame would have the same codes
    sizes = jax.numpy.full_like(books.cluster_size, 2.0)
    state = state._replace(codebooks=books._replace(embed=embed, embed_avg=2 * embed, cluster_size=sizes))
    mel, rate = config.losses.mel, config.model.sample_rate_hz
    generator = [row for row in torch_port.autoencoder_rows(config.model) if row.path and row.path[0] == "params"]
    arrays: dict[str, Any] = dict(torch_port.to_torch(generator, {"params": state.params}))
    if state.discriminators is not None and config.adversarial:
        arrays |= torch_port.to_torch(
            torch_port.discriminator_rows(config.adversarial.discriminators), state.discriminators
        )
    filters = dsp.mel_filters(rate, mel.fft_sizes[0], mel.bands[0], mel.fmin_hz, mel.fmax_hz)
    audio = steps.synthetic_batch(config)
    arrays |= {"embed": np.asarray(embed), "filters": filters, "audio": np.asarray(audio)}
    np.savez(folder / "state.npz", **arrays)
    run = steps.Run(config, cast(steps.PhaseName, phase), state, audio)
    return lambda: {name: float(value) for name, value in run.step().items()}


def torch_step(config: TrainConfig, phase: str, folder: Path) -> Step:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
    from torch.nn.utils.parametrizations import weight_norm

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with np.load(folder / "state.npz") as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    filters, audio = tensors.pop("filters"), tensors.pop("audio").transpose(1, 2).contiguous()

    def load(conv: Any, key: str) -> Any:
        """The convolution with its tensors of the state, weight-normed where they are."""
        if f"{key}.weight" in tensors:
            conv.weight.data = tensors.pop(f"{key}.weight")
        else:
            weight_norm(conv)
            parameter = conv.parametrizations.weight
            parameter.original0.data = tensors.pop(f"{key}.weight_g")
            parameter.original1.data = tensors.pop(f"{key}.weight_v")
        if conv.bias is not None:
            conv.bias.data = tensors.pop(f"{key}.bias")
        return conv

    class Causal(nn.Module):
        """Zeros to the left only, or for a transposed convolution the first frame once more."""

        def __init__(self, key: str, stride: int = 1, dilation: int = 1) -> None:
            super().__init__()
            self.up = f"{key}.deconv.weight" in tensors
            name = f"{key}.{'deconv' if self.up else 'conv'}"
            first, second, size = tensors[f"{name}.weight"].shape
            bias = f"{name}.bias" in tensors
            self.context = (size - 1) * dilation
            if self.up:
                conv = nn.ConvTranspose1d(first, second, size, stride, padding=stride, bias=bias)
            else:
                conv = nn.Conv1d(second, first, size, stride, dilation=dilation, bias=bias)
            self.conv = load(conv, name)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.cat((x[..., :1], x), -1) if self.up else F.pad(x, (self.context, 0)))

    class Unit(nn.Module):
        def __init__(self, key: str, dilation: int) -> None:
            super().__init__()
            self.conv1 = Causal(f"{key}.conv1", dilation=dilation)
            channels = tensors[f"{key}.conv2.weight"].shape[0]
            self.conv2 = load(nn.Conv1d(channels, channels, 1, bias=False), f"{key}.conv2")

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv2(F.elu(self.conv1(F.elu(x))))

    def network(first: str, last: str, strides: tuple[int, ...]) -> nn.Sequential:
        part = first.split(".")[0]
        layers: list[nn.Module] = [Causal(first)]
        for i, stride in enumerate(strides):
            block = f"{part}.conv_blocks.{i}"
            units = [Unit(f"{block}.res_units.{j}", dilation) for j, dilation in enumerate(DILATIONS)]
            resample = Causal(f"{block}.conv", stride)
            layers += [resample, *units] if part == "decoder" else [*units, resample]
        return nn.Sequential(*layers, Causal(last))

    class Quantizer:
        """Residual VQ whose codebooks, embed[stages, size, dim], are moving averages."""

        def __init__(self, embed: Tensor) -> None:
            self.embed, self.average = embed, 2 * embed
            self.sizes = torch.full(embed.shape[:2], 2.0)

        def __call__(self, z: Tensor, learn: bool) -> tuple[Tensor, Tensor]:
            """Latents [batch, dim, frames] quantized, and the sum of the stages' commitment losses."""
            q, residual = config.model.quantizer, z.transpose(1, 2)
            output, loss = torch.zeros_like(residual), torch.zeros(())
            for stage, embed in enumerate(self.embed):
                with torch.no_grad():
                    x = residual.reshape(-1, q.dim)
                    distance = x.square().sum(1, keepdim=True) - 2 * x @ embed.T + embed.square().sum(1)
                    index = distance.argmin(1)
                    chosen = F.embedding(index, embed).view_as(residual)
                    count = torch.bincount(index, minlength=len(embed)).float()
                    share = count / count.sum()
                    (-(share * (share + 1e-10).log()).sum()).exp()  # the perplexity, which is logged
                loss = loss + F.mse_loss(residual, chosen)
                kept = residual + (chosen - residual).detach()
                output, residual = output + kept, residual - kept
                if learn:
                    with torch.no_grad():
                        size = q.decay * self.sizes[stage] + (1 - q.decay) * count
                        sums = torch.zeros_like(embed).index_add_(0, index, x)
                        average = q.decay * self.average[stage] + (1 - q.decay) * sums
                        smoothed = (size + q.epsilon) / (size.sum() + len(size) * q.epsilon) * size.sum()
                        self.sizes[stage], self.average[stage] = size, average
                        self.embed[stage] = average / smoothed[:, None]
            return output.transpose(1, 2), loss

    mel = config.losses.mel
    window = torch.hann_window(mel.win_lengths[0])

    def log_mel(x: Tensor) -> Tensor:
        sizes = mel.fft_sizes[0], mel.hop_samples[0], mel.win_lengths[0]
        spectrum = torch.stft(x, *sizes, window, center=True, pad_mode="reflect", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.clamp(min=1e-10).sqrt().transpose(1, 2) @ filters).clamp(min=1e-10).log()

    class Layers(nn.Module):
        """A sub-discriminator: the outputs of its convolutions, each but the last after a leaky ReLU."""

        def __init__(self, convs: list[nn.Module], period: int, slope: float) -> None:
            super().__init__()
            self.convs, self.period, self.slope = nn.ModuleList(convs), period, slope

        def forward(self, x: Tensor) -> list[Tensor]:
            if self.period:
                x = F.pad(x, (0, -x.shape[-1] % self.period), mode="reflect")
                x = x.view(*x.shape[:2], -1, self.period)
            outputs = []
            for conv in self.convs[:-1]:
                x = F.leaky_relu(conv(x), self.slope)
                outputs.append(x)
            return [*outputs, self.convs[-1](x)]

    class Discriminators(nn.Module):
        def __init__(self, c: Any) -> None:
            super().__init__()
            self.scales = nn.ModuleList(Layers(list(self.scale(c.scale, i)), 0, c.scale.slope) for i in range(3))
            periods = enumerate(c.period.periods)
            self.periods = nn.ModuleList(Layers(list(self.period(c.period, i)), p, c.period.slope) for i, p in periods)

        @staticmethod
        def scale(c: Any, index: int) -> Iterator[nn.Module]:
            channels = 1
            for i, stride in enumerate((1, *c.strides, 1, 1)):
                last = i == len(c.strides) + 2
                key = f"msd.discriminators.{index}.layers.{i}" + (".conv" if last else ".0.conv")
                features, inputs, size = tensors[f"{key}.weight"].shape
                groups = channels // inputs
                yield load(nn.Conv1d(channels, features, size, stride, size // 2, groups=groups), key)
                channels = features

        @staticmethod
        def period(c: Any, index: int) -> Iterator[nn.Module]:
            for i, stride in enumerate((*c.strides, 1)):
                last = i == len(c.strides)
                key = f"mpd.discriminators.{index}." + ("output_conv.conv" if last else f"convs.{i}.0.conv")
                features, channels, size, _ = tensors[f"{key}.weight_v"].shape
                yield load(nn.Conv2d(channels, features, (size, 1), (stride, 1), (size // 2, 0)), key)

        def forward(self, x: Tensor) -> list[list[Tensor]]:
            outputs, pooled = [], x
            for i, scale in enumerate(self.scales):
                pooled = F.avg_pool1d(pooled, 4, 2, 2) if i else pooled
                outputs.append(scale(pooled))
            return outputs + [period(x) for period in self.periods]

    def adam(parameters: Any, c: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, c.learning_rate, c.betas, c.epsilon)

    model, weights = cast(Any, config.model), config.losses
    encoder = network("encoder.conv", "projector.project", model.encoder.strides)
    decoder = network("decoder.conv1", "decoder.conv2", model.decoder.strides)
    quantizer, adversarial = Quantizer(tensors.pop("embed")), config.adversarial
    trained = [*decoder.parameters()] if phase == "adversarial" else [*encoder.parameters(), *decoder.parameters()]
    optimizer, others, discriminators = adam(trained, config.optimizer), None, None
    if adversarial:
        discriminators = Discriminators(adversarial.discriminators)
        others = adam(discriminators.parameters(), adversarial.optimizer)
    assert not tensors, f"not taken: {', '.join(tensors)}"

    def metric_losses(decoded: Tensor, vq: Tensor) -> dict[str, Tensor]:
        distance = F.l1_loss(log_mel(decoded[:, 0]), log_mel(audio[:, 0]))
        return {"mel_loss": weights.mel_weight * distance, "vqloss": weights.vq_weight * vq}

    def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def metric() -> dict[str, float]:
        zq, vq = quantizer(encoder(audio), learn=True)
        terms = metric_losses(decoder(zq), vq)
        update(optimizer, sum(terms.values(), torch.zeros(())))
        return {name: term.item() for name, term in terms.items()}

    def against_discriminators() -> dict[str, float]:
        assert adversarial
        assert discriminators
        assert others
        discriminators.requires_grad_(False)
        with torch.no_grad():
            zq, vq = quantizer(encoder(audio), learn=False)
            natural = discriminators(audio)
        decoded = decoder(zq)
        terms = metric_losses(decoded, vq)
        fake = discriminators(decoded)
        scores = torch.stack([(layers[-1] - 1).square().mean() for layers in fake]).sum()
        pairs = [pair for a, b in zip(fake, natural, strict=True) for pair in zip(a[:-1], b[:-1], strict=True)]
        matching = torch.stack([F.l1_loss(a, b) for a, b in pairs]).sum()
        terms["adversarial_loss"] = adversarial.weight * (scores + adversarial.feature_weight * matching)
        update(optimizer, sum(terms.values(), torch.zeros(())))
        discriminators.requires_grad_(True)
        with torch.no_grad():
            decoded = decoder(zq)
        terms["real_loss"] = torch.stack([(a[-1] - 1).square().mean() for a in discriminators(audio)]).sum()
        terms["fake_loss"] = torch.stack([a[-1].square().mean() for a in discriminators(decoded)]).sum()
        update(others, terms["real_loss"] + terms["fake_loss"])
        return {name: term.item() for name, term in terms.items()}

    return against_discriminators if phase == "adversarial" else metric


def work(options: argparse.Namespace, config: TrainConfig) -> None:
    """Builds a step, then makes as many as each line of the input says; a line of JSON for each line."""
    start = time.perf_counter()
    make = adjax_step if options.worker == "adjax" else torch_step
    step = make(config, options.phase, Path(options.folder))
    losses = [step() for _ in range(CHECKED_STEPS)]
    print(json.dumps({"losses": losses, "ready_s": round(time.perf_counter() - start, 1)}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps({"seconds": seconds, "peak_gb": round(peak, 2)}), flush=True)


class Worker:
    """The other end of `work`."""

    def __init__(self, name: str, folder: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--folder", folder]
        environment = os.environ | (ALLOCATOR | {"JAX_PLATFORMS": "cpu"} if name == "adjax" else {})
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.first = self._answer()

    def steps(self, count: int) -> dict[str, Any]:
        assert self._process.stdin
        print(count, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


def disagreements(a: list[dict[str, float]], b: list[dict[str, float]]) -> list[tuple[str, float]]:
    """Relative difference of every loss of every checked step."""
    return [
        (f"{name}, step {i + 1}: {x[name]:.5f} and {value:.5f}", abs(x[name] - value) / max(abs(value), 1e-6))
        for i, (x, y) in enumerate(zip(a, b, strict=True))
        for name, value in y.items()
    ]


def report(
    options: argparse.Namespace, compared: list[tuple[str, float]], turns: dict[str, list[list[float]]], facts: Any
) -> None:
    medians = {name: np.median([s for turn in rows for s in turn]) for name, rows in turns.items()}
    ratios = [np.median(b) / np.median(a) for a, b in zip(turns["adjax"], turns["torch"], strict=True)]
    result = {
        "phase": options.phase,
        "batch": options.batch or BATCH[options.phase],
        "crop": options.crop,
        "steps": sum(map(len, turns["adjax"])),
        **{f"{name}_s": round(float(value), 3) for name, value in medians.items()},
        **{f"{name}_min_s": round(min(s for turn in rows for s in turn), 3) for name, rows in turns.items()},
        "ratio_of_medians": round(float(medians["torch"] / medians["adjax"]), 2),
        "ratio_by_turn": [round(float(ratio), 2) for ratio in ratios],
        **facts,
    }
    if options.json:
        print(json.dumps({"compared": dict(compared), **result}, indent=1))
        return
    for line, difference in compared:
        print(f"{line}, relative difference {difference:.1e}")
    print(*(f"{name}: {value}" for name, value in result.items()), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=BATCH, default="metric")
    parser.add_argument("--batch", type=int, help="crops (default: 16, adversarial 4)")
    parser.add_argument("--crop", type=int, default=9600, help="samples of a crop (default: 9600)")
    parser.add_argument("--turns", type=int, default=3, help="of each process (default: 3)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn (default: 2)")
    parser.add_argument("--threads", type=int, default=2, help="cores for both (default: 2)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("adjax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = read_config(CONFIG)
    data = replace(config.data, batch_size=options.batch or BATCH[options.phase], crop_samples=options.crop)
    config = replace(config, data=data, adversarial=config.adversarial if options.phase == "adversarial" else None)
    if options.worker:
        return work(options, config)
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(cores):
        parser.error(f"--threads must be 1 to {len(cores)}, the cores of this process")
    os.sched_setaffinity(0, cores[: options.threads])
    with tempfile.TemporaryDirectory() as folder:
        workers = {name: Worker(name, folder) for name in ("adjax", "torch")}
        compared = disagreements(*(worker.first["losses"] for worker in workers.values()))
        if not max(difference for _, difference in compared) < TOLERANCE:
            raise SystemExit("adjax and PyTorch differ:\n" + "\n".join(f"{line} ({d:.1e})" for line, d in compared))
        turns: dict[str, list[list[float]]] = {name: [] for name in workers}
        facts: dict[str, Any] = {"threads": options.threads}
        facts |= {f"{name}_ready_s": worker.first["ready_s"] for name, worker in workers.items()}
        for _ in range(options.turns):
            for name, worker in workers.items():
                time.sleep(REST_S)
                answer = worker.steps(options.steps)
                turns[name].append(answer["seconds"])
                facts[f"{name}_peak_gb"] = answer["peak_gb"]
        for worker in workers.values():
            worker.close()
    report(options, compared, turns, facts)


if __name__ == "__main__":
    main()
