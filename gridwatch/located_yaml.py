"""YAML that remembers where each value stands, so that an error can name its line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.exceptions import ConfigError

__all__ = ["LocatedYaml", "YamlPath", "load_located"]

YamlPath = tuple[str | int, ...]
"""Keys and indices from the document's root."""

# Only these may be read from a file of their own: a general rule would swallow keys that are paths.
SECRET_KEYS = frozenset(
    {"database", "detect", "password", "record", "signing_key", "url", "username"}
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class LocatedYaml:
    """A YAML document and the line of every value in it.

    Attributes:
        file: Where it was read.
        data: Plain dicts, lists and scalars with ``${VAR}`` and ``*_file`` resolved.
        lines: 1-based line by path.
    """

    file: Path
    data: dict[str, Any]
    lines: Mapping[YamlPath, int]

    def place(self, path: YamlPath) -> str:
        """``file:line: a.b[0]`` of a path, or of its nearest ancestor that stands in the file."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known, 1)
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        return f"{self.file}:{line}: {dotted.lstrip('.') or 'document'}"


def load_located(
    file: Path, environ: Mapping[str, str] | None = None, *, text: bytes | None = None
) -> LocatedYaml:
    """Read a YAML mapping and resolve ``${VAR}``, ``${VAR:-default}`` and secrets in ``*_file``.

    Args:
        file: The YAML file.
        environ: Where variables come from; the process environment by default.
        text: What is to be taken for its content, if not what stands in it now.

    Raises:
        ConfigError: if it cannot be read, is no YAML mapping, repeats a key, names an unset variable
            or a secret file that cannot be read.
    """
    try:
        content = (file.read_bytes() if text is None else text).decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}; expected a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from error
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"{file}:{line}: is not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}:1: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}:1: document: expected a mapping with 'site' and 'cameras'")
    builder = _Builder(file, os.environ if environ is None else environ)
    data = builder.build(node, ())
    if builder.problems:
        raise ConfigError(*builder.problems)
    return LocatedYaml(file, data, builder.lines)


class _Builder:
    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.environ = environ
        self.lines: dict[YamlPath, int] = {}
        self.problems: list[str] = []
        self._constructor = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: YamlPath) -> Any:  # noqa: ANN401 - YAML is untyped
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and _VARIABLE.search(node.value):
            return self._expand(node, path)
        return self._constructor.construct_object(node, deep=True)

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, Any]:
        self._constructor.flatten_mapping(node)  # merge keys: `<<: *defaults`
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            here = (*path, key)
            if key in result and here in self.lines and self.lines[here] != line:
                self._problem(line, here, f"stands twice; the first is in line {self.lines[here]}")
            self.lines[here] = line
            result[key] = self.build(value_node, here)
        for key in [k for k in result if k.endswith("_file") and k[:-5] in SECRET_KEYS]:
            if key[:-5] in result:
                self._problem(
                    self.lines[(*path, key)], (*path, key), f"and {key[:-5]} are both given"
                )
                continue
            result[key[:-5]] = self._secret(str(result.pop(key)), (*path, key))
            self.lines[(*path, key[:-5])] = self.lines[(*path, key)]
        return result

    def _expand(self, node: yaml.ScalarNode, path: YamlPath) -> Any:  # noqa: ANN401
        def replace(match: re.Match[str]) -> str:
            value = self.environ.get(match[1], match[2])
            if value is None:
                self._problem(
                    node.start_mark.line + 1, path, f"environment variable {match[1]} is not set"
                )
                return ""
            return value

        expanded = _VARIABLE.sub(replace, node.value)
        quoted = node.style in ("'", '"')
        if quoted or (path and path[-1] in SECRET_KEYS):  # a password of digits stays text
            return expanded
        try:
            return yaml.safe_load(expanded) if expanded else ""  # ${PORT} is a number
        except yaml.YAMLError:
            return expanded

    def _secret(self, name: str, path: YamlPath) -> str:
        secret = (self.file.parent / Path(name).expanduser()).resolve()
        try:
            return secret.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            self._problem(self.lines[path], path, f"secret file {secret} cannot be read: {reason}")
            return ""

    def _problem(self, line: int, path: YamlPath, text: str) -> None:
        place = LocatedYaml(self.file, {}, {path: line}).place(path)
        self.problems.append(f"{place}: {text}")
