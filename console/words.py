"""The page's words in zh-CN and English, from the catalogues in ``locale/``."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import get_args

import yaml

from console.settings import Language

__all__ = ["LANGUAGES", "catalogue", "negotiate", "say"]

LANGUAGES: tuple[Language, ...] = get_args(Language)


@cache
def catalogue(language: Language) -> dict[str, str]:
    """All words of a language by key.

    Raises:
        ValueError: if two files define the same key.
    """
    words: dict[str, str] = {}
    folder = resources.files("console") / "locale" / language
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml"):
            part = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            if twice := words.keys() & part.keys():
                raise ValueError(f"{file.name}: {sorted(twice)} are defined elsewhere too")
            words |= {key: str(value) for key, value in part.items()}
    return words


def say(language: Language, key: str, /, **values: object) -> str:
    """The word or sentence of that key with its placeholders filled; the key itself where there is none."""
    text = catalogue(language).get(key, key)
    return text.format(**values) if values else text


def negotiate(header: str, default: Language) -> Language:
    """The language that an ``Accept-Language`` header prefers (RFC 9110 12.5.4); `default` if neither is named."""
    best: tuple[float, Language] = (0.0, default)
    for part in header.split(","):
        tag, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        for language in LANGUAGES:
            if tag.lower().split("-")[0] == language and quality > best[0]:
                best = quality, language
    return best[1]
