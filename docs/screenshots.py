"""The pictures of the page in docs/images: python docs/screenshots.py (needs chromium and the extra dev)

Starts the page, opens each tab in a browser as wide as a desktop's and as a phone's, puts an example in and waits for
the answer. The microphone plays an example, too.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
from page_server import page_server  # noqa: E402

IMAGES = ROOT / "docs" / "images"
EXAMPLES = ROOT / "demo" / "examples"
WIDTHS = {"desktop": (1100, 800), "phone": (390, 844)}  # pixels
RATE = 48_000  # Hz
TABS = {"Speak": "speak", "File": "file", "Commands": "commands", "Look inside": "inside"}


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("expected chromium (apt-get install chromium), found none")
    IMAGES.mkdir(exist_ok=True)
    with (
        page_server() as server,
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        arguments.append(f"--use-file-for-fake-audio-capture={microphone(Path(folder))}%noloop")
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for device, (width, height) in WIDTHS.items():
            for scheme in ("light", "dark") if device == "desktop" else ("light",):
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    permissions=["microphone"],
                    color_scheme=scheme,
                    is_mobile=device == "phone",
                    has_touch=device == "phone",
                )
                page = context.new_page()
                page.goto(server.address, wait_until="domcontentloaded", timeout=60_000)
                for tab, name in TABS.items():
                    picture(page, tab, f"{name}-{device}{'-dark' if scheme == 'dark' else ''}")
                context.close()
        browser.close()


def microphone(folder: Path) -> Path:
    samples, rate = soundfile.read(EXAMPLES / "an4-seven-digits.flac", dtype="float32")
    times = np.arange(0, len(samples), rate / RATE)
    silence = np.zeros(RATE, np.float32)
    path = folder / "microphone.wav"
    soundfile.write(path, np.concatenate([silence, np.interp(times, np.arange(len(samples)), samples), silence]), RATE)
    return path


def picture(page, tab: str, name: str) -> None:
    page.get_by_role("tab", name=tab).click()
    panel = page.locator("[role=tabpanel]:visible")
    match tab:
        case "Speak":
            panel.get_by_role("button", name="Record").click()
            page.wait_for_function("document.querySelector('#microphone .firm').innerText.split(' ').length > 4")
        case "File":
            panel.get_by_role("button", name="Seven digits").click()
            panel.locator("button.word").nth(6).wait_for(timeout=30_000)
        case "Commands":
            panel.get_by_role("button", name="Stop", exact=True).click()
            panel.get_by_test_id("label-output-value").wait_for(timeout=30_000)
        case "Look inside":
            panel.get_by_role("button", name="Spelled name").click()
            panel.locator("#plot .inside svg").wait_for(timeout=30_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)  # what fades in has done so
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    # 256 colours near all that there are, with k-means: without it, the large white areas come out yellowish.
    image = Image.open(path).convert("RGB")
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
