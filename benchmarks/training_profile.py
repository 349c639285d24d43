"""Where the time of training goes, and how far that is from what the operations and bytes would take.

    python benchmarks/training_profile.py recipes/an4.yaml PATH/an4
    OMP_NUM_THREADS=1 python benchmarks/training_profile.py recipes/librispeech-mini.yaml PATH/LibriSpeech --bf16

A few steps of a recipe as `hf-speechrec train` would do them: reading, augmentation, features, forward, backward,
clipping, AdamW; on a GPU where there is one. The floor is that of the model's multiplications at the speed of a large
matrix product here, and of its feature maps, weights and optimiser states moved once each way at the speed of a copy.
Freed memory is kept on a CPU, as in a run.
"""

import argparse
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechrec import ResNetBiGruConfig
from hf_speechrec.augmentation import Augmentation
from hf_speechrec.corpora import read_corpus
from hf_speechrec.recipe import Recipe
from hf_speechrec.trainer import keep_freed_memory
from hf_speechrec.training_recognizer import recognizer_parts

# How the profiler's names of them begin, children counted in; no two of them hold one another.
PARTS = {
    "data": ("enumerate(DataLoader)",),
    "convolutions": ("aten::conv2d", "aten::convolution_backward"),
    "norms, GELUs": ("aten::layer_norm", "aten::native_layer_norm_backward", "aten::gelu"),
    "GRUs": ("_GRUFunction", "aten::_cudnn_rnn"),  # and what begins so: their backward passes
    "CTC": ("aten::ctc_loss", "CtcLossBackward", "CudnnCtcLossBackward"),
    "optimiser": ("Optimizer.step", "aten::_foreach_norm"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("corpus")
    parser.add_argument("--steps", type=int, default=8, help="steps timed, and then profiled")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe.from_yaml(arguments.recipe, {"corpus": arguments.corpus})
    corpus = read_corpus(recipe.corpus, recipe.train_split)
    parts = recognizer_parts(recipe, corpus, None, Augmentation(**(recipe.augmentation or {})), seed=0)
    corpus = parts.train_set.add_column("augment", [True] * len(parts.train_set))
    order = list(LengthGroupedSampler(arguments.batch_size, lengths=corpus["duration"]))
    batches = [order[i : i + arguments.batch_size] for i in range(0, len(order), arguments.batch_size)]
    # Drawn evenly over the lengths: the first of the sampler's batches is its longest.
    batches = batches[:: max(1, len(batches) // arguments.steps)][: arguments.steps]
    loader = DataLoader(corpus, batch_sampler=batches, collate_fn=parts.data_collator, num_workers=arguments.workers)
    audio = sum(corpus[row]["duration"] for rows in batches for row in rows)

    if device.type == "cpu":
        keep_freed_memory()
    model = parts.model.to(device).train()
    train(model, itertools.islice(loader, 2), arguments.bf16)
    elapsed = train(model, loader, arguments.bf16)
    memory = peak_memory(device)  # before the profiler takes its own
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")) as recorded:
        profiled = train(model, loader, arguments.bf16)  # longer: the profiler writes down every operation
    print(
        f"{audio / elapsed:.1f} s of audio a second: {len(batches)} steps, {device}, {torch.get_num_threads()} threads;"
        f" peak memory {memory / 1e9:.2f} GB"
    )
    events = recorded.key_averages()  # takes longer than a step
    times = {part: share(events, names, device.type) for part, names in PARTS.items()}
    for part, seconds in {**times, "the rest": profiled - sum(times.values())}.items():
        print(f"  {part:13s} {seconds / profiled:6.1%}")

    operations, moved = training_operations(model.config), training_bytes(model, audio / len(batches))
    flops = product_speed(device, torch.bfloat16 if arguments.bf16 else torch.float32)
    bandwidth = copy_speed(device)
    floor = operations / flops + moved / bandwidth
    print(
        f"floor: {operations / 1e9:.2f} GFLOP at {flops / 1e9:.0f} GFLOP/s and {moved / 1e6:.0f} MB at "
        f"{bandwidth / 1e9:.0f} GB/s for a second of audio: {1 / floor:.0f} s of audio a second"
    )


def train(model, batches: Iterable[dict[str, torch.Tensor]], bf16: bool) -> float:
    """Seconds for a step each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    begin = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}, chunk_frames=0).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU those of its tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def share(events: Iterable, names: tuple[str, ...], device: str) -> float:
    """Seconds in some operations; on a GPU the GPU's, but of data the processor's."""
    # On a GPU the optimizer's step is among the events of both devices; the processor's hold the GPU's time.
    chosen = [event for event in events if event.key.startswith(names) and event.device_type == DeviceType.CPU]
    if device == "cuda":
        return sum(event.device_time_total or event.cpu_time_total for event in chosen) / 1e6
    return sum(event.cpu_time_total for event in chosen) / 1e6


def training_operations(config: ResNetBiGruConfig) -> float:
    """Floating-point operations for a second of audio: two a multiplication, forward and twice that backward."""
    frames = 16_000 / config.hop_length
    bins = -(-config.num_mel_bins // config.frequency_reduction)
    maps = frames / min(config.time_reduction, 2) * bins
    hidden, steps = config.hidden_size, frames / config.time_reduction
    products = maps * config.conv_channels * 9 * (1 + 2 * config.num_residual_blocks * config.conv_channels)
    products += maps * config.conv_channels * hidden
    for layer in range(config.num_hidden_layers):
        products += steps * 2 * 3 * hidden * (hidden + (hidden if layer == 0 else 2 * hidden))
    classes = [config.vocab_size] + ([1 + len(config.phones)] if config.phones else [])
    products += steps * sum(2 * hidden * hidden + hidden * size for size in classes)
    return 3 * 2 * products


def training_bytes(model, seconds: float) -> float:
    """
    Bytes for a second of audio in batches of `seconds`: the map before and after each convolution, there and back, and
    for each step weights, gradients and AdamW's two states, read and written.
    """
    config = model.config
    maps = (
        16_000
        / config.hop_length
        / min(config.time_reduction, 2)
        * -(-config.num_mel_bins // config.frequency_reduction)
    )
    activations = 4 * maps * config.conv_channels * 2 * (1 + 2 * config.num_residual_blocks) * 2
    return activations + 4 * model.num_parameters() * 8 / seconds


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / fastest(lambda: matrix @ matrix, device)


def copy_speed(device: torch.device) -> float:
    """Bytes a second that are read and written by a copy."""
    values = torch.randn(1 << 26, device=device)
    return 2 * values.nbytes / fastest(values.clone, device)


def fastest(action: Callable, device: torch.device) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    main()
