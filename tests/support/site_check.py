"""Checks a built site: its links, what it loads, its JSON files against their schemas, and its failure bundles."""

from __future__ import annotations

import functools
import json
import re
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote

import jsonschema
import referencing
import referencing.exceptions

from conformance.core.text import one_line
from conformance.records.bundle import FACTS
from report.site import MANIFEST

#: Elements that load a resource, and the attribute that names it.
_FETCHING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "image": "href",
    "use": "href",
}
_NEVER = frozenset({"img", "iframe", "object", "embed", "base", "audio", "video", "source", "style"})
_OUTSIDE = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
#: How style sheets and scripts load resources.
_CSS_FETCH = re.compile(r"@import|url\s*\(", re.IGNORECASE)
_SCRIPT_FETCH = re.compile(
    r"\bfetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\s*[({'\"]|\beval\s*\("
)
_POLICY = "default-src 'none'"
_BADGE = {"schemaVersion", "label", "message", "color"}
#: A file of a packed failure bundle: one folder, and names without separators.
_PACKED = re.compile(r"[\w+-][\w.+-]*/[\w+-][\w.+-]*", re.ASCII)


class _Page(HTMLParser):
    """The ids, links, loaded resources and unwanted elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[tuple[str, str]] = []
        self.odd: list[str] = []
        self.policy = ""
        #: The values of each field of its filters.
        self.fields: dict[str, list[str]] = {}
        self._option = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("id"):
            self.ids.add(given["id"])
        if tag in ("input", "select") and "name" in given:
            self.fields[given["name"]] = []
        if tag == "option" and self.fields:
            self._option = "value" not in given
            list(self.fields.values())[-1].append(given.get("value", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in _FETCHING and _FETCHING[tag] in given:
            self.fetched.append((tag, given[_FETCHING[tag]]))
        if tag == "script" and not given.get("src"):
            self.odd.append("an inline script")
        if tag in _NEVER:
            self.odd.append(f"an element <{tag}>")
        self.odd += [f"an attribute {name} at <{tag}>" for name in given if name.startswith("on") or name == "style"]
        if tag == "meta" and given.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = given.get("content", "")
        elif tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.odd.append("a <meta> that redirects")

    def handle_data(self, data: str) -> None:
        if self._option:
            list(self.fields.values())[-1].append(data)
        self._option = False


def site_problems(directory: Path) -> list[str]:
    """The problems of the site at `directory`, each in one sentence."""
    files = sorted(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    problems: list[str] = []
    texts: dict[str, str] = {}
    packed = {name for name in files if name.endswith(".zip")}
    for name in sorted(packed):
        problem = _archive_problem(directory / name)
        problems += [f"{name} {problem}"] if problem else []
    for name in files:
        if name in packed:
            continue
        try:
            texts[name] = (directory / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except UnicodeDecodeError as error:
            problems.append(f"cannot read {name}: {error}")
    pages = {name: _Page(text) for name, text in texts.items() if name.endswith(".html")}
    if "index.html" not in pages:
        problems.append("index.html is missing")
    there = {*texts, *packed}
    for name, page in pages.items():
        problems += (f"{name}: {problem}" for problem in _page_problems(name, page, pages, there))
    for name, text in texts.items():
        pattern = {".css": _CSS_FETCH, ".js": _SCRIPT_FETCH}.get(PurePosixPath(name).suffix)
        match = pattern.search(text) if pattern else None
        if match:
            problems.append(f"{name}: {match[0]!r} would load a resource")
    return [*problems, *_data_problems(texts, packed)]


def _archive_problem(path: Path) -> str | None:
    """The problem of a packed failure bundle; None if it has none."""
    try:
        with zipfile.ZipFile(path) as packed:
            # Builds store without compression: an archive never unpacks to more than its size.
            if any(part.compress_type != zipfile.ZIP_STORED for part in packed.infolist()):
                return "is compressed"
            broken = packed.testzip()
            names = packed.namelist()
    except FileNotFoundError:
        return "is missing"
    except zipfile.BadZipFile as error:
        return f"is not a zip file: {error}"
    if broken:
        return f"is damaged at {broken}"
    odd = [name for name in names if not _PACKED.fullmatch(name)]
    if odd:
        return f"would unpack to {odd[0]!r}"
    return None if any(name.endswith(f"/{FACTS}") for name in names) else f"lacks {FACTS}"


def _page_problems(name: str, page: _Page, pages: Mapping[str, _Page], files: Iterable[str]) -> Iterator[str]:
    yield from page.odd
    if _POLICY not in page.policy:
        yield f"its content security policy lacks {_POLICY!r}"
    known = frozenset(files)
    for tag, target in page.fetched:
        if _SCHEME.match(target):
            yield f"<{tag}> would load {target}"
        else:
            yield from _resolve(name, target, pages, known)
    for target in page.links:
        if _OUTSIDE.match(target):
            continue
        if _SCHEME.match(target):
            yield f"the link {target} is not a web address"
        else:
            yield from _resolve(name, target, pages, known)


def _resolve(name: str, target: str, pages: Mapping[str, _Page], files: frozenset[str]) -> Iterator[str]:
    path, _, fragment = target.partition("#")
    parts = list(PurePosixPath(name).parts[:-1]) if path else list(PurePosixPath(name).parts)
    for part in PurePosixPath(unquote(path)).parts:
        if part == ".." and not parts:
            yield f"the link {target} leads out of the site"
            return
        parts = parts[:-1] if part == ".." else [*parts, part]
    linked = "/".join(parts)
    if linked not in files:
        yield f"the link {target} leads to a missing file"
    elif "=" in fragment and linked in pages:
        for field, value in parse_qsl(fragment):
            if value not in pages[linked].fields.get(field, []):
                yield f"the link {target} filters by {field} {value!r}, which that page does not offer"
    elif fragment and linked in pages and unquote(fragment) not in pages[linked].ids:
        yield f"the link {target} leads to a missing element"


def _data_problems(texts: Mapping[str, str], packed: Container[str]) -> Iterator[str]:
    """Every document is checked against its schema, and the index against the files that it lists."""
    data: dict[str, Any] = {}
    for name, text in texts.items():
        if name.endswith(".json"):
            try:
                data[name] = json.loads(text, parse_constant=_not_a_number)
            except ValueError as error:
                yield f"{name} is not JSON: {error}"
    for name, document in data.items():
        if name.startswith("badge") and (not isinstance(document, dict) or set(document) != _BADGE):
            yield f"{name} is not a badge: expected the keys {', '.join(sorted(_BADGE))}"
        kind = "index" if name == "index.json" else "architecture" if name.startswith("architectures/") else None
        schema = f"schema/{kind}.schema.json"
        if kind and schema not in data:
            yield f"the schema of {name} is missing"
        elif kind:
            yield from _against(document, texts[schema], name)
        bundles = document.get("bundles") if kind == "architecture" and isinstance(document, dict) else None
        if isinstance(bundles, dict):
            yield from (f"{name}: {address} is missing" for address in bundles.values() if address not in packed)
    index = data.get("index.json")
    if isinstance(index, dict):
        yield from _index_problems(index, data, texts)
    else:
        yield "index.json is missing, or is not an object"


def _index_problems(index: Mapping[str, Any], data: Mapping[str, Any], files: Iterable[str]) -> Iterator[str]:
    """The index must list existing files, which have as many cells as it counts."""
    known = frozenset(files)
    try:
        for each in index["architectures"]:
            yield from (
                f"index.json: {each['name']}: {each[key]} is missing"
                for key in ("page", "data", "badge")
                if each[key] not in known
            )
        yield from (
            f"index.json: {each['signature']}: {each['page']} is missing"
            for each in index["causes"]
            if each["page"] not in known
        )
        listed = sum(len(data[each["data"]]["cells"]) for each in index["architectures"] if each["data"] in data)
        counted = sum(index["counts"].values())
    except (KeyError, TypeError, AttributeError):
        return  # the schema's problem already
    if listed != counted:
        yield f"index.json counts {counted} cells, but the architectures have {listed}"


@functools.lru_cache(maxsize=8)  # checking a schema takes longer than checking a document
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    plain = json.loads(schema)
    jsonschema.Draft202012Validator.check_schema(plain)
    # A registry of its own: without one, a schema could have its references fetched from anywhere.
    return jsonschema.Draft202012Validator(plain, registry=referencing.Registry())


def _against(document: object, schema: str, name: str) -> Iterator[str]:
    try:
        error = jsonschema.exceptions.best_match(_validator(schema).iter_errors(document))
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable) as wrong:
        yield f"the schema of {name} is invalid: {one_line(str(wrong))}"
        return
    if error:
        key = ".".join(map(str, error.absolute_path)) or "the whole document"
        yield f"{name} does not fit its schema: {key}: {one_line(error.message)}"


def _not_a_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
