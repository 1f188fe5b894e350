"""The page: self-contained, escaped, deterministic, complete."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from study_report_example import SITES, make_examples, make_report, make_run

from fedmentor.errors import DataError
from study.report.html import MAX_PICTURE_BYTES, picture_uri, render_html, write_html
from study.report.values import Example
from study.report.wording import finding

VOID = {"meta", "img"}


class Balance(HTMLParser):
    """Fails on an end tag that closes nothing, and keeps ids and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        """See HTMLParser."""
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """See HTMLParser."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        """See HTMLParser."""
        assert self.open.pop() == tag


def parsed(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    return parser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return render_html(make_report(examples=make_examples(folder)), folder)


def test_images_that_a_distance_leaves_out_are_counted_beside_it(page, tmp_path):
    told = re.compile(r"\d+ images? left out")
    assert not told.search(page), "nobody said how many"
    run = make_run("random", (0.5, 0.6, 0.7))
    counts = (1, 0, 12)
    rounds = tuple(facts.model_copy(update={"hd95_undefined": count}) for facts, count in zip(run.rounds, counts, strict=True))
    assert told.findall(render_html(make_report(run.model_copy(update={"rounds": rounds})), tmp_path)) == [
        "1 image left out",
        "12 images left out",
    ]


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    parser = parsed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_the_page_asks_for_nothing(page):
    parser = parsed(page)
    assert "<script" not in page
    sources = [value for _, name, value in parser.attributes if name in {"src", "href", "xlink:href", "srcset", "action"}]
    assert all(value.startswith(("data:image/", "#")) for value in sources)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_page_says_what_was_found(page):
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    report = make_report()
    assert finding(report) in text
    for words in ("FM-instructed start ahead of random", "Not a medical device", "34 held-out patients", report.command):
        assert words in text
    assert all(digest in text for digest in (report.data.fingerprint, report.teacher.digest, report.distil.model_digest))
    assert all(run.final_model_digest in text for run in report.runs)
    assert all(f'aria-label="Dice of {site} after each round"' in page for site in SITES)


def test_the_same_report_gives_the_same_bytes(tmp_path):
    report = make_report(examples=make_examples(tmp_path, 1))
    path = write_html(report, tmp_path)
    first = path.read_bytes()
    assert path.name == "report.html"
    assert write_html(report, tmp_path).read_bytes() == first


def test_every_text_is_escaped(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    report = make_report(make_run("random", (0.1, 0.2), partition=evil), make_run("fm-instructed", (0.3, 0.4), partition=evil))
    report = report.model_copy(update={"command": evil, "data": report.data.model_copy(update={"source": evil})})
    assert "<img" not in render_html(report, tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"), [("phantoms", True), ("chest-x-rays", False)], ids=["generated images", "real images"]
)
def test_phantoms_are_called_phantoms(tmp_path, source, expected):
    report = make_report()
    report = report.model_copy(update={"data": report.data.model_copy(update={"source": source})})
    assert ("generated phantoms, not X-rays" in render_html(report, tmp_path)) is expected


def test_a_target_that_was_not_reached_shows_as_more_rounds(tmp_path):
    page = render_html(make_report(make_run("random", (0.4, 0.8)), make_run("fm-instructed", (0.3, 0.5))), tmp_path)
    assert "&gt; 1</dd>" in page
    assert "FM-instructed start behind random" in page


def test_reports_with_unusual_runs_can_be_shown(tmp_path):
    several = [make_run(init, (0.2, 0.8), seed=seed) for seed in (0, 1) for init in ("random", "fm-instructed")]
    assert parsed(render_html(make_report(*several), tmp_path)).open == []
    empty = make_report().model_copy(update={"runs": ()})
    page = render_html(empty, tmp_path)
    assert "No federated run finished a round" in page
    unmeasured = empty.model_copy(
        update={"teacher": empty.teacher.model_copy(update={"dice": None, "iou": None, "images_per_second": None})}
    )
    assert "not measured" in render_html(unmeasured, tmp_path)


def test_a_picture_outside_the_folder_is_refused(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="outside"):
        picture_uri(folder, "../secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="outside"):
        picture_uri(folder, "link.png")


def test_pictures_that_cannot_be_shown_are_named(tmp_path):
    (tmp_path / "page.png").write_text("<svg onload=alert(1)>")
    (tmp_path / "large.png").touch()
    with (tmp_path / "large.png").open("r+b") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    for name, reason in (("page.png", "neither PNG nor JPEG"), ("large.png", "over 8 MiB"), ("absent.png", "cannot be read")):
        example = Example(image_id="x", site="site-a", pictures={"image": name}, dice={})
        with pytest.raises(DataError, match=reason):
            render_html(make_report(examples=(example,)), tmp_path)


def test_a_prompt_drawn_around_human_masks_is_not_called_maskless(tmp_path, page):
    assert "no human mask used" in page
    report = make_report()
    around_masks = report.model_copy(update={"teacher": report.teacher.model_copy(update={"prompt": "mask"})})
    assert "no human mask used" not in render_html(around_masks, tmp_path)
