"""
Broken files for everything that reads a stranger's bytes, and a process that gives them to the readers.

`test_fuzz.py` does so for a moment, `benchmarks/fuzz.py` for long. What an input is follows from the target's name, the
seed and its number. A reader may give a result, or raise an error of ours of one line. It may not raise another one,
take longer than `LIMIT_SECONDS` or more than `LIMIT_BYTES`, print a traceback, leave a temporary file, or end the
process; hence the process, and its watchdog.
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import gzip
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 30
LIMIT_BYTES = 6 << 30  # data of the process, of which its libraries take one
FIXTURES = Path(__file__).parent / "fixtures"
EXAMPLES = Path(__file__).parent.parent / "demo" / "examples"
RATE = 16_000  # Hz

# Mutators: bytes and a generator of random numbers → bytes. The other files of a target are there to be spliced in.

ODD = [
    *(b"", b"0", b"-1", b"1", b"2", b"7", b"255", b"65536", b"2147483648", b"99999999999999999999", b"1e400", b"-0.5"),
    *(b"nan", b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b"[1, 2]", b'{"a": 1}', b"\0", b"..", b"/"),
    *(b".", b"~", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b'"\\ud800"', b"\\u0000", b"\xe2\x80\xa8", b"\t"),
    *(b"\r", b"|", b"<s>", b"<unk>", b"!!python/name:os.system", b"*a", b"&a", b"2001-99-99", b"9" * 5000, b"a" * 5000),
    *(b"[" * 100_000, b'{"a":' * 100_000),
]


def flip_bits(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _bit in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return content[: rng.randrange(len(content))]


def splice(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A chunk of this or another file, put in or written over."""
    source = rng.choice([content, *others])
    start = rng.randrange(len(source))
    chunk = source[start : start + rng.choice([1, 8, 64, 1024])]
    at = rng.randrange(len(content))
    return content[:at] + chunk + content[at + rng.choice([0, len(chunk)]) :]


def cut_out(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice([1, 2, 16, 256]) :]


def edit_length(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """A number of 1 to 8 bytes, near the beginning as lengths, rates and counts are, becomes another."""
    size = rng.choice([1, 2, 3, 4, 8])
    top = 256**size
    odd = [0, 1, top - 1, top // 2, top // 2 - 1, len(content) % top, rng.randrange(top), rng.randrange(256)]
    value = rng.choice(odd)
    at = rng.randrange(min(len(content), rng.choice([64, 256, len(content)])))
    return content[:at] + value.to_bytes(size, rng.choice(["little", "big"])) + content[at + size :]


def run_of_zeros(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at, length = rng.randrange(len(content)), rng.choice([4, 64, 1024])
    return content[:at] + bytes(length) + content[at + length :]


def odd_token(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """A word, number or JSON value of a text becomes one that nobody expects."""
    tokens = list(re.finditer(rb'"[^"\n]*"|[\w.+-]+|[^\w\s]', content[:20_000]))
    if not tokens:
        return rng.choice(ODD)
    token = rng.choice(tokens)
    return content[: token.start()] + rng.choice(ODD) + content[token.end() :]


def shuffle_lines(content: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    change = rng.randrange(3)
    if change == 0:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif change == 1:
        del lines[at]
    else:
        lines[at] = lines[at].strip() * rng.choice([1, 2, 50])
    return b"".join(lines)


BINARY = [flip_bits, truncate, splice, cut_out, edit_length, edit_length, run_of_zeros]
TEXTUAL = [odd_token, odd_token, odd_token, odd_token, shuffle_lines, flip_bits, truncate, splice]


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if content.startswith(b"\x1f\x8b") and rng.random() < 0.7:
        return gzip.compress(mutate(gzip.decompress(content), rng, [gzip.decompress(other) for other in others]), 1)
    mutators = BINARY if b"\0" in content[:128] else TEXTUAL
    for _ in range(rng.choice([1, 1, 2, 4])):
        content = rng.choice(mutators)(content, rng, others) or b"\0"
    if content.startswith(b"OggS") and rng.random() < 0.7:
        content = with_ogg_checksums(content)
    return content


def with_ogg_checksums(content: bytes) -> bytes:
    """Ogg's reader skips pages whose checksum is wrong, and what lies behind would never be tried."""
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    repaired = bytearray(content)
    for start, end in zip(pages, [*pages[1:], len(content)], strict=True):
        if end - start < 27:
            continue
        repaired[start + 22 : start + 26] = bytes(4)
        checksum = 0
        for byte in repaired[start:end]:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ OGG_TABLE[checksum >> 24 ^ byte]
        repaired[start + 22 : start + 26] = checksum.to_bytes(4, "little")
    return bytes(repaired)


def _ogg_entry(byte: int) -> int:
    entry = byte << 24
    for _ in range(8):
        entry = entry << 1 ^ (0x104C11DB7 if entry & 0x80000000 else 0)
    return entry


OGG_TABLE = [_ogg_entry(byte) for byte in range(256)]

# Targets


@dataclasses.dataclass
class Target:
    """
    Args:
        seeds: whole files.
        path: where an input is written; another suffix for each call of `suffixed` would be another target.
        calls: what reads it. Each may give a result or raise an error of ours.
    """

    seeds: list[bytes]
    path: Path
    calls: list[Callable[[Path], Any]]

    def input(self, name: str, seed: int, number: int) -> bytes:
        """A broken file; numbers below 0 are the whole ones."""
        if number < 0:
            return self.seeds[number]
        rng = random.Random(f"{name} {seed} {number}")
        chosen = rng.randrange(len(self.seeds))
        return mutate(self.seeds[chosen], rng, self.seeds[:chosen] + self.seeds[chosen + 1 :])


def audio_seeds() -> dict[str, list[bytes]]:
    """By format. All that libsndfile can write it also reads, whatever a file is called."""
    import soundfile

    speech, rate = soundfile.read(FIXTURES / "fsdd/recordings/0_jackson_5.wav", dtype="float32")
    stereo = speech[:, None].repeat(2, axis=1)[: rate // 4]

    def written(samples, container: str, codec: str | None = None) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, codec, format=container)
        return file.getvalue()

    def read(*names: str) -> list[bytes]:
        return [(FIXTURES / name).read_bytes() for name in names]

    codecs = ["PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM"]
    others = []
    for container in sorted(soundfile.available_formats()):
        if container in ("WAV", "FLAC", "OGG", "MP3", "RAW", "SD2"):  # SD2 is two files
            continue
        with contextlib.suppress(soundfile.LibsndfileError, TypeError):  # not of this rate, or read only
            others.append(written(speech[: rate // 4], container))
    field = "NIST_1A\n   1024\nsample_count -i 2000\nsample_n_bytes -i 2\nchannel_count -i 1\n"
    field += "sample_byte_format -s2 01\nsample_rate -i 16000\nsample_coding -s3 pcm\nend_head\n"
    return {
        "wav": [*read("fsdd/recordings/1_theo_5.wav"), *(written(stereo, "WAV", codec) for codec in codecs)],
        "flac": [*read("an4/wav/an4_clstk/mcel/an202-mcel-b.flac"), written(stereo, "FLAC", "PCM_24")],
        "opus": read("speech_commands/yes/022cd682_nohash_0.opus", "speech_commands/no/0cb74144_nohash_0.opus"),
        "vorbis": [written(speech, "OGG", "VORBIS"), written(stereo, "OGG", "VORBIS")],
        "mp3": [written(speech, "MP3"), written(stereo, "MP3")],
        "sphere": [field.encode().ljust(1024) + (speech[:2000] * 32767).astype("<i2").tobytes()],
        "other containers": others,
    }


def audio_calls() -> list[Callable[[Path], Any]]:
    import numpy as np

    from hf_speechrec.audio import audio_blocks, audio_duration, read_audio

    def check(samples) -> None:
        assert samples.dtype == np.float32, samples.dtype
        assert samples.ndim == 1, samples.shape
        assert np.isfinite(samples).all()

    return [
        lambda path: check(read_audio(path, RATE)),
        lambda path: check(read_audio(path.read_bytes(), RATE)),
        lambda path: check(np.concatenate(list(audio_blocks(path, RATE)))),
        lambda path: 1 / audio_duration(path),
    ]


def corpus_targets(folder: Path) -> dict[str, Target]:
    from datasets import Audio, Dataset

    from hf_speechrec.corpora import read_corpus
    from hf_speechrec.labelled_corpora import read_labelled_corpus

    corpora = folder / "corpora"
    for name in ("an4", "speech_commands", "LibriSpeech"):
        shutil.copytree(FIXTURES / name, corpora / name)
    clips = sorted(path.relative_to(corpora).as_posix() for path in (corpora / "speech_commands").rglob("*.opus"))[:8]
    rows = [
        {"path": clip, "text": f"text {i}, so", "label": clip.split("/")[1], "speaker": f"s{i}"}
        for i, clip in enumerate(clips)
    ]
    tables = {
        "csv": "".join(
            f"{','.join(values)}\n" for values in [rows[0], *([f'"{v}"' for v in row.values()] for row in rows)]
        ),
        "tsv": "".join("\t".join(values) + "\n" for values in [rows[0], *(row.values() for row in rows)]),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    targets = {
        f"manifest: {kind}": Target([table.encode()], corpora / f"manifest.{kind}", [read_corpus, read_labelled_corpus])
        for kind, table in tables.items()
    }
    (corpora / "audiofolder").mkdir()
    in_folder = tables["csv"].replace("path,", "file_name,", 1).replace('"speech_commands', '"../speech_commands')
    read = [lambda path: read_corpus(path.parent), lambda path: read_labelled_corpus(path.parent)]
    targets["metadata.csv"] = Target([in_folder.encode()], corpora / "audiofolder/metadata.csv", read)
    for name in ("fileids", "transcription"):
        path = corpora / f"an4/etc/an4_test.{name}"
        targets[f"AN4: {name}"] = Target([path.read_bytes()], path, [lambda path: read_corpus(path.parents[1], "test")])
    path = corpora / "LibriSpeech/dev-4spk/4088/158077/4088-158077.trans.txt"
    targets["LibriSpeech: trans.txt"] = Target([path.read_bytes()], path, [lambda path: read_corpus(path.parents[2])])
    path = corpora / "speech_commands/test.txt"
    read = [lambda path: read_labelled_corpus(path.parent, "test")]
    targets["Speech Commands: list"] = Target([path.read_bytes()], path, read)
    parquet = corpora / "hub/data/train-00000-of-00001.parquet"
    parquet.parent.mkdir(parents=True)
    audio = [{"bytes": (corpora / clip).read_bytes(), "path": clip} for clip in clips[:3]]
    dataset = Dataset.from_dict({"audio": audio, "text": ["a", "b", "c"]}).cast_column("audio", Audio(decode=False))
    dataset.to_parquet(parquet)
    read = [lambda path: list(read_corpus(path.parents[1]))]
    return targets | {"parquet": Target([parquet.read_bytes()], parquet, read)}


def model_targets(folder: Path) -> dict[str, Target]:
    import numpy as np
    import torch
    from transformers import Wav2Vec2Processor

    from hf_speechrec import (
        BiLstmConfig,
        BiLstmForAudioClassification,
        LogMelFeatureExtractor,
        ResNetBiGruConfig,
        ResNetBiGruForCTC,
    )
    from hf_speechrec.classification import classify
    from hf_speechrec.loading import load_pipeline
    from hf_speechrec.model_card import FACTS, read_facts
    from hf_speechrec.text import build_tokenizer
    from hf_speechrec.transcription import transcribe

    samples = np.random.default_rng(0).normal(0, 0.1, RATE // 2).astype(np.float32)
    statistics = {"feature_size": 20, "feature_mean": [0.0] * 20, "feature_std": [1.0] * 20}
    extractor = LogMelFeatureExtractor(**statistics)
    tokenizer = build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])
    small = {"conv_channels": 2, "num_residual_blocks": 1, "hidden_size": 8, "num_hidden_layers": 1, "num_mel_bins": 20}
    normalizer = {"case": "upper", "digits": "spell"}
    recognizer = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=len(tokenizer), text_normalizer=normalizer, **small))
    names = {0: "no", 1: "yes"}
    sizes = {
        "input_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "id2label": names,
        "label2id": {"no": 0, "yes": 1},
    }
    classifier = BiLstmForAudioClassification(BiLstmConfig(**sizes))
    for model, processor in ((recognizer, Wav2Vec2Processor(extractor, tokenizer)), (classifier, extractor)):
        model.save_pretrained(folder / type(model).__name__)
        processor.save_pretrained(folder / type(model).__name__)

    def run(path: Path) -> None:
        pipeline = load_pipeline(path.parent, "cpu")
        is_classifier = pipeline.task == "audio-classification"
        (result,) = classify([samples], pipeline) if is_classifier else transcribe([samples], pipeline, word_times=True)
        assert result.error is None, result.error

    targets = {}
    for kind, model in (("recogniser", recognizer), ("classifier", classifier)):
        for path in sorted((folder / type(model).__name__).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                targets[f"{kind}: {path.name}"] = Target([path.read_bytes()], path, [run])
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401  now: it writes the session's number into the temporary folder

        from hf_speechrec.export import export_onnx

        for kind, model in (("recogniser", recognizer), ("classifier", classifier)):
            exported = export_onnx(folder / type(model).__name__, folder / f"{kind} in ONNX")
            for path in sorted(exported.glob("*.onnx")):
                targets[f"{kind}: {path.name}"] = Target([path.read_bytes()], path, [run])
    facts = [path.read_bytes() for path in sorted((EXAMPLES.parents[1] / "hf_speechrec").rglob(FACTS))]
    targets[FACTS] = Target(facts, folder / FACTS, [lambda path: read_facts(path.parent)])
    states = []
    for is_zip in (True, False):
        buffer = io.BytesIO()
        torch.save(classifier.state_dict(), buffer, _use_new_zipfile_serialization=is_zip)
        states.append(buffer.getvalue())
    targets[".pth"] = Target(states, folder / "model.pth", [BiLstmForAudioClassification.from_state_dict_file])
    return targets


ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-0.7\t</s>
-99\t<s>\t-0.3
-0.9\tGO\t-0.2
-1.1\tLEFT\t0
-1.3\t<unk>

\\2-grams:
-0.2\t<s> GO
-0.4\tGO LEFT
-0.3\tLEFT </s>

\\end\\
"""
LEXICON = "GO G OW1\nLEFT L EH1 F T\nLEFT(2) L EH0 F\n;;; a comment\nRIGHT R AY1 T # to the right\n"


def language_targets(folder: Path) -> dict[str, Target]:
    import torch

    from hf_speechrec.language_model import read_weights, text_lines
    from hf_speechrec.pronunciation import read_lexicon
    from hf_speechrec.recipe import Recipe
    from hf_speechrec.text import build_tokenizer

    def _weights(path: Path) -> None:
        read_weights(path.with_suffix(".arpa"))

    weights = json.dumps({"lm_weight": 1.5, "word_score": -0.5}).encode()
    lexicons = [LEXICON.encode()], [gzip.compress(LEXICON.encode())]
    recipes = [path.read_bytes() for path in sorted((EXAMPLES.parents[1] / "recipes").glob("*.yaml"))]
    targets = {
        "lexicon": Target(lexicons[0], folder / "lexicon.txt", [read_lexicon]),
        "lexicon: gz": Target(lexicons[1], folder / "lexicon.txt.gz", [read_lexicon]),
        "text: gz": Target(lexicons[1], folder / "text.gz", [lambda path: list(text_lines(path))]),
        "weights of a language model": Target([weights], folder / "lm.json", [_weights]),
        "recipe": Target(recipes, folder / "recipe.yaml", [Recipe.from_yaml]),
    }
    with contextlib.suppress(ImportError):
        import flashlight.lib.text  # noqa: F401
        import kenlm  # noqa: F401

        from hf_speechrec.decoding import BeamSearchDecoder

        tokenizer = build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])
        log_probs = torch.randn(50, len(tokenizer), generator=torch.Generator().manual_seed(0)).log_softmax(-1)
        calls = [
            lambda path: BeamSearchDecoder(tokenizer, path, beam_size=5)(log_probs),
            lambda path: BeamSearchDecoder(tokenizer, path, beam_size=5, hotwords=["RIGHT", "GO"])(log_probs),
        ]
        targets["ARPA"] = Target([ARPA.encode()], folder / "lm.arpa", calls)
        targets["ARPA: gz"] = Target([gzip.compress(ARPA.encode())], folder / "lm.arpa.gz", calls)

        def with_lexicon(path: Path) -> None:
            phones = ["AY", "EH", "F", "G", "L", "OW", "R", "T"]
            (folder / "beside.arpa").write_text(ARPA)
            lexicon = read_lexicon(path)
            decoder = BeamSearchDecoder(tokenizer, folder / "beside.arpa", beam_size=5, lexicon=lexicon, phones=phones)
            decoder(log_probs[:, : len(phones) + 1].contiguous())

        targets["lexicon"].calls.append(with_lexicon)
    return targets


def page_targets(folder: Path, audio: dict[str, list[bytes]]) -> dict[str, Target]:
    """The functions behind the page's API, and behind its tabs."""
    from hf_speechrec.demo import build_demo

    page = build_demo(str(folder / "ResNetBiGruForCTC"), str(folder / "BiLstmForAudioClassification"))
    functions = {fn.api_name or fn.name: fn.fn for fn in page.fns.values()}

    def listen(path: Path) -> None:
        _, listener = functions["listen"](str(path), None)
        _, listener = functions["listen"](str(path), listener)
        functions["listen_end"](listener)

    calls: list[Callable[[Path], Any]] = [listen]
    calls += [lambda path, name=name: functions[name](str(path)) for name in ("transcribe", "classify", "show")]
    uploads = folder / "uploads"
    uploads.mkdir()
    seeds = [content for name in ("wav", "flac", "opus", "mp3") for content in audio[name][:2]]
    return {"uploads to the page": Target(seeds, uploads / "upload.wav", calls)}


def all_targets(folder: Path) -> dict[str, Target]:
    audio = audio_seeds()
    calls = audio_calls()
    targets = {f"audio: {name}": Target(seeds, folder / "audio", calls) for name, seeds in audio.items()}
    targets |= corpus_targets(folder) | model_targets(folder) | language_targets(folder)
    with contextlib.suppress(ImportError):
        targets |= page_targets(folder, audio)
    return targets


# What the watch itself is tried with


def _segmentation_fault(_: Path) -> None:
    ctypes.string_at(0)


def _hang(_: Path) -> None:
    while True:
        pass


def _temporary_file(path: Path) -> None:
    Path(tempfile.mkdtemp(), "left").write_bytes(path.read_bytes())


def _printed_traceback(path: Path) -> None:
    try:
        path.with_name("gone").read_bytes()
    except OSError:
        traceback.print_exc()


def _foreign_error(_: Path) -> None:
    raise KeyError("x")


def _all_memory(_: Path) -> None:
    bytes(LIMIT_BYTES)


def misbehaving_targets(folder: Path) -> dict[str, Target]:
    calls = [_segmentation_fault, _hang, _temporary_file, _printed_traceback, _foreign_error, _all_memory]
    return {call.__name__: Target([b"x"], folder / "x", [call]) for call in calls}


# The process, and who watches it


def complaint(error: BaseException, path: Path) -> str | None:
    """What is wrong with an error; nothing with one of ours."""
    message = str(error)
    package = type(error).__module__.partition(".")[0]
    is_ours = package in ("hf_speechrec", "gradio") or (type(error) is ValueError and message.startswith(str(path)))
    if is_ours and message.strip() and "\n" not in message:
        return None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "hf_speechrec" in f.filename]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {message.replace(str(path.parent), '')[:200]!r}"


def work(folder: Path, names: list[str], seed: int, first: int, count: int, limit_seconds: int, done: int) -> None:
    """Give inputs to readers, and write a line of JSON on stdout: one of all inputs, then one of each that is done."""
    report = os.fdopen(os.dup(1), "w")
    log = folder / "stderr"
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    temporary = folder / "temporary"
    temporary.mkdir()
    caches = {name: str(folder / name) for name in ("HF_HOME", "GRADIO_TEMP_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    os.environ |= caches | {"TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = None
    os.chdir(temporary)
    files = folder / "files"
    files.mkdir()
    targets = misbehaving_targets(files)
    if not names or not targets.keys() >= set(names):
        targets = all_targets(files)
        for left in temporary.iterdir():  # by what was imported
            left.unlink()
    whole = {name: range(-len(target.seeds), 0) for name, target in targets.items() if first == 0}
    jobs = [(name, n) for name in names or targets for n in [*whole.get(name, ()), *range(first, first + count)]]
    print(json.dumps(jobs), file=report, flush=True)
    for name, number in jobs[done:]:
        target = targets[name]
        target.path.write_bytes(target.input(name, seed, number))
        printed, complaints, refused = log.stat().st_size, [], 0
        begin = time.monotonic()
        for call in target.calls:
            faulthandler.dump_traceback_later(limit_seconds, exit=True)
            try:
                call(target.path)
            except Exception as error:
                refused += 1
                problem = complaint(error, target.path)
                if problem or number < 0:
                    complaints.append(problem or f"a whole file is refused: {error}")
            faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - begin
        with log.open("rb") as file:
            file.seek(printed)
            said = file.read()
        if b"Traceback" in said:
            complaints.append(f"prints a traceback: {said.decode(errors='replace').strip().splitlines()[-1]}")
        for left in temporary.iterdir():
            complaints.append(f"leaves {left.name}")
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        target.path.write_bytes(target.seeds[0])  # the next target may read the same folder
        result = {"target": name, "number": number, "refused": refused == len(target.calls)}
        print(json.dumps(result | {"seconds": seconds, "complaints": complaints}), file=report, flush=True)


def fuzz(names: list[str], seed: int, first: int, count: int, limit_seconds: int = LIMIT_SECONDS) -> list[dict]:
    """
    Give each target its whole files (where `first` is 0) and `count` broken ones, from the number `first` on, in a
    process that is started again where an input ends it. All targets are tried where none is named.

    Returns:
        `target`, `number`, `refused`, `seconds` and `complaints` of each.
    """
    results: list[dict] = []
    while True:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [folder, json.dumps(names), *map(str, (seed, first, count, limit_seconds, len(results)))]
            command = [sys.executable, "-X", "faulthandler", __file__, *arguments]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            log = Path(folder, "stderr")
            said = log.read_text(errors="replace") if log.exists() else ""
        if not process.stdout:
            raise RuntimeError(said)  # it did not come so far
        jobs, *done = [json.loads(line) for line in process.stdout.splitlines()]
        results += done
        if len(results) == len(jobs):
            return results
        name, number = jobs[len(results)]
        how = signal.Signals(-process.returncode).name if process.returncode < 0 else "hangs"
        # The last thing on stderr is faulthandler's list of frames, the innermost first.
        frames = [line.strip() for line in said.rpartition("most recent call first")[2].splitlines() if "File" in line]
        problem = f"{how} ({frames[0] if frames else said[-200:]})"
        results.append({"target": name, "number": number, "refused": False, "seconds": 0.0, "complaints": [problem]})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    work(Path(sys.argv[1]), json.loads(sys.argv[2]), *map(int, sys.argv[3:]))
