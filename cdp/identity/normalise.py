"""Raw identifier values to their one normal form, whole columns at a time.

Regular expressions in Polars handle nearly all values; only phone texts of unusual shape go one by one through the
`phonenumbers` library, once per distinct text.
"""

from __future__ import annotations

from datetime import date

import phonenumbers
import polars as pl
from cryptography.hazmat.primitives import hashes

from cdp.identity.rules import Block, IdentityRules, TypeRules

# Zero-width characters and the byte order mark: copied along from web pages, never meant.
_INVISIBLE = "[\u200b\u200c\u200d\u2060\ufeff]"
# Controls, unassigned and private code points, symbols such as emoji: no id is made of them.
_FOREIGN = r"[\p{C}\p{So}\p{Sk}\u{FFFD}]"
_MOBILE = r"^1[3-9][0-9]{9}$"
_PREFIX = r"^(?:\+|00)?86(1[3-9])"
_EXTENSION = (
    r"^((?:\+|00)?(?:86)?-?1[3-9](?:-?[0-9]){9}|(?:0[0-9]{2,3}-?)?[0-9]{7,8})(?:转|分机|ext\.?|[-,#_x])([0-9]{1,6})$"
)

SCHEMA = {
    "type": pl.String, "scope": pl.String, "value": pl.String, "out_type": pl.String, "out_scope": pl.String,
    "value_norm": pl.String, "reason": pl.String, "barred": pl.String,
}  # fmt: skip


def normalise(frame: pl.DataFrame, rules: IdentityRules, *, today: date) -> pl.DataFrame:
    """Read raw values. *frame*: `type`, `scope`, `value` (text, nulls allowed), any order.

    Returns the same rows, in any order, with `out_type`, `out_scope`, `value_norm`; *reason* says why a value is no
    identifier at all (then `value_norm` is null), *barred* why it is one that may link nobody (block list on day
    *today*).
    """
    parts = [
        _one_type(part, str(key[0]), rules, today) for key, part in frame.partition_by("type", as_dict=True).items()
    ]
    extra = [name for name in frame.columns if name not in SCHEMA]
    if not parts:
        return pl.DataFrame(schema={**{name: frame.schema[name] for name in extra}, **SCHEMA})
    return pl.concat([part.select([*extra, *SCHEMA]) for part in parts])


def _one_type(part: pl.DataFrame, name: str, rules: IdentityRules, today: date) -> pl.DataFrame:
    item = rules.types.get(name)
    if item is None:
        return part.with_columns(
            pl.lit(name).alias("out_type"), pl.col("scope").fill_null("").alias("out_scope"),
            *(_null(column) for column in ("value_norm", "barred")), pl.lit("unknown_type").alias("reason"),
        )  # fmt: skip
    clean = pl.col("value").str.replace_all(_INVISIBLE, "").str.strip_chars()
    scope = pl.lit("") if item.scope == "none" else pl.col("scope").fill_null("").str.strip_chars()
    part = part.with_columns(
        clean.alias("value_norm"), pl.lit(name).alias("out_type"), scope.alias("out_scope"), _null("barred")
    )
    part = part.with_columns(_unusable(item, rules).alias("reason"))
    for step in item.normalise:
        part = _phones(part, rules) if step == "phone" else part.with_columns(_step(step).alias("value_norm"))
    if item.pattern:
        part = _reject(part, ~pl.col("value_norm").str.contains(item.pattern), "pattern")
    part = part.with_columns(pl.when(pl.col("reason").is_null()).then("value_norm").alias("value_norm"))
    return part.with_columns(_barred(item, today).alias("barred"))


def _null(name: str) -> pl.Expr:
    return pl.lit(None, dtype=pl.String).alias(name)


def _unusable(item: TypeRules, rules: IdentityRules) -> pl.Expr:
    """Why the cleaned text cannot be an identifier of any kind, else null."""
    lowered = pl.col("value_norm").str.to_lowercase()
    nothing = lowered.is_in([word.lower() for word in rules.placeholders.values]) | lowered.str.contains(r"^[0０]+$")
    return (
        pl.when(pl.col("value_norm").is_null() | nothing).then(pl.lit("placeholder"))
        .when(pl.col("value_norm").str.len_bytes() > item.max_length).then(pl.lit("too_long"))
        .when(pl.col("value_norm").str.contains(_FOREIGN)).then(pl.lit("characters"))
    )  # fmt: skip


def _step(step: str) -> pl.Expr:
    value = pl.col("value_norm")
    if step == "nfkc":
        return value.str.normalize("NFKC")
    if step == "upper":
        return value.str.to_uppercase()
    return (value.str.normalize("NFKC") if step == "email" else value).str.to_lowercase()


def _reject(part: pl.DataFrame, wrong: pl.Expr, reason: str) -> pl.DataFrame:
    return part.with_columns(
        pl.when(pl.col("reason").is_null() & wrong.fill_null(False))
        .then(pl.lit(reason))
        .otherwise("reason")
        .alias("reason")
    )


def _phones(part: pl.DataFrame, rules: IdentityRules) -> pl.DataFrame:
    """Phone texts to 11 digits (mainland mobiles) or `+` and digits (all others); relay numbers change their type."""
    text = pl.col("value_norm").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"[\s().·]", "")
    text = text.str.replace_all("[‐‑‒–—―−]", "-")
    digits = pl.col("_text").str.replace_all("-", "").str.replace(_PREFIX, "$1")
    part = part.with_columns(text.alias("_text")).with_columns(digits.alias("_digits"))
    part = _reject(part, pl.col("_text").str.contains(r"[*]|[0-9]x{2,}[0-9]*|^x{2,}"), "masked")
    part = _reject(part, pl.col("_digits").str.contains(r"^[+]?0*$|^[+]?1+$"), "placeholder")
    relay = pl.col("_text").str.contains(_EXTENSION)
    for prefix in rules.phones.relay_prefixes:
        relay = relay | pl.col("_digits").str.starts_with(prefix)
    part = part.with_columns(
        pl.when(pl.col("_digits").str.contains(_MOBILE)).then("_digits").alias("value_norm"),
        (pl.col("reason").is_null() & relay).fill_null(False).alias("_relay"),
    )
    part = _unusual_phones(part, rules.phones.region)
    part = part.with_columns(
        pl.when("_relay").then("_text").otherwise("value_norm").alias("value_norm"),
        pl.when("_relay").then(pl.lit("phone_relay")).otherwise("out_type").alias("out_type"),
    )
    return _reject(part, pl.col("value_norm").is_null(), "pattern").drop("_text", "_digits", "_relay")


def _unusual_phones(part: pl.DataFrame, region: str) -> pl.DataFrame:
    left = pl.col("value_norm").is_null() & pl.col("reason").is_null() & ~pl.col("_relay")
    texts = part.filter(left).get_column("_text").unique().to_list()
    if not texts:
        return part
    read = pl.DataFrame(
        {"_text": texts, "_read": [read_phone(text, region) for text in texts]},
        schema={"_text": pl.String, "_read": pl.String},
    )
    part = part.join(read, on="_text", how="left")
    return part.with_columns(pl.when(left).then("_read").otherwise("value_norm").alias("value_norm")).drop("_read")


def read_phone(text: str, region: str = "CN") -> str | None:
    """One phone text by the phonenumbers library: national digits for a mainland mobile, else E.164; None if no
    number."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    national = str(number.national_number)
    if number.country_code == 86 and len(national) == 11 and national[0] == "1":
        return national
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _barred(item: TypeRules, today: date) -> pl.Expr:
    reasons = pl.lit(None, dtype=pl.String)
    for block in reversed(item.block):
        if block.active(today):
            reasons = pl.when(_matches(block)).then(pl.lit(f"blocked: {block.reason}")).otherwise(reasons)
    return pl.when(pl.col("reason").is_null()).then(reasons)


def _matches(block: Block) -> pl.Expr:
    value = pl.col("value_norm")
    if block.value is not None:
        return value == block.value
    return value.str.starts_with(block.prefix) if block.prefix is not None else value.str.contains(block.pattern or "")


def sm3(text: str) -> str:
    """SM3 (GB/T 32905-2016) of UTF-8 text, lower-case hex."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(text.encode())
    return digest.finalize().hex()
