"""The status page of both programs in a headless browser, over real requests: what it shows is what was counted."""

import os
import re
import shutil
import threading

import pytest
from conftest import LONG

CHROMIUM = shutil.which("chromium")
if os.environ.get("KVSHIP_REQUIRE_ALL") == "1":  # as in ./dev test, which has installed both
    from playwright import sync_api

    assert CHROMIUM, "KVSHIP_REQUIRE_ALL is 1, and there is no chromium"
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: run ./dev setup")
    pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: run ./dev setup, or apt-get install chromium")

WINDOWS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 360)]

# The lowest contrast of visible text with the colour behind it (WCAG 2.2, success criterion 1.4.3), and where.
LOWEST_CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => [...color].slice(0, 3).map((byte) => byte / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  let lowest = [Infinity, ""];
  for (const node of document.querySelectorAll("body *")) {
    const has_text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(node);
    if (!has_text || !node.checkVisibility() || style.fontSize === "0px" || node.closest("script, style")) continue;
    const [low, high] = [luminance(rgba(style.color)), luminance(behind(node))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, node.outerHTML.slice(0, 120)];
  }
  return lowest;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens the page of an admin port; at the end holds it to what every page has to keep."""
    opened = []

    def open_it(port: int, scheme: str = "light", width: int = 1280):
        origin = f"http://127.0.0.1:{port}/"
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}, device_scale_factor=1)
        faults = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(origin) or faults.append(request.url))
        page.goto(origin)
        page.wait_for_selector("#ready.good")
        opened.append((page, faults, f"{port}-{scheme}-{width}.png"))
        return page

    yield open_it
    for page, faults, name in opened:
        page.screenshot(path=os.path.join(os.environ.get("KVSHIP_SCREENSHOTS", tmp_path), name), full_page=True)
        contrast, where = page.evaluate(LOWEST_CONTRAST)
        too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        page.close()
        assert not faults
        assert contrast >= 4.5, where
        assert not too_wide


def value_of(page, name: str) -> float:
    return float(page.locator(f"#{name}").get_attribute("value"))


@pytest.fixture(scope="module")
def answered(api):
    """The last of three requests, with its report."""
    for budget in (64, 512, 128):
        answer = api.complete(LONG[:5000], max_tokens=6, extra_body={
            "ignore_eos": True, "kvship": {"compression": {"scorer": "snapkv", "budget_tokens": budget}, "report": True}})
    return answer


@pytest.mark.parametrize("scheme, width", WINDOWS)
def test_the_decode_page_shows_what_was_counted(api, answered, open_page, scheme, width):
    page = open_page(api.admin_port, scheme, width)
    kv = answered.kvship["kv"]
    assert page.locator("#role").inner_text() == "decode"
    assert api.model in page.locator("#model").inner_text()
    for name, metric in [("pool-capacity", "pool_capacity_bytes"), ("pool-reserved", "pool_reserved_bytes"),
                         ("sessions", "sessions"), ("waiting", "waiting_prompt_tokens"),
                         ("bytes-before", "kv_uncompressed_bytes_total"), ("bytes-after", "kv_shipped_bytes_total"),
                         ("bytes-saved", "kv_saved_bytes_total")]:
        assert value_of(page, name) == api.metric("kvship_decode_" + metric), name
    assert value_of(page, "ratio") == pytest.approx(value_of(page, "bytes-before") / value_of(page, "bytes-after"))
    assert value_of(page, "transfer-rate") > 0

    newest = page.locator("#recent tr").first
    assert answered.id.endswith(newest.get_attribute("data-key"))
    text = newest.inner_text()
    assert f"{answered.usage.prompt_tokens:,} tokens" in text and "128" in text
    assert f"{kv['ratio']:.1f}×" in text
    assert re.search(rf"{100 * kv['retained_mass_mean']:.0f} %, least {100 * kv['retained_mass_min']:.0f} %", text)

    nodes = page.locator("#nodes tr")
    assert nodes.count() == 1 and "serving" in nodes.first.inner_text()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_heat_map_shows_each_head_of_the_chosen_request(api, answered, open_page, width):
    page = open_page(api.admin_port, width=width)
    kv = answered.kvship["kv"]
    layers, heads = 30, 3
    assert page.locator("#heat td").count() == layers * heads
    page.select_option("#heat-choice", answered.id.split("-")[-1])
    layer, head = kv["retained_mass_min_layer"], kv["retained_mass_min_head"]
    least = page.locator(f"#heat td[title^='layer {layer}, head {head}:']")
    assert float(least.inner_text()) == pytest.approx(kv["retained_mass_min"], abs=0.006)
    assert least.evaluate("(cell) => Number(cell.style.getPropertyValue('--hot'))") == pytest.approx(
        min(1, 2 * (1 - kv["retained_mass_min"])), abs=0.002)
    summary = page.locator("#heat-summary").inner_text()
    assert f"mean {100 * kv['retained_mass_mean']:.0f} %" in summary and f"head {head} of layer {layer}" in summary


def test_the_page_follows_new_requests_and_a_server_that_goes(start_decode, browser):
    server, api = start_decode()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{api.admin_port}/")
    page.wait_for_selector("#requests-total[value='0']")
    assert page.locator("#heat-empty").is_visible() and page.locator("#recent-empty").is_visible()
    api.complete("One, two,", max_tokens=2)
    page.wait_for_selector("#requests-total[value='1']")
    assert page.locator("#recent tr").count() == 1
    server.stop()
    page.wait_for_selector("#ready:has-text('does not answer')")
    page.close()


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 360)])
def test_the_prefill_page_shows_a_prompt_on_its_way(api, servers, open_page, scheme, width):
    page = open_page(servers.ports["prefill-admin-port"], scheme, width)
    assert page.locator("#role").inner_text() == "prefill"
    # Long enough for two looks of the page, two seconds apart, however fast the machine is.
    with api.complete(2 * LONG, max_tokens=1, stream=True) as stream:
        reader = threading.Thread(target=lambda: [chunk.id for chunk in stream])
        reader.start()
        page.wait_for_selector("#prompts tr:has-text('running'):has-text('%')")
        assert page.locator("#prompts tr").count() == value_of(page, "active") == 1
        reader.join()
    page.wait_for_selector("#prompts-empty:not([hidden])")
    assert value_of(page, "prompt-tokens") > 0 and value_of(page, "bytes-saved") >= 0
    assert value_of(page, "reused-tokens") == 0  # as no beginnings are kept


def test_status_json_has_no_text_of_a_request(api, answered):
    with api.open_admin("/status.json") as answer:
        told = answer.read().decode()
    assert "lighthouse" not in told and answered.id.split("-")[-1] in told
