"""`models_matrix.yaml` as a document to change in place: anchors, comments and what is not touched stay as they are.

An anchored expectation is one node wherever an alias stands, and ruamel.yaml writes it out where it first stands. What
a node has from `<<` are copies made at reading, so it still says the same when what it builds on is changed.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from conformance.matrix.schema import TODO, MatrixError
from conformance.matrix.selectors import CellSelector

_KEYS = ("clauses", "backends", "modes", "subject", "stage", "signature", "at_most", "reason", "link", "when")
#: A row's first line.
_ROW = r"^  ([^\s#]\S*):"
#: The comments above a row or the end. The parser would hang them on the end of the row before, which may change.
_ABOVE = re.compile(rf"((?:^(?:  )?#.*\n|^\n)+)(?={_ROW}|\Z)", re.MULTILINE)
#: A comment on a line of its own; what is further in is the text of a reason.
_COMMENT = re.compile(r"^ {0,8}(#.*)$", re.MULTILINE)


def opened(text: str) -> CommentedMap:
    """The document of a matrix that is known to be one."""
    document: CommentedMap = _yaml().load(_ABOVE.sub("", text))
    lists = [id(row["expect"]) for row in document["architectures"].values() if "expect" in row]
    if len(lists) != len(set(lists)):
        raise MatrixError("two rows share a whole list of expectations: let each list the anchors of those it shares")
    for row in document["architectures"].values():
        for node in nodes(row):
            if anchor(node):
                node.yaml_set_anchor(anchor(node), always_dump=True)  # also where the last alias goes
    return document


def closed(document: CommentedMap, before: str) -> str:
    """The document as text; `before` is the one it was opened from."""
    above = {name: comments for comments, name in _ABOVE.findall(before)}
    stream = io.StringIO()
    _yaml().dump(document, stream)
    text: str = re.sub(_ROW, lambda row: above.get(row[1], "") + row[0], stream.getvalue(), flags=re.MULTILINE)
    text += above.get("", "")
    if lost := set(_COMMENT.findall(before)) - set(_COMMENT.findall(text)):
        raise MatrixError(f"a comment in a list of expectations would be lost: write it above the row: {min(lost)}")
    return text


def nodes(row: CommentedMap) -> Sequence[CommentedMap]:
    """The row's expectations."""
    found: Sequence[CommentedMap] = row.get("expect", ())
    return found


def anchor(node: CommentedMap) -> str | None:
    """The name by which other rows take this expectation over."""
    name: str | None = node.anchor.value
    return name


def put(row: CommentedMap, index: int, those: Sequence[CommentedMap]) -> None:
    """Put `those` in the place of an expectation."""
    expect = row["expect"]
    if those:
        expect[index] = those[0]
        for more in reversed(those[1:]):
            expect.insert(index + 1, more)
    else:
        del expect[index]
    if not expect:
        del row["expect"]


def unexplained(stage: str, signature: str, part: CellSelector) -> CommentedMap:
    """A new expectation."""
    return _ordered(narrowed(CommentedMap({"stage": stage, "signature": signature, "reason": TODO}), part))


def narrowed(node: CommentedMap, part: CellSelector) -> CommentedMap:
    """`node`, changed to speak of `part`; only what differs is written anew."""
    for key, values in (("clauses", part.clauses), ("backends", part.backends), ("modes", part.modes)):
        if tuple(node.get(key, ())) != values:
            node[key] = CommentedSeq(values)
            node[key].fa.set_flow_style()
    if node.get("subject") != part.subject:
        node["subject"] = part.subject
    return node


def written_out(node: CommentedMap) -> CommentedMap:
    """A copy without anchor and `<<`."""
    return _ordered(CommentedMap({key: deepcopy(value) for key, value in node.items()}))


def _ordered(node: CommentedMap) -> CommentedMap:
    for key in sorted(node, key=_KEYS.index):
        node.move_to_end(key)
    return node


def settle(rows: Mapping[str, CommentedMap], changed: set[str]) -> None:
    """Write out what builds with `<<` on what is gone, stands further down, or says something else now.

    The list of a `changed` row is in brackets where it has aliases only.
    """
    defined: set[str | None] = set()
    for name, row in rows.items():
        first = [node for node in nodes(row) if anchor(node) is None or anchor(node) not in defined]
        for node in first:
            bases = list(node.merge)
            said = {key: value for base in reversed(bases) for key, value in base.items()}
            said.update(node.non_merged_items())
            if said != dict(node) or any(anchor(base) not in defined for base in bases):
                node.update(written_out(node))
                node.merge.value.clear()
                _ordered(node)
            defined.add(anchor(node))
        if first:
            row["expect"].fa.set_block_style()
        elif nodes(row) and name in changed:
            row["expect"].fa.set_flow_style()


def _yaml() -> YAML:
    """What gives a matrix back to the byte: it breaks no line, since a signature may be longer than one."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = sys.maxsize
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
