"""Training, in two phases, each as long as it may take.

    python -m training.network.train --icons icons128.npz --phase broad --minutes 45 --out broad.pt
    python -m training.network.train --icons icons128.npz --phase sure --minutes 30 --start broad.pt --out network.pt

One process takes the steps; a second, `--helper`, adds gradients from parameters that may be one step old, with
whatever the machine leaves it. In the last phase the learning rate falls with the clock, so its time is used up.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, multiprocessing

from training.network.data import SHARES, Batch, Icons, Maker
from training.network.model import Network

BATCH: Final = 32
RATE: Final = 1.5e-3
WARM_UP: Final = 100
AVERAGE: Final = 0.999


def loss_of(network: Network, batch: Batch, dice: torch.Generator) -> Tensor:
    """Return the mean of min(1, 6 / (snr + 1)) times the squared error of v, at times spread over the batch."""
    count = len(batch.clean)
    spread = (torch.arange(count) + torch.rand(count, generator=dice)) / count
    times = 0.002 + 0.996 * spread[torch.randperm(count, generator=dice)]
    noise = torch.randn(batch.clean.shape, generator=dice)
    angle = (times * (math.pi / 2))[:, None, None, None]
    noisy = angle.cos() * batch.clean + angle.sin() * noise
    guess = network(noisy, times, batch.given, batch.flags)
    snr = (angle.cos() / angle.sin()) ** 2
    return (torch.minimum(snr + 1, torch.full_like(snr, 6.0)) * (guess - batch.clean) ** 2).mean()


def flat(tensors: Iterator[Tensor]) -> Tensor:
    """Return all numbers in one row."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def unflatten(row: Tensor, tensors: Iterator[Tensor]) -> None:
    """Copy a row's numbers into the tensors."""
    start = 0
    for tensor in tensors:
        tensor.data.copy_(row[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


def help_out(icons: Path, phase: str, seed: int, parameters: Tensor, gradients: Tensor, ready: Tensor) -> None:
    """Give gradients for ever, each as soon as the last has been taken."""
    torch.set_num_threads(1)
    os.nice(6)
    network, maker = Network(), Maker(Icons(icons), seed, phase)
    network.to(memory_format=torch.channels_last)
    dice = torch.Generator().manual_seed(seed)
    while True:
        unflatten(parameters, network.parameters())
        network.zero_grad()
        loss_of(network, maker.batch(BATCH), dice).backward()
        while ready.item():
            time.sleep(0.005)
        gradients.copy_(flat(one.grad for one in network.parameters() if one.grad is not None))
        ready.fill_(1)


def rate_at(step: int, part: float, phase: str) -> float:
    """Return the learning rate after a part (0..1) of the time."""
    falling = max(0.01, 1 - part) if phase == "sure" else 1.0
    return RATE * min(1.0, (step + 1) / WARM_UP) * falling


def train(icons: Path, phase: str, minutes: float, start: Path | None, out: Path, seed: int, *, helper: bool) -> None:
    """Train for so many minutes; writes the averaged parameters and a log of losses every minute."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network, maker = Network(), Maker(Icons(icons), seed, phase)
    if start is not None:
        network.load_state_dict(torch.load(start, weights_only=True))
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    average = flat(network.parameters())
    parameters, gradients, ready = average.clone().share_memory_(), torch.zeros_like(average).share_memory_(), None
    if helper:
        ready = torch.zeros((), dtype=torch.int32).share_memory_()
        multiprocessing.get_context("spawn").Process(
            target=help_out, args=(icons, phase, seed + 1, parameters, gradients, ready), daemon=True
        ).start()
    dice = torch.Generator().manual_seed(seed)
    begun = told = time.monotonic()
    images = helped = step = 0
    losses: list[float] = []
    while (part := (time.monotonic() - begun) / (60 * minutes)) < 1:
        optimiser.zero_grad()
        loss = loss_of(network, maker.batch(BATCH), dice)
        loss.backward()
        images += BATCH
        if ready is not None and ready.item():
            _join(network, gradients)
            ready.fill_(0)
            images += BATCH
            helped += 1
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, part, phase)
        optimiser.step()
        step += 1
        row = flat(network.parameters())
        parameters.copy_(row)
        average.lerp_(row, 1 - min(AVERAGE, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if time.monotonic() - told > 60:
            told = time.monotonic()
            recent = sum(losses[-100:]) / len(losses[-100:])
            line = {"minute": round((told - begun) / 60), "step": step, "images": images, "loss": round(recent, 4)}
            print(json.dumps(line | {"helped": helped}), flush=True)
            save(network, average, out)
    save(network, average, out)


def _join(network: Network, gradients: Tensor) -> None:
    start = 0
    for one in network.parameters():
        assert one.grad is not None, "backward has run"
        one.grad.add_(gradients[start : start + one.numel()].view_as(one)).mul_(0.5)
        start += one.numel()


def save(network: Network, average: Tensor, out: Path) -> None:
    """Write the averaged parameters, by their names."""
    kept = Network()
    kept.load_state_dict(network.state_dict())
    unflatten(average, kept.parameters())
    partial = out.with_suffix(".part")
    torch.save(kept.state_dict(), partial)
    partial.replace(out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--phase", choices=SHARES, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--helper", action="store_true")
    given = parser.parse_args()
    train(given.icons, given.phase, given.minutes, given.start, given.out, given.seed, helper=given.helper)


if __name__ == "__main__":
    main()
