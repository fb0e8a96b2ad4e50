# The status page in a browser: it follows the relay, keeps to its policy, and fits on any screen.
#
# ATTEST_PICTURES=FOLDER keeps what it looked like, for eyes.
import os
import signal

import pytest

from chromium import Chromium
from harness import free_port, wait_for
from streams import Service, dial, echo, http_connect

WIDTHS = [360, 768, 1600]

# WCAG 2's contrast of what is written, by its own colour and the first opaque one behind it.
CONTRAST = """
(() => {
	const parse = (c) => c.match(/[\\d.]+/g).map(Number);
	const light = ([r, g, b]) => {
		const f = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
		return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
	};
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = parse(getComputedStyle(e).backgroundColor);
			if (c.length < 4 || c[3] > 0)
				return c;
		}
		return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
	};
	const bad = [];
	for (const e of document.querySelectorAll("body *, svg .curve")) {
		const curve = e.matches(".curve");
		if (!curve && ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
			continue;
		if (e.closest("noscript, title, desc"))
			continue;
		const style = getComputedStyle(e), a = light(parse(curve ? style.stroke : style.color));
		const b = light(behind(e)), c = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (c < (curve ? 3 : 4.5))
			bad.push(`${e.nodeName}.${e.getAttribute("class")}: ${c.toFixed(2)}`);
	}
	return bad;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    b = Chromium(str(tmp_path_factory.mktemp("chromium")))
    yield b
    b.close()


@pytest.fixture
def page(browser):
    """The browser, of which nothing is left from the test before."""
    browser.go("about:blank")
    browser.complaints.clear()
    browser.look(1024)
    return browser


def start(world, port=None, **config):
    port = port or free_port()
    relay = world.relay(status=f"tcp:127.0.0.1:{port}", **config)
    relay.page = f"http://127.0.0.1:{port}/"
    return relay


def show(page, url):
    page.go(url)
    wait_for(lambda: page.run("document.readyState === 'complete' && !!document.querySelector("
                              "'#live p')"), "the page and its script")


def text(page, selector):
    return page.run(f"document.querySelector({selector!r})?.innerText")


def picture(page, name):
    folder = os.environ.get("ATTEST_PICTURES")
    if folder:
        page.picture(os.path.join(folder, f"{name}.png"))


def test_it_follows(world, page):
    """What changes appears without a reload; focus, scrolling and what is unfolded stay."""
    svc = world.add(Service(handler=echo))
    relay = start(world, services=[{"name": "kbs.acme"}])
    page.look(400, 500)
    show(page, relay.page)
    assert "no tunnel offers it yet" in text(page, "#problems")
    page.run("window.kept = document.querySelector('#services tbody tr');"
             "document.querySelector('#filter').value = 'typing';"
             "document.querySelector('#filter').focus();"
             "document.querySelector('details').open = true; window.scrollTo(0, 300)")
    world.agent(relay, {"kbs": svc.address})
    wait_for(lambda: "reachable" in text(page, "#services tbody") and
             "unreachable" not in text(page, "#services tbody"), "the tunnel on the page")
    assert "no tunnel offers it yet" not in text(page, "#problems")
    c = http_connect(dial(relay.listeners["front"]), "kbs.acme")
    wait_for(lambda: text(page, ".facts dd") == "1", "the stream on the page")
    c.close()
    assert page.run("[document.activeElement.id, document.querySelector('#filter').value,"
                    " document.querySelector('details').open, window.scrollY > 0,"
                    " window.kept.isConnected]") == ["filter", "typing", True, True, True]
    assert not page.complaints


def test_pause_and_hiding(world, page):
    relay = start(world)
    show(page, relay.page)
    page.run("document.querySelector('#live button').click();"
             "window.asked = 0; const f = window.fetch;"
             "window.fetch = (...a) => { window.asked++; return f(...a); }")
    assert text(page, "#live p") == "Paused."
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.run("window.asked") == 0
    page.run("document.querySelector('#live button').click()")
    wait_for(lambda: page.run("window.asked") == 1, "asked at once")
    wait_for(lambda: text(page, "#live p").startswith("Updates"), "going on")
    page.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
             "document.dispatchEvent(new Event('visibilitychange')); window.asked = 0")
    page.run("new Promise((done) => setTimeout(done, 6000))")
    assert page.run("window.asked") == 0
    page.run("Object.defineProperty(document, 'hidden', { value: false, configurable: true });"
             "document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: page.run("window.asked") == 1, "asked when seen again")
    assert not page.complaints


def test_the_relay_is_gone(world, page):
    port = free_port()
    relay = start(world, port)
    show(page, relay.page)
    relay.stop()
    wait_for(lambda: "No answer since" in text(page, "#live p"), "told that it is gone")
    assert "no answer" in page.run("document.title")
    assert "Problems" in text(page, "main")   # as it was
    picture(page, "gone")
    start(world, port, name="again")
    wait_for(lambda: text(page, "#live p").startswith("Updates"), "told that it is back")
    assert "no answer" not in page.run("document.title")
    # the browser itself says that nobody was there
    assert all("ERR_CONNECTION_REFUSED" in c for c in page.complaints), page.complaints


def test_nothing_from_elsewhere_runs(world, page):
    relay = start(world)
    show(page, relay.page)
    page.run("document.body.insertAdjacentHTML('beforeend', "
             "'<img src=x onerror=\"window.ran = 1\">')")
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert page.run("window.ran") is None
    assert any("Content Security Policy" in c for c in page.complaints), page.complaints


@pytest.mark.parametrize("services", [0, 3, 500])
def test_it_fits(world, page, services):
    """At each width and in both schemes: nothing is wider than the screen, and all can be read."""
    svc = world.add(Service(handler=echo))
    names = [f"attestation-{i:03}" for i in range(services)]
    if services > 3:
        names[7] = "a-service-with-a-name-that-is-as-long-as-any-name-of-a-label-is"
    relay = start(world, owners=[world.owner(services=names or None) if names else world.owner()],
                  services=[{"name": f"{n}.acme",
                             "targets": ["tunnel", svc.address] if i % 2 else ["tunnel"]}
                            for i, n in enumerate(names)])
    some = [http_connect(dial(relay.listeners["front"]), f"{names[1]}.acme")
            for _ in range(3 if names else 0)]
    page.look(1024)
    show(page, relay.page)
    wait_for(lambda: len(page.run("document.querySelector('#plot-live-title').parentNode"
                                  ".querySelector('.curve').getAttribute('d')")) > 5,
             "something that is drawn")
    for width in WIDTHS:
        for scheme in "light", "dark":
            page.look(width, scheme=scheme, motion="reduce")
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), (width, scheme)
            assert page.run(CONTRAST) == [], (width, scheme)
            picture(page, f"{services}-{width}-{scheme}")
    for c in some:
        c.close()
    assert not page.complaints


def test_by_keyboard(world, page):
    """Tab reaches what can be used, and what scrolls; each shows that it has the focus."""
    relay = start(world, services=[{"name": "kbs.acme"}])
    show(page, relay.page)
    seen = []
    for _ in range(12):
        for kind in "keyDown", "keyUp":
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                      windowsVirtualKeyCode=9)
        seen.append(page.run("document.activeElement.nodeName + ' ' + "
                             "getComputedStyle(document.activeElement).outlineStyle"))
    assert {"BUTTON solid", "INPUT solid", "DIV solid", "SUMMARY solid", "A solid"} <= set(seen)
    page.run("document.querySelector('#filter').focus()")
    page.send("Input.insertText", text="kbs")
    for kind in "keyDown", "keyUp":
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                  windowsVirtualKeyCode=13)
    wait_for(lambda: page.run("location.search") == "?filter=kbs", "the form was sent")
    assert not page.complaints


def test_without_javascript(world, page):
    relay = start(world, services=[{"name": "kbs.acme"}])
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.go(relay.page)
        wait_for(lambda: "Reload the page" in (text(page, "header") or ""), "the page")
        assert text(page, "#live") == ""
        picture(page, "no-javascript")
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
    relay.signal(signal.SIGTERM)
    relay.finish()
