"""Labels: those of each platform, hostile metadata, and those of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import CONFIGURATION_FILE, METADATA, OTHER_METADATA
from virtballoon import Configuration, ConfigurationError, DomainXMLError, load_configuration
from virtballoon.hypervisor import domainxml, labels
from virtballoon.hypervisor.domainxml import parse, use_labels
from virtballoon.render import columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NOVA, NOVA_LABELS = METADATA["nova"]


@pytest.fixture(autouse=True, params=["lxml", "expat"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import threading

    monkeypatch.setattr(domainxml, "_use_expat", threading.Event())
    monkeypatch.setattr(domainxml, "_parsed", {})
    if request.param == "expat":
        domainxml.use_expat()
    yield
    use_labels(Configuration())


def read(metadata: str = "", *, before: str = "", name: str = "web1") -> Mapping[str, str]:
    """The labels of a domain."""
    inside = f"<name>{name}</name>{before}<metadata>{metadata}</metadata><memory>1</memory>"
    return parse(f"<domain type='kvm' id='7'>{inside}</domain>").labels


@pytest.mark.parametrize("platform", METADATA)
def test_platform(platform: str) -> None:
    metadata, expected = METADATA[platform]
    assert read(metadata, name="mynamespace_testvm") == expected
    assert expected.keys() < set(labels.names())


def test_nova_before_xena() -> None:
    assert read(NOVA.replace("nova/1.1", "nova/1.0")) == NOVA_LABELS


def test_several() -> None:
    assert read(OTHER_METADATA) == {}
    together = METADATA["libosinfo"][0] + OTHER_METADATA + NOVA
    assert read(together, before="<title>Shop</title>") == {
        "title": "Shop",
        **METADATA["libosinfo"][1],
        **NOVA_LABELS,
    }


def test_first_of_two_counts() -> None:
    other = NOVA.replace("shop-web-1", "second")
    assert read(NOVA + other) == NOVA_LABELS
    twice = NOVA.replace("<nova:flavor", "<nova:name>x</nova:name><nova:flavor", 1)
    assert read(twice) == NOVA_LABELS


def test_long_text_is_cut() -> None:
    long = read(NOVA.replace("shop-web-1", "x" * 100_000), before=f"<title>{'y' * 201}</title>")
    assert long["name"] == "x" * 200
    assert long["title"] == "y" * 200
    assert read(before=f"<title>{'z' * 199} z</title>")["title"] == "z" * 199


def test_foreign_text() -> None:
    text = "\u202ea\n\x85b&<>\U0001f600"
    assert read(NOVA.replace("shop-web-1", escape(text)))["name"] == text
    commented = "<!-- a -->shop<?pi data?>-web-1<!-- <nova:name>no</nova:name> -->"
    assert read(NOVA.replace("shop-web-1", commented)) == NOVA_LABELS
    assert read(NOVA.replace("shop-web-1", "<![CDATA[<b>&amp;]]>"))["name"] == "<b>&amp;"
    assert read(NOVA.replace("shop-web-1", "a<b>c</b>d"))["name"] == "a"
    assert "name" not in read(NOVA.replace("shop-web-1", " \t\n"))
    with pytest.raises(DomainXMLError):
        read(NOVA.replace("shop-web-1", "&unknown;"))


def test_kubevirt_needs_its_metadata_and_name() -> None:
    assert read(name="mynamespace_testvm") == {}
    assert read(METADATA["kubevirt"][0], name="testvm") == {}


def test_unusual_os() -> None:
    metadata = METADATA["libosinfo"][0]
    for os_id, os in (
        ("http://debian.org/debian/12", "debian"),
        ("https://archlinux.org/archlinux", "archlinux"),
        ("debian12", None),
    ):
        found = read(metadata.replace("http://microsoft.com/win/2k22", os_id))
        assert (found["os_id"], found.get("os")) == (os_id, os)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=300)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text(title: str, name: str) -> None:
    metadata = NOVA.replace("shop-web-1", escape(name))
    found = read(metadata, before=f"<title>{escape(title)}</title>")
    for key, text in (("title", title), ("name", name)):
        assert found.get(key, "") == text.strip()[:200].rstrip()


# The configuration's own.


def configured(**expressions: str) -> Configuration:
    return Configuration(labels=expressions, namespaces={"acme": "urn:acme"})


APP = "<acme:app xmlns:acme='urn:acme' team=' blue '><acme:cost>12</acme:cost></acme:app>"


def test_own_labels(tmp_path: Path) -> None:
    assert read(APP) == {}
    (tmp_path / "config.toml").write_text(CONFIGURATION_FILE)
    use_labels(load_configuration(tmp_path / "config.toml"))
    assert read(APP) == {"team": "blue"}
    assert read() == {}
    assert labels.names()[-1] == "team"

    use_labels(Configuration())
    assert read(APP) == {}
    assert "team" not in labels.names()


def test_own_label_takes_precedence() -> None:
    use_labels(configured(project="/domain/memory", os="/domain/name", flavor="/domain/none"))
    found = read(NOVA + METADATA["libosinfo"][0])
    assert (found["project"], found["os"]) == ("1", "web1")
    # The configuration's gives nothing here.
    assert "flavor" not in found


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("//acme:cost", "12"),
        ("count(//acme:cost)", "1"),
        ("//acme:cost + 1", "13"),
        ("concat(/domain/@id, '-', name(/domain/*[1]))", "7-name"),
        ("boolean(//acme:app)", "true"),
        ("//acme:none", None),
        # The function is only missed where the element is there.
        ("//acme:cost[none()]", None),
        ("//acme:cost[other:x]", None),
    ],
)
def test_expression(expression: str, text: str | None) -> None:
    use_labels(configured(own=expression))
    assert read(APP).get("own") == text


@pytest.mark.parametrize(
    "expression",
    [
        *("//", "a[", "'a", "a, b", "a) or (b", "1 +", "\x00", "other:a", "$a"),
        *("none()", "document('/etc/passwd')", "unparsed-text('/etc/passwd')", "re:test('a', 'a')"),
        *("str:tokenize('a')", "generate-id()", "system-property('xsl:version')"),
    ],
)
def test_invalid_expression(expression: str) -> None:
    use_labels(configured(team="//acme:cost"))
    with pytest.raises(ConfigurationError, match=r"^labels\.own: invalid XPath: "):
        use_labels(configured(team="name", own=expression))
    assert read(APP) == {"team": "12"}


def test_no_functions_but_those_of_xpath() -> None:
    exslt = {name: f"http://exslt.org/{name}" for name in ("regular-expressions", "strings")}
    for prefix, call in (("regular-expressions", "test('a', 'a')"), ("strings", "tokenize('a')")):
        own = Configuration(labels={"own": f"{prefix}:{call}"}, namespaces=exslt)
        with pytest.raises(ConfigurationError, match="invalid XPath"):
            use_labels(own)


def test_other_columns_keep_their_short_names() -> None:
    use_labels(configured(used="/domain/memory", live="/domain/memory", team="/domain/name"))
    words = ("used", "live", "name", "team", "labels.used", "labels.name", "flavor")
    assert [column and column.key for column in map(columns.find, words)] == [
        *("used_bytes", "interval.live", "name", "labels.team"),
        *("labels.used", "labels.name", "labels.flavor"),
    ]


def test_invalid_expression_names_its_file(tmp_path: Path) -> None:
    (file := tmp_path / "config.toml").write_text("[labels]\nteam = '//'")
    with pytest.raises(ConfigurationError) as caught:
        use_labels(load_configuration(file))
    assert str(caught.value).startswith(f"{file}: labels.team: invalid XPath: ")


def test_platforms_that_a_domain_lacks_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_cut", lambda *_: pytest.fail("evaluated"))
    assert read() == read(OTHER_METADATA) == {}
