"""How `clean` judges documents, and what counts as a copy."""

from typing import Literal

from pydantic import Field, model_validator

from athanor.base.settings import Settings
from athanor.data.cleaning.filters import Thresholds
from athanor.data.rules.chinese import ChineseLimits
from athanor.data.rules.published import PublishedLimits

FEW = ("zh", "en", "ja", "ko", "und")


class CleanSettings(Settings):
    """How documents are judged and what counts as a copy."""

    tell: Literal["few", "many"] = "few"
    """Which languages are told apart: few (zh, ja, ko by their script, en by its words, und), or the 184 of the shipped
    model."""
    languages: tuple[str, ...] = ()
    """Keep only these codes, such as en, zh or de, and und for what cannot be told; empty: keep all."""
    rules: Literal["own", "published"] = "own"
    """Which rules judge: ours, patient with files that a person chose; or those published for the open web (Gopher, C4,
    FineWeb), with their own for Chinese. Code has the same rules either way."""
    filters: Thresholds = Thresholds()
    """Limits of our rules."""
    published: PublishedLimits | None = None
    """Limits of the published rules; unset: the published ones."""
    chinese: ChineseLimits | None = None
    """Limits for Chinese beside the published rules."""
    drop_boilerplate: bool = False
    """Leave out short lines that belong to a web site (menus, cookie notices, editors' signatures): for text of the
    web without markup; pages read from HTML have lost theirs."""
    mask_personal_data: bool = True
    """Replace mail addresses, phone numbers, identity and bank cards and internet addresses by [mail], [phone],
    [identity card], [bank card], [ip]."""
    copy_threshold: float = Field(default=0.7, gt=0, le=1)
    """Documents whose word runs are at least this similar (Jaccard) are copies; the longest stays."""
    copy_run: int = Field(default=5, ge=1)
    """Words (Chinese: characters) in a run."""
    heldout_share: float = Field(default=0.02, gt=0, lt=1)
    """Share of documents kept apart for evaluation, chosen by the hash of their text; at least one."""
    heldout_most_bytes: int = Field(default=4_000_000, ge=1)
    """Evaluation needs no more text than this."""

    @model_validator(mode="after")
    def _no_limits_for_nothing(self) -> "CleanSettings":
        if self.rules == "own" and (self.published is not None or self.chinese is not None):
            raise ValueError("published and chinese are limits of rules: published; here rules is own")
        unknown = sorted(set(self.languages) - set(FEW))
        if self.tell == "few" and unknown:
            raise ValueError(f"languages {', '.join(unknown)} are told apart with tell: many only, not with few")
        return self
