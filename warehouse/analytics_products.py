"""Next best product: what people who bought or looked at the same things went on to buy; popularity as fallback."""

from __future__ import annotations

import duckdb

from cdp.metrics.config import NextBestConfig
from warehouse.analytics_common import MARTS, Table, quoted


def product_tables(con: duckdb.DuckDBPyConnection, settings: NextBestConfig) -> list[Table]:
    """Recommendations as of `cut_at`, and the hit rates of the same method on a time split, beside popularity's."""
    quality = _quality_sql(con, settings)
    _recommend(con, settings, until="getvariable('cut_at')", name="next_best")
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


def _recommend(con: duckdb.DuckDBPyConnection, settings: NextBestConfig, *, until: str, name: str) -> None:
    """Temp table *name*: up to `per_person` products per person, from what happened before *until* (SQL instant).

    Two products are similar by the cosine of the baskets and sessions they share.
    """
    since = f"{until} - to_days({settings.window_days})"
    con.execute(
        f"""
        create or replace temp table next_best_seen as
        select one_id, product_id, paid_at as seen_at, 'o' || order_key as basket, true as is_bought
        from {MARTS}.fct_order_lines
        where product_id is not null and one_id is not null and paid_at < {until} and paid_at >= {since}
        union all
        select one_id, product_id, event_at, 's' || coalesce(session_id, one_id || event_date), false
        from {MARTS}.fct_events
        where product_id is not null and one_id is not null and event_at < {until} and event_at >= {since}
        """
    )
    con.execute(
        f"""
        create or replace temp table next_best_similar as
        with baskets as (
            select basket, product_id from (
                select basket, product_id, row_number() over (partition by basket order by min(seen_at), product_id)
                    as n
                from temp.next_best_seen group by basket, product_id
            ) where n <= {settings.basket_limit}
        ),
        sizes as (
            select product_id, count(*) as baskets from baskets group by product_id
        ),
        pairs as (
            select a.product_id, b.product_id as other_id, count(*) as shared
            from baskets as a inner join baskets as b on b.basket = a.basket and b.product_id <> a.product_id
            group by a.product_id, b.product_id
            having count(*) >= {settings.min_support}
        ),
        scored as (
            select pairs.product_id, pairs.other_id, pairs.shared / sqrt(mine.baskets * theirs.baskets) as similarity
            from pairs
            inner join sizes as mine on mine.product_id = pairs.product_id
            inner join sizes as theirs on theirs.product_id = pairs.other_id
        )
        select * from scored
        qualify row_number() over (partition by product_id order by similarity desc, other_id) <= {settings.neighbours}
        """
    )
    bought = "anti join bought on bought.one_id = {0}.one_id and bought.product_id = {0}.product_id"
    con.execute(
        f"""
        create or replace temp table {name} as
        with bought as (
            select distinct one_id, product_id from {MARTS}.fct_order_lines
            where {str(settings.exclude_bought).lower()} and product_id is not null and paid_at < {until}
        ),
        recent as (
            select one_id, product_id, max(seen_at) as seen_at from temp.next_best_seen group by one_id, product_id
            qualify row_number() over (partition by one_id order by max(seen_at) desc, product_id) <=
                {settings.recent_items}
        ),
        similar_picks as (
            select recent.one_id, similar_items.other_id as product_id, sum(similar_items.similarity) as score
            from recent inner join temp.next_best_similar as similar_items
                on similar_items.product_id = recent.product_id
            group by recent.one_id, similar_items.other_id
        ),
        popular as (
            select product_id, count(distinct one_id) as buyers,
                row_number() over (order by count(distinct one_id) desc, product_id) as place
            from temp.next_best_seen where is_bought group by product_id
        ),
        popular_picks as (
            select recent.one_id, popular.product_id, -cast(popular.place as double) as score
            from (select distinct one_id from recent) as recent
            cross join (select * from popular where place <= {settings.per_person} * 4) as popular
        ),
        united as (
            select *, 'similar' as method, 0 as tier from similar_picks {bought.format("similar_picks")}
            union all
            select *, 'popular', 1 from popular_picks {bought.format("popular_picks")}
        ),
        once as (
            select * from united qualify row_number() over (partition by one_id, product_id order by tier) = 1
        )
        select one_id, product_id, score, method,
            cast(row_number() over (partition by one_id order by tier, score desc, product_id) as int) as rank
        from once
        qualify rank <= {settings.per_person}
        """
    )


def _quality_sql(con: duckdb.DuckDBPyConnection, settings: NextBestConfig) -> str:
    """Recommend as of `hold_out_days` before the cut, and see what people then bought. Returns the result as SQL."""
    split = f"(getvariable('cut_at') - to_days({settings.hold_out_days}))"
    _recommend(con, settings, until=split, name="next_best_before")
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
            select product_id, row_number() over (order by count(distinct one_id) desc, product_id) as place
            from temp.next_best_seen where is_bought group by product_id
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
    method = quoted("item to item on baskets and sessions, then popularity")
    return (
        f"select {method} as method, {settings.per_person} as picks, {settings.hold_out_days} as hold_out_days,"
        f" {people}::bigint as people, {hits}::bigint as hits, {popular_hits}::bigint as popular_hits,"
        f" {hits} / nullif({people}, 0) as hit_rate, {popular_hits} / nullif({people}, 0) as popular_hit_rate"
    )


_PICK_TEXT = (
    "One row per person and rank: products the person has not bought and is likely to.",
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
    "One row: hit rate of the recommendations on the days before the cut, beside popularity's.",
    {
        "method": "how products are picked",
        "picks": "recommendations per person",
        "hold_out_days": "days predicted",
        "people": "people with history who bought something new in those days",
        "hits": "of these, bought a recommended product",
        "popular_hits": "of these, bought one of the most popular products",
        "hit_rate": "hits ÷ people",
        "popular_hit_rate": "popular_hits ÷ people",
    },
)
