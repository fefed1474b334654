"""The page in headless Chromium; skipped where there is none."""

import html
import json
import re
import shutil
import subprocess

import pytest

from soarbench.report.numbers.names import method_title
from tests.report.folders import build_report, reward_specific, write_grid
from tests.report.test_page import draw_images

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install -y chromium"),
]
#: What a visitor does; its findings end up in the page's title.
VISIT = """
<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sortable");
  const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
  const head = (text) => [...table.tHead.rows[0].cells].find((h) => h.textContent.startsWith(text));
  const found = { width: innerWidth, page: document.documentElement.scrollWidth, before: names() };
  head("Aesthetic").querySelector("button").click();
  found.rising = names();
  found.sort = head("Aesthetic").getAttribute("aria-sort");
  found.said = document.getElementById("announcer").textContent;
  head("Aesthetic").querySelector("button").click();
  found.falling = names();
  head("Steps").querySelector("button").click();
  found.missingLast = names();
  found.sorts = [...table.querySelectorAll("th[aria-sort]")].filter(
    (h) => h.getAttribute("aria-sort") !== "none").length;
  const part = document.querySelector("section.samples");
  const shown = () => [...part.querySelectorAll("img")].filter(
    (image) => image.checkVisibility()).map((image) => image.alt);
  found.images = shown();
  const sft = part.querySelector("button[data-method=sft]");
  sft.click();
  found.pressed = sft.getAttribute("aria-pressed");
  found.withoutSft = shown();
  const steps = part.querySelector("select");
  steps.value = "50";
  steps.dispatchEvent(new Event("change"));
  found.atFifty = shown();
  const mark = document.querySelector(".figure .hover use");
  const { x, y } = mark.getBoundingClientRect();
  mark.ownerSVGElement.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
  found.tip = document.getElementById("tip").textContent;
  const press = (key) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const viewer = document.getElementById("viewer");
  const compared = () => [...viewer.querySelectorAll("img")].map((image) => image.alt).reverse();
  part.querySelector("td[data-method=soar] figure:not([hidden]) .enlarge").click();
  found.viewer = compared();
  found.gain = viewer.querySelector("output[data-role=right]").textContent;
  const prompt = () => viewer.querySelector("#viewer-title").textContent;
  found.prompts = [prompt()];
  press("ArrowDown");
  found.prompts.push(prompt());
  press("ArrowUp");
  found.prompts.push(prompt());
  viewer.close();
  const visible = [...document.images].filter((image) => image.checkVisibility());
  found.broken = visible.filter((image) => image.naturalWidth === 0).length;
  document.title = "FOUND" + JSON.stringify(found) + "FOUND";
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    grid = write_grid(root / "runs" / "grid", reward_specific(num_prompts=12))
    draw_images(grid)
    return build_report(grid, root / "results", grid="grid", formats=("svg",))


def visit(report, tmp_path, width):
    """Open the page in a window of that width, act as a visitor, and return what was found."""
    copy = tmp_path / "index.html"
    page = (report.folder / "index.html").read_text()
    copy.write_text(page.replace("</body>", f"{VISIT}</body>"))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return json.loads(html.unescape(re.search("FOUND(.*?)FOUND", done.stdout, re.S).group(1)))


def test_tables_sort_and_samples_switch(report, tmp_path):
    rows = sorted(
        report.tables[0].rows, key=lambda row: row.estimates["aesthetic"].interval.estimate
    )
    rising = [method_title(row.method) for row in rows]
    found = visit(report, tmp_path, 1200)
    assert found["before"] == ["Base", "SFT", "SOAR", "Flow-GRPO"]
    assert found["rising"] == rising
    assert found["falling"] == rising[::-1]
    assert found["missingLast"][-1] == "Base"
    assert found["sort"] == "ascending"
    assert found["said"] == "Sorted by Aesthetic [95 %], rising".replace("95 %", "95\u00a0%")
    assert found["sorts"] == 1
    assert found["pressed"] == "false"
    assert [alt.partition(":")[0] for alt in found["images"]] == [
        "Base, untrained", "SFT, step 150", "SOAR, step 150", "Flow-GRPO, step 150",
    ]  # fmt: skip
    assert not any(alt.startswith("SFT") for alt in found["withoutSft"])
    assert [alt.partition(":")[0] for alt in found["atFifty"]] == [
        "Base, untrained", "SOAR, step 50", "Flow-GRPO, step 50",
    ]  # fmt: skip
    assert found["broken"] == 0
    assert found["tip"].startswith("SOAR against SFT, Aesthetic: ")
    assert [alt.partition(":")[0] for alt in found["viewer"]] == ["SFT, step 50", "SOAR, step 50"]
    assert re.fullmatch(r"[\d.]+ \([+-][\d.]+\)", found["gain"])
    # By keyboard to the next prompt and back.
    assert found["prompts"][0] == found["prompts"][2]


def test_a_narrow_window_needs_no_sideways_scrolling(report, tmp_path):
    found = visit(report, tmp_path, 360)
    assert found["width"] <= 500
    assert found["page"] <= found["width"]
