"""The page in a real browser: it opens without a message, fetches nothing, and its fields do what they say."""

from __future__ import annotations

import json

import pytest

from analysis.__main__ import main
from sweep.store.records import iterate_records, write_record
from tests.analysis.page.conftest import latent, write_contexts
from tests.analysis.synthetic import record, write_sweep

PLOT = "#frontier .plot"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Make the page of a small study with contexts, beside its runs."""
    folder = tmp_path_factory.mktemp("report")
    write_sweep(folder / "runs", layers=(1, 2), ds=(2, 8), ks=(8, 16), seeds=(0, 1, 2))
    for seed in (0, 1):
        write_contexts(folder / "runs", f"expander-1-8-16-{seed}-512-200000", [latent(3), latent(17, rate=0.5)])
    assert main(["report", "--runs", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


def drawn(page, plot=PLOT):
    """Return the ys that a plot shows, a list per line with points."""
    code = "plot => plot.data.filter(one => one.hoverinfo !== 'skip').map(one => Array.from(one.y))"
    return page.eval_on_selector(plot, code)


def view(page, name):
    """Go to a section as a reader does, and wait until it is drawn."""
    page.locator(f"#nav a[href='#{name}']").click()
    page.wait_for_selector(f"#{name}:not(.waiting)")


def fields(page, section="#frontier"):
    return page.locator(f"{section} .lines input")


def test_every_section_is_drawn_when_it_comes_into_view(report, opened):
    page = opened(report)
    assert page.title() == f"SAE sweep: {report.parents[1] / 'runs'}" and page.get_attribute("html", "lang") == "en"
    assert page.locator("section.waiting").count() > 8  # not before
    for name in page.eval_on_selector_all("section.waiting", "all => all.map(one => one.id)"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{name}:not(.waiting)")
    for plot in page.locator(".plot").all():
        assert plot.locator(".scatterlayer .trace").count() > 0
    assert page.locator("#dominance tbody tr").count() > 2
    assert page.locator("#nav a").count() == page.locator("main section").count() - page.locator("#missing").count()


def test_the_pointer_names_the_run_and_a_click_shows_it(report, opened):
    page = opened(report)
    page.locator(f"{PLOT} .scatterlayer .point").first.hover(force=True)
    said = page.locator(f"{PLOT} .hoverlayer").text_content()
    assert "expander" in said and "(3 seeds)" in said and "runs expander-2-8-16-0" in said and "compression: " in said
    page.locator(f"{PLOT} .scatterlayer .point").first.click(force=True)
    rows = page.locator("#runs tbody tr")
    assert rows.count() == 3 and all("expander" in text for text in rows.all_inner_texts())


def test_no_button_sends_the_records_away(report, opened):
    page = opened(report)
    page.locator(PLOT).hover()
    names = page.eval_on_selector_all(f"{PLOT} .modebar-btn", "all => all.map(one => one.dataset.title)")
    assert names == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_a_touch_shows_the_text_of_a_point_and_does_not_go_to_its_runs(report, chromium):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn]")
    page.locator(PLOT).scroll_into_view_if_needed()
    page.locator(f"{PLOT} .scatterlayer .point").first.tap(force=True)
    # Plotly draws the text of a point anew now and then, so the page itself asks until the condition holds.
    page.wait_for_function(
        """([plot, width]) => {
            const said = document.querySelector(plot + " .hovertext"), box = said?.getBoundingClientRect();
            return said?.textContent.includes("expander") && box.x >= 0 && box.right <= width;
        }""",
        arg=[PLOT, 390],
    )
    assert page.locator("#runs tbody tr").count() == 0 and not page.locator(".modebar-btn").count()
    context.close()


def test_fields_choose_axes_inference_k_and_arms(report, opened):
    page = opened(report)

    def pick(label, text):
        page.locator("#frontier").get_by_label(label, exact=True).select_option(label=text)

    before = drawn(page)
    pick("x", "stored bytes")
    assert [sorted(ys) for ys in drawn(page)] == [sorted(ys) for ys in before]
    for label, text in (("y", "added CE"), ("codes read by", "omp"), ("k", "8")):
        pick(label, text)
        assert drawn(page) != before
        before = drawn(page)
    page.locator("#frontier").get_by_role("button", name="none").click()
    assert drawn(page) == []
    fields(page).first.focus()
    page.keyboard.press("Space")
    assert len(drawn(page)) == 1 and page.evaluate("document.activeElement.checked")  # the keyboard keeps its place
    points = page.locator(f"{PLOT} .scatterlayer .point").count()
    page.locator("#frontier").get_by_label("single runs").check()
    assert page.locator(f"{PLOT} .scatterlayer .point").count() == points + 3 * len(drawn(page)[-1])


def test_the_numbers_below_a_figure_are_those_drawn(report, opened):
    page = opened(report)
    page.locator("#frontier summary").click()
    rows = page.locator("#frontier details tbody tr")
    points = page.eval_on_selector(PLOT, "p => p.data.filter(t => t.mode.includes('markers')).flatMap(t => t.x).length")
    assert rows.count() >= points > 0 and "±" in rows.first.inner_text()


def test_runs_are_filtered_sorted_and_linked(report, opened):
    page = opened(report)
    view(page, "runs")
    field, rows = page.locator("#runs input"), page.locator("#runs tbody tr")
    total = sum("kind" not in one for _, one in iterate_records(report.parents[1] / "runs"))  # the others are of no LM
    assert f"{total} of {total} runs" in page.locator("#runs .count").inner_text() and rows.count() == 100
    page.locator("#runs").get_by_role("button", name="show more").click()
    assert rows.count() == total
    field.fill("arm=expander k=8 layer=1")
    assert rows.count() == 6
    field.fill("expander-4bit|dense_tied k=16 ce_recovered>=0.9 d<5")
    assert rows.count() == 0
    field.fill("arm=expander")
    head = page.locator("#runs th", has_text="CE recovered")
    head.locator("button").click()
    column = page.locator("#runs th").all_inner_texts().index(head.inner_text())
    values = [float(text) for text in page.locator(f"#runs td:nth-child({column + 1})").all_inner_texts()]
    assert values == sorted(values, reverse=True) and head.get_attribute("aria-sort") == "descending"
    href = rows.first.locator("a").evaluate("link => link.href")
    assert href == (report.parents[1] / "runs" / rows.first.locator("a").inner_text()).as_uri() + "/"


def test_contexts_mark_the_tokens_that_a_latent_fires_at(report, opened):
    page = opened(report)
    view(page, "contexts")
    heads = ["latent 17 fires at 50 % of tokens", "latent 3 fires at 1 % of tokens"]
    assert page.locator("#contexts h3").all_inner_texts() == heads
    assert page.locator("#contexts .latent").first.locator("mark").all_inner_texts() == [" main", "↵"]
    assert "of 2 run(s)" in page.locator("#contexts .how").inner_text()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_in_light_and_in_dark(report, opened, width):
    page = opened(report, viewport={"width": width, "height": 844}, color_scheme="light")
    page.evaluate("waiting.forEach(make)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tick = f"{PLOT} .xtick text"
    light = page.eval_on_selector(tick, "text => text.style.fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("([tick, light]) => document.querySelector(tick).style.fill !== light", arg=[tick, light])


def test_texts_of_records_are_shown_as_text_and_never_run(tmp_path, opened):
    evil = "<img src=x onerror='window.hacked=1'></script><script>window.hacked=2</script><!-- \u2028 <b>"
    runs = tmp_path / "runs"
    for number, arm in enumerate((evil, "expander")):
        made = record(arm, 4, 8, 0, 0.7 + 0.1 * number)
        made |= {"run_id": f"run{number}", "labels": {**made["labels"], "model": evil, "corpus": evil}}
        write_record(runs, made)
        write_contexts(runs, f"run{number}", [latent(1, tokens=(evil, "x", evil), codes=(0.0, 2.0, 1.0))])
    assert main(["report", "--runs", str(runs), "--out", str(tmp_path)]) == 0
    page = opened(tmp_path / "report.html")
    page.evaluate("waiting.forEach(make)")
    page.locator(f"{PLOT} .scatterlayer .point").first.hover(force=True)
    said = page.locator(f"{PLOT} .hoverlayer").text_content()
    assert "onerror" in said
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    assert page.locator("#contexts mark").last.inner_text().startswith("<img src=x")
    assert evil.split("\u2028")[0].strip() in page.locator(".facts").inner_text()


def test_a_page_of_a_thousand_runs_is_drawn_and_filtered(tmp_path, opened):
    count = write_sweep(tmp_path / "runs", seeds=(0, 1, 2, 5))
    assert count > 1000
    assert main(["report", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    page = opened(tmp_path / "report.html")
    assert page.locator(f"{PLOT} .scatterlayer .point").count() > 10
    view(page, "runs")
    page.locator("#runs input").fill("clustered d=16")
    assert page.locator("#runs tbody tr").count() == 2 * 2 * 4
    assert json.loads(page.locator("#data").text_content())["about"]["runs"] == count
