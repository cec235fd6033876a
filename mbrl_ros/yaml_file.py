# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""YAML files that people write: read strictly, and refused in words that say what to do."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mbrl_ros.errors import reason

_KINDS = {"NoneType": "nothing: the file is empty", "list": "a list", "str": "a text"}


class YamlFileError(ValueError):
    """A file that holds no mapping; the message says why, without the path."""


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets the last one win of, and takes only true and false for truth.

    `safe: no` would be 0 otherwise.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, yaml.Mark] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                continue  # refused below
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"'{name}' is said twice, first in line {seen[name].line + 1}; "
                    "expected it once",
                    key.start_mark,
                )
            seen[name] = key.start_mark
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what the file says; raises YamlFileError if it cannot be read, or is no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise YamlFileError(f"cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise YamlFileError(
            f"line {line} is no UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: as of 2020-99-99
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise YamlFileError(f"not valid YAML: {why}") from None
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise YamlFileError(f"expected a mapping, found {_KINDS.get(kind, kind)}")
    return data
