"""Every text of the reports in zh-CN and English."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import yaml
from markupsafe import Markup

from pipeline.analyse.scenario import load_scenario
from pipeline.exceptions import ScenarioError

__all__ = ["LANGUAGES", "TEMPLATES", "TEXTS", "Language", "Phrase", "say", "scenario_title"]

Language: TypeAlias = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
TEMPLATES = Path(__file__).parent / "templates"


def _load() -> dict[str, tuple[str, str]]:
    texts = yaml.safe_load((TEMPLATES / "texts.yaml").read_text(encoding="utf-8"))
    return {key: (text["zh"], text["en"]) for key, text in texts.items()}


TEXTS = _load()
"""By key: zh-CN and English."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text in both languages, safe to put into a page; `<b>` is the only markup in it."""

    zh: Markup
    en: Markup

    def __html__(self) -> str:
        """Both, of which the page shows one."""
        return f'<span lang="zh-CN">{self.zh}</span><span lang="en">{self.en}</span>'

    def html_in(self, language: Language) -> Markup:
        """In one language, with its markup."""
        return self.zh if language == "zh" else self.en

    def plain(self, language: Language) -> str:
        """In one language, without markup."""
        return self.html_in(language).striptags()

    def unescaped(self, language: Language) -> str:
        """In one language as it stands, blanks and signs too: for texts without markup."""
        return self.html_in(language).unescape()

    @property
    def both(self) -> str:
        """In both, without markup: for tool tips, of which a page cannot show one."""
        zh, en = self.plain("zh"), self.plain("en")
        return zh if zh == en else f"{zh} · {en}"


def say(key: str, /, **values: object) -> Phrase:
    """A text with its values filled in; a value that is a phrase is taken in the same language.

    Raises:
        KeyError: if there is no such text, or a value is missing.
    """

    def fill(template: str, language: Language) -> Markup:
        filled = {
            name: value.html_in(language) if isinstance(value, Phrase) else value
            for name, value in values.items()
        }
        return Markup(template).format(**filled)  # noqa: S704 - templates are ours, values are escaped

    zh, en = TEXTS[key]
    return Phrase(fill(zh, "zh"), fill(en, "en"))


def scenario_title(name: str) -> Phrase:
    """How a scenario is called; its identifier where it is not installed."""
    try:
        title = load_scenario(name).title
    except ScenarioError:
        title = {"zh": name, "en": name}
    return Phrase(Markup.escape(title["zh"]), Markup.escape(title["en"]))
