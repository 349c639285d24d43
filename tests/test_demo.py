"""The page: its API, and what a person sees in a real browser with a microphone fed from a file."""

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jiwer
import numpy as np
import pytest
import soundfile

from hf_speechrec.audio import read_audio
from hf_speechrec.loading import load_recognizer
from hf_speechrec.streaming import StreamingRecognizer

pytest.importorskip("gradio", reason="the extra demo is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (apt-get install chromium)"
)
DIGITS = "THREE THREE ONE OH ONE EIGHT EIGHT"
PAUSE_SECONDS = 1.5


@pytest.fixture(scope="module")
def examples(repository):
    return repository / "demo" / "examples"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server in a process of its own, as `hf-speechrec demo` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(log.parent / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "hf_speechrec", "demo", "--port", str(port)],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/config", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
    yield address
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    client = Client(address, verbose=False)
    yield client
    client.close()


def upload(path):
    from gradio_client import handle_file

    return handle_file(str(path))


def test_a_recording_is_transcribed_by_the_api(client, examples):
    answer = client.predict(upload(examples / "an4-seven-digits.flac"), api_name="/transcribe")
    assert answer["text"] == DIGITS
    assert [word["word"] for word in answer["words"]] == DIGITS.split()
    assert all(0 < word["confidence"] <= 1 for word in answer["words"])
    times = [time for word in answer["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)


def test_a_command_is_named_by_the_api(client, examples):
    answer = client.predict(upload(examples / "command-yes.opus"), api_name="/classify")
    assert answer["label"] == "yes"
    assert 0.9 < sum(item["confidence"] for item in answer["confidences"]) <= 1.001


@pytest.mark.slow
def test_eight_visitors_speak_at_once(address, examples, tmp_path):
    """Each hears the words of its own recording, in pieces that come in between the others'."""
    from gradio_client import Client

    recordings = [read_audio(examples / name, 16_000) for name in ("an4-seven-digits.flac", "an4-spelled-name.flac")]
    recognizer = load_recognizer("an4", "cpu")
    expected, pieces = [], []
    for i, recording in enumerate(recordings):
        stream = StreamingRecognizer(recognizer.model, recognizer)
        expected.append(" ".join(word.word for word in stream.feed(recording).words + stream.flush().words))
        pieces.append([])
        for k, piece in enumerate(np.array_split(recording, 6)):
            pieces[-1].append(tmp_path / f"{i}-{k}.wav")
            soundfile.write(pieces[-1][-1], piece, 16_000, subtype="FLOAT")

    def visit(which: int) -> str:
        client = Client(address, verbose=False)
        for piece in pieces[which]:
            client.predict(upload(piece), api_name="/listen")
        text = client.predict(api_name="/listen_end")["text"]
        client.close()
        return text

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(visit, [0, 1] * 4))
    assert len(set(expected)) == 2
    assert texts == expected * 4


def test_pieces_are_heard_one_after_the_other(client, examples, tmp_path):
    samples = read_audio(examples / "an4-seven-digits.flac", 16_000)
    before = 0
    for i, piece in enumerate(np.array_split(samples, 6)):
        soundfile.write(tmp_path / f"{i}.wav", piece, 16_000)
        answer = client.predict(upload(tmp_path / f"{i}.wav"), api_name="/listen")
        assert len(answer["words"]) >= before
        before = len(answer["words"])
    assert before >= 4  # while the recording was going on
    end = client.predict(api_name="/listen_end")
    assert end["words"][:before] == answer["words"]
    assert end["text"] == DIGITS
    # The next recording begins anew.
    assert client.predict(upload(tmp_path / "0.wav"), api_name="/listen")["words"] == []
    client.predict(api_name="/listen_end")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.wav", b"this is no audio", "notes.wav: not audio that can be read"),
        ("empty.wav", b"", "expected audio, the file is empty"),
    ],
)
def test_a_bad_upload_is_one_clear_line(client, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for endpoint in ("/transcribe", "/classify", "/listen"):
        with pytest.raises(Exception, match=re.escape(message)) as error:
            client.predict(upload(tmp_path / name), api_name=endpoint)
        assert "uploads/" not in str(error.value)


def test_a_recording_that_is_too_long_is_refused(client, tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(16_000 * 660, np.float32), 16_000)
    with pytest.raises(Exception, match=r"long\.flac: expected at most 10 minutes here, got 11"):
        client.predict(upload(tmp_path / "long.flac"), api_name="/transcribe")


@pytest.fixture(scope="module")
def browser(examples, tmp_path_factory):
    """Chromium whose microphone plays a second of silence, the digits, and silence."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "CI installs chromium"
    samples = read_audio(examples / "an4-seven-digits.flac", 48_000)
    silence = np.zeros(round(PAUSE_SECONDS * 48_000), np.float32)
    microphone = tmp_path_factory.mktemp("microphone") / "x.wav"
    soundfile.write(microphone, np.concatenate([silence, samples, np.tile(silence, 8)]), 48_000)
    arguments = [
        "--no-sandbox",  # Chromium refuses to run as root with it, and CI is root
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A new visitor; a console error fails the test."""
    context = browser.new_context(permissions=["microphone"])
    page = context.new_page()
    errors = []
    page.on(
        "console",
        lambda message: errors.append(f"{message.text} {message.location}") if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address, wait_until="domcontentloaded", timeout=60_000)
    page.get_by_role("tab", name="Speak").wait_for(timeout=60_000)
    yield page
    context.close()
    # Fonts come from the network, which a test does not have; Gradio's own player cannot draw what is no audio.
    known = ("fonts", "ERR_", "Waveform load error")
    assert [error for error in errors if not any(part in error for part in known)] == []


def open_tab(page, name: str):
    page.get_by_role("tab", name=name).click()
    return page.locator("[role=tabpanel]:visible")


@needs_browser
def test_words_appear_while_one_speaks(page):
    page.get_by_role("button", name="Record").click()
    begin = time.monotonic()
    spoken, seen = page.locator("#spoken .firm"), {}
    # Where chunks begin in the clip differs from run to run, and a letter or a space may get lost at their seams.
    while time.monotonic() - begin < 30 and (not seen or jiwer.cer(DIGITS, list(seen)[-1]) > 0.1):
        if spoken.count():
            seen.setdefault(spoken.inner_text(timeout=1000).strip(), time.monotonic() - begin)
        time.sleep(0.05)
    texts = [text for text in seen if text]
    assert jiwer.cer(DIGITS, texts[-1]) <= 0.1
    # Words grow, none is taken back, and the first stood there before the clip was over.
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert len(texts) >= 3
    assert seen[texts[0]] < seen[texts[-1]] - 1
    page.get_by_role("button", name="Stop").first.click()
    page.wait_for_timeout(1000)
    assert spoken.inner_text().strip().startswith(texts[-1])


@needs_browser
def test_an_example_gives_words_that_play_and_files_to_download(page):
    panel = open_tab(page, "File")
    panel.get_by_text("an4-seven-digits.flac").first.click()
    words = panel.locator("button.word")
    words.nth(6).wait_for(timeout=30_000)
    assert " ".join(words.all_inner_texts()) == DIGITS
    words.nth(3).focus()
    page.keyboard.press("Enter")  # a keyboard will do
    start = float(words.nth(3).get_attribute("data-start"))
    player = panel.locator(".transcript audio")
    page.wait_for_function("player => player.currentTime > 0", arg=player.element_handle())
    assert player.evaluate("player => player.currentTime") >= start - 0.01
    with page.expect_download() as download:
        panel.get_by_text(".srt").click()
    content = download.value.path().read_text()
    assert content.startswith("1\n00:00:0")
    assert content.endswith(f"{DIGITS}\n")


@needs_browser
def test_a_command_is_named(page):
    panel = open_tab(page, "Commands")
    panel.get_by_text("command-stop.opus").first.click()
    panel.get_by_test_id("label-output-value").wait_for(timeout=30_000)
    assert panel.get_by_test_id("label-output-value").inner_text() == "stop"


@needs_browser
def test_the_inside_is_drawn_and_the_cards_are_shown(page):
    panel = open_tab(page, "Look inside")
    panel.get_by_text("an4-spelled-name.flac").first.click()
    picture = panel.locator("#plot img")
    picture.wait_for(timeout=30_000)
    assert picture.evaluate("image => image.naturalWidth") > 400
    page.get_by_text("About the models").click()
    page.get_by_text("ResNet + BiGRU recogniser").first.wait_for(timeout=30_000)


@needs_browser
def test_a_phone_shows_all_tabs_and_nothing_sticks_out(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("File", "Commands", "Look inside", "Speak"):
        open_tab(page, name)
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@needs_browser
def test_every_control_has_a_name(page):
    """What a screen reader says of it."""
    for name in ("Speak", "File", "Commands", "Look inside"):
        panel = open_tab(page, name)
        for button in panel.get_by_role("button").all():
            if button.is_visible():
                label = button.get_attribute("aria-label") or button.get_attribute("title") or button.inner_text()
                assert label.strip(), button.evaluate("button => button.outerHTML")
    assert page.evaluate("document.documentElement.lang")


@needs_browser
def test_a_bad_upload_shows_a_message(page, tmp_path):
    panel = open_tab(page, "File")
    (tmp_path / "notes.wav").write_text("this is no audio")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "notes.wav")
    page.get_by_text("notes.wav: not audio that can be read").wait_for(timeout=30_000)
