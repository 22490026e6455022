"""YAML files that people and commands write: read with the line of each key, refused where they are more than data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conformance.core.errors import InputError
from conformance.core.files import read_regular_file
from conformance.core.text import one_line

#: Bytes that a file may have; the matrix of 189 architectures has 30 kB.
_MAX_BYTES = 4 << 20
#: Levels of nesting; the matrix has 4. With 100,000, PyYAML's C loader overflows the stack.
_MAX_DEPTH = 20
#: Characters of a message, which may quote all that is wrong.
_MAX_MESSAGE = 500
_TAG = "tag:yaml.org,2002:"
#: YAML 1.1 reads on, off, yes and no as booleans too; `on` is a key here.
_NOT_BOOLEAN = "onyONY"
_TYPES = frozenset(_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null"))
_WIDTH = 120


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    """PyYAML's, without the booleans that begin with such a letter."""
    return {
        first: [pair for pair in pairs if not (pair[0] == f"{_TAG}bool" and first in _NOT_BOOLEAN)]
        for first, pairs in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
    }


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()


class MatrixError(InputError):
    """A file of the matrix is wrong; the message says which, where, and what to write instead."""


@dataclass(frozen=True, slots=True)
class YamlFile:
    """The content of a file, with its lines.

    Args:
        path: The file.
        header: The comment lines that it begins with.
        data: Mappings, lists and scalars.
        node: The same as libyaml's nodes, which know their lines.
    """

    path: Path
    header: str
    data: Any
    node: yaml.Node | None

    def error(self, keys: Iterable[str | int], message: str) -> MatrixError:
        """An error about the value under `keys`, with the line of the deepest of them that the file has."""
        line, node = 0, self.node
        keys = list(keys)
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            line, node = found
        text = one_line(f"{'.'.join(map(str, keys))}: {message}" if keys else message, _MAX_MESSAGE)
        return MatrixError("invalid-matrix", f"{self.path}:{line + 1}: {text}")


def read_yaml(path: Path) -> YamlFile:
    """Read the file at `path`.

    Raises:
        MatrixError: It is missing or too large, is not YAML, has an anchor, an alias, a merge, a tag of its own or the
            same key twice.
    """
    try:
        text = read_regular_file(path, _MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise MatrixError.of_file(path, error) from error
    except UnicodeDecodeError as error:
        raise MatrixError("invalid-yaml", f"{path}: the file is not UTF-8 text") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> YamlFile:
    """As `read_yaml`, of a `text` that was read from `path` or is about to be written there."""
    loader = _Loader(text)
    try:
        _require_tree(text, path)
        node = loader.get_single_node()
        if node is not None:
            _require_plain(node, path)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MatrixError("invalid-yaml", f"{path}:{line}: {one_line(str(error.problem), _MAX_MESSAGE)}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise MatrixError("invalid-yaml", f"{path}: not valid YAML: {one_line(str(error), _MAX_MESSAGE)}") from error
    except MatrixError:
        raise
    except (ValueError, TypeError) as error:  # a scalar that its tag does not fit, such as a number of 5000 digits
        raise MatrixError("invalid-yaml", f"{path}: not valid YAML: {one_line(str(error), _MAX_MESSAGE)}") from error
    finally:
        loader.dispose()
    lines = text.splitlines(keepends=True)
    first = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return YamlFile(path, "".join(lines[:first]), data, node)


def flow(value: Mapping[str, Any]) -> str:
    """A mapping on one line, such as ``{tier: core, caches: [full_attention]}``."""
    dumped: str = yaml.dump(
        dict(value), Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20
    )
    return dumped.strip()


def block(key: str, value: str) -> str:
    """A key and its value on a line of their own, such as ``link: https://example.org``."""
    dumped: str = yaml.dump({key: value}, Dumper=_Dumper, allow_unicode=True, width=1 << 20)
    return dumped.strip()


def folded(text: str, indent: int) -> str:
    """A sentence as a folded block scalar, whose lines are at most 120 characters long."""
    pad = " " * indent
    lines = textwrap.wrap(text, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return ">-\n" + "\n".join(pad + line for line in lines)


def _child(node: yaml.Node | None, key: str | int) -> tuple[int, yaml.Node] | None:
    """The line and the value under `key`."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return name.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line, node.value[key]
    return None


def _require_tree(text: str, path: Path) -> None:
    """Raises `MatrixError` at the first anchor, alias or level that is too deep. It builds nothing."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if getattr(event, "anchor", None) is not None:
            raise MatrixError("invalid-yaml", f"{line}: anchors and aliases are not supported: write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise MatrixError("invalid-yaml", f"{line}: nested deeper than {_MAX_DEPTH} levels")


def _require_plain(root: yaml.Node, path: Path) -> None:
    """Raises `MatrixError` at the first node that is more than data."""
    pending = [root]
    while pending:
        node = pending.pop()
        if node.tag not in _TYPES:
            tag = node.tag.replace(_TAG, "!!")
            line = f"{path}:{node.start_mark.line + 1}"
            raise MatrixError(
                "invalid-yaml", f"{line}: the type {one_line(tag)} is not supported; quote the value if it is text"
            )
        if isinstance(node, yaml.MappingNode):
            names = [name for name, _ in node.value]
            for name in names:
                if not isinstance(name, yaml.ScalarNode) or name.tag == f"{_TAG}merge":
                    raise MatrixError(
                        "invalid-yaml",
                        f"{path}:{name.start_mark.line + 1}: a key must be a name, not << or a list",
                    )
            twice = [name for index, name in enumerate(names) if name.value in {other.value for other in names[:index]}]
            if twice:
                line = twice[0].start_mark.line + 1
                raise MatrixError("invalid-yaml", f"{path}:{line}: the key {one_line(twice[0].value)!r} is given twice")
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
