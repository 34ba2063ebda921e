"""Next best product: what people who bought or looked at the same things went on to buy; popularity as fallback."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb

from cdp.metrics.config import MetricsConfig, NextBestConfig
from warehouse.analytics_common import MARTS, Table, quoted, set_cut, write_marts


@dataclass(frozen=True)
class NextBestReport:
    """Rows per table written."""

    tables: dict[str, int]


def build_next_best(
    con: duckdb.DuckDBPyConnection, metrics: MetricsConfig, *, as_of: datetime, timezone: str
) -> NextBestReport:
    """Write `fct_next_best_product` and `fct_next_best_quality`, as of the last closed business day. Tags may import
    the first, so it runs before them."""
    set_cut(con, as_of, timezone)
    return NextBestReport(write_marts(con, product_tables(con, metrics.next_best)))


def product_tables(con: duckdb.DuckDBPyConnection, settings: NextBestConfig) -> list[Table]:
    """Recommendations as of the variable `cut_at`, and hit rates of the same method on a time split, beside
    popularity's."""
    quality, similar = _quality_sql(con, settings)
    _recommend(con, settings, until="getvariable('cut_at')", name="next_best", similar=similar)
    return [
        Table(
            "fct_next_best_product",
            f"""
            select picks.one_id, picks.rank, picks.product_id, coalesce(products.product_name, picks.product_id) as
                value,
                products.category, picks.score, picks.method
            from temp.next_best as picks
            left join (
                select product_id, min(product_name) as product_name, min(category) as category
                from {MARTS}.dim_products group by product_id
            ) as products on products.product_id = picks.product_id
            order by picks.one_id, picks.rank
            """,
            *_PICK_TEXT,
        ),
        Table("fct_next_best_quality", quality, *_QUALITY_TEXT),
    ]


def _recommend(
    con: duckdb.DuckDBPyConnection, settings: NextBestConfig, *, until: str, name: str, similar: bool
) -> None:
    """Temp table *name*: up to `per_person` products per person, from what happened before *until* (SQL instant); of
    the popular ones only, unless *similar*.

    Two products are similar by the cosine of the baskets and sessions they share. People and products are numbered
    first: the wide middle steps then sort and hash small numbers instead of text.
    """
    _seen(con, settings, until)
    _similar(con, settings)
    con.execute(
        f"""
        create or replace temp table {name} as
        with bought as (
            select distinct person, item from temp.next_best_bought
        ),
        recent as (
            select person, item from temp.next_best_seen group by person, item
            qualify row_number() over (partition by person order by max(seen_at) desc, item) <= {settings.recent_items}
        ),
        scored as (
            select recent.person, similar_items.other as item,
                cast(sum(similar_items.similarity) as bigint) / 1e9 as score
            from recent
            inner join temp.next_best_similar as similar_items on similar_items.item = recent.item and {similar}
            group by recent.person, similar_items.other
        ),
        similar_picks as (
            select scored.person, scored.item, scored.score,
                row_number() over (partition by scored.person order by scored.score desc, scored.item) as place
            from scored anti join bought on bought.person = scored.person and bought.item = scored.item
            qualify place <= {settings.per_person}
        ),
        lacking as (
            select recent.person, max(coalesce(similar_picks.place, 0)) as found
            from recent left join similar_picks on similar_picks.person = recent.person
            group by recent.person having found < {settings.per_person}
        ),
        popular as (
            select item, row_number() over (order by count(distinct person) desc, item) as place
            from temp.next_best_seen where is_bought group by item
            qualify place <= {settings.per_person} * 4
        ),
        popular_picks as (
            select lacking.person, popular.item, -cast(popular.place as double) as score,
                lacking.found + row_number() over (partition by lacking.person order by popular.place) as place
            from lacking cross join popular
            anti join bought on bought.person = lacking.person and bought.item = popular.item
            anti join similar_picks on similar_picks.person = lacking.person and similar_picks.item = popular.item
        ),
        united as (
            select person, item, score, place, 'similar' as method from similar_picks
            union all
            select person, item, score, place, 'popular' from popular_picks where place <= {settings.per_person}
        )
        select people.one_id, items.product_id, united.score, united.method, cast(united.place as int) as rank
        from united
        inner join temp.next_best_people as people on people.person = united.person
        inner join temp.next_best_items as items on items.item = united.item
        """
    )


def _seen(con: duckdb.DuckDBPyConnection, settings: NextBestConfig, until: str) -> None:
    """Temp tables: numbered people and products, what each saw in the window, and all that was ever bought."""
    since = f"{until} - to_days({settings.window_days})"
    con.execute(
        f"""
        create or replace temp table next_best_raw as
        select one_id, product_id, paid_at as seen_at, md5_number_lower('o|' || order_key) as basket, true as is_bought
        from {MARTS}.fct_order_lines
        where product_id is not null and one_id is not null and paid_at < {until} and paid_at >= {since}
        union all
        select one_id, product_id, event_at, md5_number_lower('s|' || coalesce(session_id, one_id || event_date)), false
        from {MARTS}.fct_events
        where product_id is not null and one_id is not null and event_at < {until} and event_at >= {since};
        create or replace temp table next_best_people as
            select one_id, cast(row_number() over (order by one_id) as int) as person
            from (select distinct one_id from temp.next_best_raw);
        create or replace temp table next_best_items as
            select product_id, cast(row_number() over (order by product_id) as int) as item
            from (select distinct product_id from temp.next_best_raw);
        create or replace temp table next_best_seen as
            select people.person, items.item, raw.seen_at, raw.basket, raw.is_bought
            from temp.next_best_raw as raw
            inner join temp.next_best_people as people on people.one_id = raw.one_id
            inner join temp.next_best_items as items on items.product_id = raw.product_id;
        drop table temp.next_best_raw;
        create or replace temp table next_best_bought as
            select distinct people.person, items.item
            from {MARTS}.fct_order_lines as lines
            inner join temp.next_best_people as people on people.one_id = lines.one_id
            inner join temp.next_best_items as items on items.product_id = lines.product_id
            where lines.paid_at < {until} and {str(settings.exclude_bought).lower()}
        """
    )


def _similar(con: duckdb.DuckDBPyConnection, settings: NextBestConfig) -> None:
    """Temp table `next_best_similar`: the nearest products of each product."""
    con.execute(
        f"""
        create or replace temp table next_best_similar as
        with baskets as (
            select basket, item from temp.next_best_seen group by basket, item
            qualify row_number() over (partition by basket order by min(seen_at), item) <= {settings.basket_limit}
        ),
        sizes as (
            select item, count(*) as baskets from baskets group by item
        ),
        pairs as (
            select a.item, b.item as other, count(*) as shared
            from baskets as a inner join baskets as b on b.basket = a.basket and b.item <> a.item
            group by a.item, b.item
            having count(*) >= {settings.min_support}
        ),
        scored as (
            -- In whole billionths: sums of floats would depend on the order in which threads add them.
            select pairs.item, pairs.other,
                cast(round(1e9 * pairs.shared / sqrt(mine.baskets * theirs.baskets)) as bigint) as similarity
            from pairs
            inner join sizes as mine on mine.item = pairs.item
            inner join sizes as theirs on theirs.item = pairs.other
        )
        select * from scored
        qualify row_number() over (partition by item order by similarity desc, other) <= {settings.neighbours}
        """
    )


def _quality_sql(con: duckdb.DuckDBPyConnection, settings: NextBestConfig) -> tuple[str, bool]:
    """Recommend as of `hold_out_days` before the cut, and see what people then bought. Returns the result as SQL, and
    whether neighbours are to be used: not where the best sellers alone would have hit more often."""
    split = f"(getvariable('cut_at') - to_days({settings.hold_out_days}))"
    _recommend(con, settings, until=split, name="next_best_before", similar=True)
    row = con.execute(
        f"""
        with bought_before as (
            select distinct one_id, product_id from {MARTS}.fct_order_lines where paid_at < {split}
        ),
        truth as (
            select distinct lines.one_id, lines.product_id from {MARTS}.fct_order_lines as lines
            anti join bought_before on bought_before.one_id = lines.one_id and bought_before.product_id =
                lines.product_id
            where lines.paid_at >= {split} and lines.paid_at < getvariable('cut_at')
                and lines.product_id is not null and lines.one_id is not null
        ),
        judged as (
            select distinct truth.one_id from truth
            inner join (select distinct one_id from temp.next_best_before) as known on known.one_id = truth.one_id
        ),
        popular as (
            select items.product_id, row_number() over (order by count(distinct seen.person) desc, items.item) as place
            from temp.next_best_seen as seen inner join temp.next_best_items as items on items.item = seen.item
            where seen.is_bought group by items.product_id, items.item
        ),
        popular_picks as (
            select judged.one_id, popular.product_id,
                row_number() over (partition by judged.one_id order by popular.place) as rank
            from judged
            cross join (select * from popular where place <= {settings.per_person} * 4) as popular
            anti join bought_before on bought_before.one_id = judged.one_id
                and bought_before.product_id = popular.product_id
        )
        select (select count(*) from judged),
            (select count(distinct truth.one_id) from truth inner join temp.next_best_before as picks
                on picks.one_id = truth.one_id and picks.product_id = truth.product_id),
            (select count(distinct truth.one_id) from truth inner join popular_picks as picks
                on picks.one_id = truth.one_id and picks.product_id = truth.product_id
                and picks.rank <= {settings.per_person})
        """
    ).fetchall()[0]
    people, hits, popular_hits = row
    similar = popular_hits <= hits
    method = quoted("item to item on baskets and sessions, then popularity" if similar else "popularity")
    query = (
        f"select {method} as method, {settings.per_person} as picks, {settings.hold_out_days} as hold_out_days,"
        f" {people}::bigint as people, {hits}::bigint as hits, {popular_hits}::bigint as popular_hits,"
        f" {hits} / nullif({people}, 0) as hit_rate, {popular_hits} / nullif({people}, 0) as popular_hit_rate"
    )
    return query, similar


_PICK_TEXT = (
    "下一件商品：每人每个名次一行 | One row per person and rank: products the person has not bought and is likely to.",
    {
        "one_id": "the person",
        "rank": "1 = best",
        "product_id": "the product",
        "value": "its name",
        "category": "its category",
        "score": "sum of similarities to what the person last saw or bought; minus the place for popular ones",
        "method": "similar | popular",
    },
)
_QUALITY_TEXT = (
    "推荐质量：一行，命中率与热销榜相比 | "
    "One row: hit rate of the recommendations on the days before the cut, beside popularity's.",
    {
        "method": "how products are picked: popularity alone where it hit more often",
        "picks": "recommendations per person",
        "hold_out_days": "days predicted",
        "people": "people with history who bought something new in those days",
        "hits": "of these, bought a product recommended by neighbours, then popularity",
        "popular_hits": "of these, bought one of the most popular products",
        "hit_rate": "hits ÷ people",
        "popular_hit_rate": "popular_hits ÷ people",
    },
)
