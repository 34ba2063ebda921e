"""Credit of orders to the touches before them: whole numbers throughout, so that every sum is exact."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import polars as pl

from cdp.attribution.markov import MarkovModel, Paths, credits, fit_markov
from cdp.metrics.config import AttributionConfig
from cdp.metrics.durations import microseconds
from warehouse.analytics_common import MARTS, Table, frame, paid_orders_sql, quoted, view_of

NONE = "__none__"  # the touch of an order that nothing preceded


def attribution_tables(con: duckdb.DuckDBPyConnection, settings: AttributionConfig) -> list[Table]:
    """Make the temp tables and return what to publish. Reads orders, refunds and touches before `cut_at`."""
    _paths(con, settings)
    model, channels = _markov(con, settings)
    _weights(con, settings, channels, model)
    _credit(con, settings)
    return [
        Table("fct_attribution_credit", "select * from temp.attribution_credit order by all", *_CREDIT_TEXT),
        Table("fct_attribution_channels", _channels_sql(con, settings, channels, model), *_CHANNEL_TEXT),
        Table("dim_attribution_models", _models_sql(settings, model), *_MODEL_TEXT),
    ]


def _paths(con: duckdb.DuckDBPyConnection, settings: AttributionConfig) -> None:
    """Temp tables `attribution_orders` (paid orders before the cut) and `attribution_path` (their touches,
    numbered)."""
    con.execute(
        f"""
        create or replace temp table attribution_orders as
        select order_key, one_id, paid_at, cast(amount * 100 as bigint) as sale_cents,
            cast(refunded * 100 as bigint) as refund_cents
        from ({paid_orders_sql()})
        """
    )
    look_back = microseconds(settings.look_back)
    con.execute(
        f"""
        create or replace temp table attribution_path as
        with touched as (
            select orders.order_key, touches.touch_key, coalesce(touches.channel, touches.medium, 'unknown') as channel,
                epoch_us(orders.paid_at) - epoch_us(touches.touched_at) as lag_us,
                row_number() over (partition by orders.order_key order by touches.touched_at desc, touches.touch_key
                    desc)
                    as from_end
            from temp.attribution_orders as orders
            inner join {MARTS}.fct_touches as touches on touches.one_id = orders.one_id
                and touches.touched_at <= orders.paid_at
                and touches.touched_at >= orders.paid_at - to_microseconds({look_back})
        ),
        kept as (
            select * from touched where from_end <= {settings.max_touches}
        )
        select order_key, touch_key, channel, lag_us,
            row_number() over (partition by order_key order by from_end desc) as position,
            count(*) over (partition by order_key) as path_length,
            min(lag_us) over (partition by order_key) as newest_lag_us,
            count(*) over (partition by order_key, channel) as channel_touches
        from kept
        """
    )


def _markov(con: duckdb.DuckDBPyConnection, settings: AttributionConfig) -> tuple[MarkovModel | None, list[str]]:
    """The fitted chain and the names of its channels; None when no order has a touch or the model is not asked for."""
    if "markov" not in settings.models:
        return None, []
    look_back = microseconds(settings.look_back)
    data = frame(
        con,
        f"""
        with converted as (
            select list(channel order by position) as path, 1 as conversions, 0 as nulls
            from temp.attribution_path group by order_key
        ),
        last_orders as (
            select one_id, max(paid_at) as paid_at from temp.attribution_orders group by one_id
        ),
        open_touches as (
            select touches.one_id, coalesce(touches.channel, touches.medium, 'unknown') as channel, touches.touched_at,
                touches.touch_key
            from {MARTS}.fct_touches as touches
            left join last_orders on last_orders.one_id = touches.one_id
            where touches.one_id is not null
                and touches.touched_at < getvariable('cut_at') - to_microseconds({look_back})
                and (last_orders.paid_at is null or touches.touched_at > last_orders.paid_at)
        ),
        lost as (
            select list(channel order by touched_at desc, touch_key desc)[1:{settings.max_touches}] as path
            from open_touches group by one_id
        ),
        united as (
            select path, conversions, nulls from converted
            union all
            select list_reverse(path), 0, 1 from lost
        )
        select path, sum(conversions) as conversions, sum(nulls) as nulls from united group by path order by path
        """,
    )
    names = sorted(set(data["path"].explode().drop_nulls().to_list())) if data.height else []
    if not names or not int(data["conversions"].sum()):
        return None, names
    codes = data["path"].explode().replace_strict(names, list(range(len(names))), return_dtype=pl.Int64).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(data["path"].list.len().to_numpy())]).astype(np.int64)
    paths = Paths(
        codes.astype(np.int64),
        offsets,
        data["conversions"].cast(pl.Int64).to_numpy(),
        data["nulls"].cast(pl.Int64).to_numpy(),
    )
    return fit_markov(paths, len(names), order=settings.markov_order, bootstrap=settings.bootstrap, seed=1), names


def _weights(
    con: duckdb.DuckDBPyConnection, settings: AttributionConfig, channels: list[str], model: MarkovModel | None
) -> None:
    """Temp table `attribution_weight`: a whole number per order, model and touch; credit = weight ÷ their sum."""
    removal = pl.DataFrame(
        {
            "channel": pl.Series(channels if model else [], dtype=pl.String),
            "effect": pl.Series([round(v * 10**9) for v in model.removal] if model else [], dtype=pl.Int64),
        }
    )
    first, middle, last = (round(share * 10_000) for share in settings.position)
    half = microseconds(settings.half_life)
    rules = {
        "first": "(position = 1)::hugeint",
        "last": "(position = path_length)::hugeint",
        "linear": "1::hugeint",
        "position": f"""case
            when path_length = 1 then 1
            when path_length = 2 then case position when 1 then {first} else {last} end
            when position = 1 then {first} * (path_length - 2)
            when position = path_length then {last} * (path_length - 2)
            else {middle} end::hugeint""",
        # 2^40 for the newest touch; a touch forty half-lives older counts as one part of that.
        "time_decay": f"greatest(round(power(2, 40 - (lag_us - newest_lag_us) / {half}.0)), 1)::hugeint",
        "markov": "coalesce(removal.effect, 0)::hugeint",
        # Each distinct channel has an equal share, spread evenly over its touches: parts of 1 / (channels x touches).
        "shapley": "(product_of_touches // channel_touches)::hugeint",
    }
    selects = [
        f"select order_key, touch_key, channel, position, path_length, lag_us, {quoted(name)} as model,"
        f" {rules[name]} as weight from paths left join removal using (channel)"
        for name in settings.models
    ]
    with view_of(con, "attribution_removal", removal):
        con.execute(
            f"""
            create or replace temp table attribution_weight as
            with removal as (select * from attribution_removal),
            products as (
                select order_key, cast(product(channel_touches) as hugeint) as product_of_touches
                from (select distinct order_key, channel, channel_touches from temp.attribution_path) group by order_key
            ),
            paths as (
                select path.*, products.product_of_touches
                from temp.attribution_path as path inner join products on products.order_key = path.order_key
            ),
            weighted as ({" union all ".join(selects)}),
            -- A model that gives a path no weight at all (removal effects of zero) shares it equally.
            totals as (
                select *, sum(weight) over (partition by order_key, model) as total from weighted
            )
            select order_key, touch_key, channel, position, path_length, lag_us, model,
                case when total = 0 then 1 else weight end as weight,
                case when total = 0 then path_length else total end as total
            from totals
            """
        )


def _credit(con: duckdb.DuckDBPyConnection, settings: AttributionConfig) -> None:
    """Temp table `attribution_credit`: cents by largest remainder; refunds as negative rows with the same weights. The
    size of an amount is shared out, and its sign put back: an order may be negative (a return at the till)."""
    names = ", ".join(f"({quoted(name)})" for name in settings.models)
    con.execute(
        f"""
        create or replace temp table attribution_credit as
        with flows as (
            select order_key, one_id, 'sale' as kind, 1 as sign, abs(sale_cents) as cents,
                sign(sale_cents) as money_sign from temp.attribution_orders
            union all
            select order_key, one_id, 'refund', -1, abs(refund_cents), -sign(refund_cents)
            from temp.attribution_orders where refund_cents <> 0
        ),
        models (model) as (values {names}),
        bare as (
            select orders.order_key, {quoted(NONE)} as touch_key, {quoted(NONE)} as channel, 1 as position,
                0 as path_length, null::bigint as lag_us, models.model, 1::hugeint as weight, 1::hugeint as total
            from temp.attribution_orders as orders cross join models
            where orders.order_key not in (select order_key from temp.attribution_path)
        ),
        weighted as (
            select * from temp.attribution_weight union all by name select * from bare
        ),
        hashes as (
            select order_key, md5(string_agg(channel, '>' order by position)) as path_hash
            from temp.attribution_path group by order_key
        ),
        shared as (
            select weighted.*, flows.one_id, flows.kind, flows.sign, flows.cents, flows.money_sign,
                (flows.cents::hugeint * weighted.weight) // weighted.total as whole_cents,
                (flows.cents::hugeint * weighted.weight) % weighted.total as remainder
            from weighted inner join flows on flows.order_key = weighted.order_key
        ),
        ranked as (
            select *, cents - sum(whole_cents) over (partition by order_key, model, kind) as left_over,
                row_number() over (partition by order_key, model, kind order by remainder desc, position) as place
            from shared
        )
        select ranked.order_key, ranked.one_id, ranked.model, ranked.kind, ranked.touch_key, ranked.channel,
            ranked.position, ranked.path_length, cast(ranked.lag_us // 1000000 as bigint) as lag_seconds,
            hashes.path_hash, {quoted(settings.look_back)} as look_back, getvariable('cut_at') as as_of,
            cast(ranked.sign * ranked.weight as hugeint) as credit_numerator, ranked.total as credit_denominator,
            ranked.sign * ranked.weight / ranked.total as credit,
            cast(ranked.money_sign * (ranked.whole_cents + (ranked.place <= ranked.left_over)::int) / 100
                as decimal(18, 2)) as amount
        from ranked left join hashes on hashes.order_key = ranked.order_key
        where ranked.weight <> 0
        """
    )


def _channels_sql(
    con: duckdb.DuckDBPyConnection, settings: AttributionConfig, channels: list[str], model: MarkovModel | None
) -> str:
    """Credited orders and money per model and channel, with removal effects, and incremental orders where a control
    group is declared for the channel."""
    touched = con.execute("select count(distinct order_key) from temp.attribution_path").fetchall()[0][0]
    shares = credits(model.removal, touched) if model else []
    effects = ", ".join(
        f"({quoted(name)}, {model.removal[i]!r}::double, {model.low[i] if model.low else 'null'}::double,"
        f" {model.high[i] if model.high else 'null'}::double, {shares[i]!r}::double)"
        for i, name in enumerate(channels)
        if model
    )
    nothing = ", ".join(["null::text", *["null::double"] * 4])
    effects_sql = f"values {effects}" if effects else f"select {nothing}"
    controls = " union all ".join(_control_sql(channel, condition) for channel, condition in settings.control.items())
    none = (
        "select null::text as channel, null::double as incremental_orders, null::double as incremental_low,"
        " null::double as incremental_high where false"
    )
    return f"""
        with effects (channel, removal_effect, removal_low, removal_high, removal_orders) as ({effects_sql}),
        incremental as ({controls or none}),
        credited as (
            -- Added as decimals: sums of floats would depend on the order in which threads add them.
            select model, channel,
                cast(sum(cast(credit as decimal(28, 15))) filter (where kind = 'sale') as double) as credited_orders,
                sum(amount) as credited_net, sum(amount) filter (where kind = 'sale') as credited_gross,
                count(distinct order_key) as orders_touched
            from temp.attribution_credit group by model, channel
        )
        select credited.*, case when model = 'markov' then effects.removal_effect end as removal_effect,
            case when model = 'markov' then effects.removal_low end as removal_low,
            case when model = 'markov' then effects.removal_high end as removal_high,
            case when model = 'markov' then effects.removal_orders end as removal_orders,
            incremental.incremental_orders, incremental.incremental_low, incremental.incremental_high
        from credited
        left join effects on effects.channel = credited.channel
        left join incremental on incremental.channel = credited.channel
        order by model, credited_orders desc, credited.channel
    """


def _control_sql(channel: str, condition: str) -> str:
    """Incremental orders of a channel some people were held out of: TY - CY T/C, with a 95 % normal interval."""
    return f"""
        select {quoted(channel)} as channel,
            treated_orders - control_orders * treated / control as incremental_orders,
            treated_orders - control_orders * treated / control - 1.96 * spread as incremental_low,
            treated_orders - control_orders * treated / control + 1.96 * spread as incremental_high
        from (
            select count(*) filter (where not held_out) as treated, nullif(count(*) filter (where held_out), 0) as
                control,
                sum(orders) filter (where not held_out) as treated_orders,
                sum(orders) filter (where held_out) as control_orders,
                sqrt(treated * coalesce(var_samp(orders) filter (where not held_out), 0)
                    + treated * treated * coalesce(var_samp(orders) filter (where held_out), 0) / control) as spread
            from (
                select people.one_id, coalesce(({condition}), false) as held_out, count(orders.order_key) as orders
                from {MARTS}.dim_people as people
                left join temp.attribution_orders as orders on orders.one_id = people.one_id
                group by people.one_id, held_out
            )
        )
    """


def _models_sql(settings: AttributionConfig, model: MarkovModel | None) -> str:
    def parameters(name: str) -> dict[str, object]:
        found: dict[str, object] = {"look_back": settings.look_back, "max_touches": settings.max_touches}
        if name == "position":
            found["shares"] = settings.position
        if name == "time_decay":
            found["half_life"] = settings.half_life
        if name == "markov" and model:
            found |= {"order": model.order, "states": model.states, "bootstrap": settings.bootstrap}
        return found

    rows = [
        f"select {quoted(name)} as model, {quoted(json.dumps(parameters(name)))} as parameters,"
        f" {model.probability if name == 'markov' and model else 'null'}::double as conversion_probability,"
        " getvariable('cut_at') as as_of"
        for name in settings.models
    ]
    return " union all ".join(rows) + " order by model"


_CREDIT_TEXT = (
    "归因明细：每单、每模型、每触点一行，合计等于净额 | "
    "One row per order, model, kind and touch: Σ amount per order and model = its net, to the cent.",
    {
        "order_key": "the order",
        "one_id": "the person",
        "model": "first | last | linear | position | time_decay | markov | shapley",
        "kind": "sale, or refund (negative, with the weights of the sale)",
        "touch_key": "the touch; __none__ when nothing preceded the order",
        "channel": "channel of the touch",
        "position": "place of the touch on the path, from 1",
        "path_length": "touches on the path",
        "lag_seconds": "from the touch to the payment",
        "path_hash": "equal for equal sequences of channels; null without a touch",
        "look_back": "how far before the payment touches count, as in config/metrics.yaml",
        "as_of": "data cut",
        "credit_numerator": "credit as a fraction: numerator (negative for refunds)",
        "credit_denominator": "credit as a fraction: denominator",
        "credit": "numerator ÷ denominator",
        "amount": "credited money",
    },
)
_CHANNEL_TEXT = (
    "归因：每个模型每个渠道一行，及对照组的增量 | "
    "One row per model and channel: credited orders and money, beside what a control group says they added.",
    {
        "model": "attribution model",
        "channel": "channel; __none__ = orders without a touch",
        "credited_orders": "sum of credits",
        "credited_gross": "credited money before refunds",
        "credited_net": "credited money after refunds",
        "orders_touched": "orders with a touch of the channel",
        "removal_effect": "share of conversions lost without the channel (Markov)",
        "removal_low": "bootstrap 5 % bound",
        "removal_high": "bootstrap 95 % bound",
        "removal_orders": "all orders with a touch, shared among the channels by removal effect (Markov as published);"
        " credited_orders shares each order among the channels of its own path",
        "incremental_orders": "orders the channel added, by its control group; null without one",
        "incremental_low": "95 % lower bound",
        "incremental_high": "95 % upper bound",
    },
)
_MODEL_TEXT = (
    "归因模型：每次计算每个模型一行 | One row per attribution model of the run.",
    {
        "model": "name",
        "parameters": "settings, JSON",
        "conversion_probability": "exact chance that a walk converts (Markov)",
        "as_of": "data cut",
    },
)
