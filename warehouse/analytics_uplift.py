"""Uplift of the experiments of `config/sync.yaml` by a score: intention to treat, and nothing that was known later.

A person enters an experiment with the first tag of its groups. Whether the sync then wrote the tag or held it back was
drawn by lot, from the one_id of that time; the score is the tag that the history held right after the run in which the
person entered, whatever was restated since; what counts as response came afterwards. Both arms are measured alike, so
people the sync could not reach count too, as long as they had an employee in WeCom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import polars as pl

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.metrics.config import UpliftConfig
from cdp.metrics.uplift import Arms, qini_area, uplift_bins
from cdp.sync.config import Control, Experiment
from cdp.sync.control import control_people
from warehouse.analytics_common import MARTS, Table, frame

_SCHEMA: dict[str, Any] = {
    "uplift_id": pl.String, "experiment": pl.String, "score_tag": pl.String, "bin": pl.Int64, "score_from": pl.Float64,
    "treated": pl.Int64, "control": pl.Int64, "treated_responders": pl.Int64, "control_responders": pl.Int64,
    "people_share": pl.Float64, "lift": pl.Float64, "lift_low": pl.Float64, "lift_high": pl.Float64,
    "gain": pl.Float64, "qini": pl.Float64, "auqc": pl.Float64, "auqc_random": pl.Float64, "unscored": pl.Int64,
}  # fmt: skip


def uplift_frame(con: duckdb.DuckDBPyConnection, settings: Sequence[UpliftConfig], control: Control) -> pl.DataFrame:
    """One row per item of *settings* and bin. Needs the variables `cut_at` and `zone`. Raises `ConfigError` on an
    experiment, tag group or value that is not there."""
    rows = [row for item in settings for row in _curve(con, item, control)]
    return pl.DataFrame(rows, schema=_SCHEMA)


def uplift_table() -> Table:
    """`fct_uplift`, from the view `uplift_curves` of `uplift_frame`."""
    return Table(
        "fct_uplift",
        "select *, getvariable('cut_at') as as_of from uplift_curves order by uplift_id, bin",
        "增益曲线：每个实验分数、每档一行，自最高分累计 | "
        "One row per declared uplift and bin of its score, cumulated from the highest: what the treatment added.",
        {
            "uplift_id": "id in config/metrics.yaml",
            "experiment": "the experiment in config/sync.yaml",
            "score_tag": "tag group whose value, as of entering, ranks people",
            "bin": "1 = the highest scores; everybody with one score is in one bin",
            "score_from": "lowest score of the bin",
            "treated": "people of this bin and all above who were to be tagged (T)",
            "control": "of these bins, people held back (C)",
            "treated_responders": "treated with a paid order inside the window (TY1)",
            "control_responders": "held back with a paid order inside the window (CY1)",
            "people_share": "(T + C) ÷ everybody with a score",
            "lift": "TY1/T - CY1/C; null while an arm is empty",
            "lift_low": "95 % lower bound",
            "lift_high": "95 % upper bound",
            "gain": "lift · (T + C): responders won if all these people were treated",
            "qini": "TY1 - CY1 · T/C: responders won among those treated",
            "auqc": "area under the Qini curve over people_share, the same on every row of a curve",
            "auqc_random": "the same for a random order; a score that ranks well has more",
            "unscored": "people who entered without a score; they are in no bin",
            "as_of": "data cut",
        },
    )


def _curve(con: duckdb.DuckDBPyConnection, item: UpliftConfig, control: Control) -> list[dict[str, Any]]:
    experiments = {experiment.id: experiment for experiment in control.experiments}
    if item.experiment not in experiments:
        raise ConfigError(
            f"uplift `{item.id}`: config/sync.yaml has no experiment `{item.experiment}`"
            f"{nearest(item.experiment, list(experiments))}"
        )
    experiment = experiments[item.experiment]
    if not _has_history(con):
        return []
    entered = _with_arm(_entered(con, item, experiment), experiment, control)
    scores = _scores(con, item, sorted(entered["score"].drop_nulls().unique().to_list()))
    scored = entered.drop_nulls("score").group_by("score", "is_control", "responded").len().rows()
    counts = [(scores[value], _arm(is_control, responded, size)) for value, is_control, responded, size in scored]
    curve = uplift_bins(counts, item.bins)
    area = qini_area(curve)
    total, rows = curve[-1].arms if curve else Arms(), []
    for point in curve:
        arms, bounds = point.arms, point.arms.lift_bounds()
        rows.append(
            {
                "uplift_id": item.id, "experiment": item.experiment, "score_tag": item.score.tag,
                "bin": point.number, "score_from": point.lowest, "treated": arms.treated, "control": arms.control,
                "treated_responders": arms.treated_responders, "control_responders": arms.control_responders,
                "people_share": arms.people / total.people, "lift": _float(arms.lift),
                "lift_low": bounds[0] if bounds else None, "lift_high": bounds[1] if bounds else None,
                "gain": _float(arms.gain), "qini": _float(arms.qini), "auqc": _float(area),
                "auqc_random": None if area is None or total.qini is None else float(total.qini / 2),
                "unscored": entered["score"].null_count(),
            }
        )  # fmt: skip
    return rows


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _arm(is_control: bool, responded: bool, size: int) -> Arms:
    hits = size if responded else 0
    return Arms(0, size, 0, hits) if is_control else Arms(size, 0, hits, 0)


def _has_history(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether tags were ever computed in this home."""
    found = con.execute(
        "select count(*) from duckdb_tables() where database_name || '.' || schema_name = ?"
        " and table_name = 'fct_tag_history'",
        [MARTS],
    ).fetchall()
    return bool(found[0][0])


def _entered(con: duckdb.DuckDBPyConnection, item: UpliftConfig, experiment: Experiment) -> pl.DataFrame:
    """`one_id, recorded (the ids it had when it entered), score (text), responded` of everybody whose response window
    has ended."""
    return frame(
        con,
        f"""
        with history as (
            select * from {MARTS}.fct_tag_history
        ),
        start as (
            select timezone(getvariable('zone'), cast($since as timestamp)) as at,
                (select max(run) from {MARTS}.fct_tag_group_runs
                    where as_of <= timezone(getvariable('zone'), cast($since as timestamp))) as run
        ),
        tagged as (
            select history.one_id, history.recorded_one_id, greatest(history.valid_from, start.at) as entered_at,
                case when history.valid_from >= start.at then history.opened_run else start.run end as run
            from history cross join start
            where list_contains($groups, history.tag_group)
                and coalesce(history.valid_to, 'infinity') > greatest(history.valid_from, start.at)
        ),
        firsts as (
            select one_id, min(entered_at) as entered_at, min_by(recorded_one_id, (entered_at, run, recorded_one_id)) as
                first_id, min_by(run, (entered_at, run, recorded_one_id)) as run,
                list_sort(list(distinct recorded_one_id)) as recorded
            from tagged group by one_id
        ),
        reachable as (
            select * from firsts
            where entered_at + to_days($days) <= getvariable('cut_at')
                and exists (
                    select 1 from {MARTS}.fct_relations as relations
                    where relations.one_id = firsts.one_id and relations.added_at <= firsts.entered_at
                        and coalesce(relations.removed_at, 'infinity') > firsts.entered_at)
        ),
        known as (
            select reachable.one_id, list_sort(list(distinct history.value)) as held
            from reachable
            inner join history on history.recorded_one_id = reachable.first_id and history.tag_group = $score
                and history.opened_run <= reachable.run
                and coalesce(history.closed_run > reachable.run, true)
            group by reachable.one_id
        )
        select reachable.one_id, reachable.recorded,
            case when len(known.held) = 1 then known.held[1] end as score,
            exists (
                select 1 from {MARTS}.fct_orders as orders
                where orders.one_id = reachable.one_id and orders.is_paid and orders.paid_at >= reachable.entered_at
                    and orders.paid_at < reachable.entered_at + to_days($days)
            ) as responded
        from reachable
        left join known on known.one_id = reachable.one_id
        """,
        {
            "since": item.since,
            "groups": experiment.groups,
            "score": item.score.tag,
            "days": item.response_days,
        },
    )


def _with_arm(entered: pl.DataFrame, experiment: Experiment, control: Control) -> pl.DataFrame:
    """*entered* with `is_control`, without merged people of whom one id was held back and another was not."""
    only = control.model_copy(update={"experiments": [experiment]})
    ids = entered.select("one_id", pl.col("recorded").alias("id")).explode("id")
    held = set(control_people(ids["id"].unique().to_list(), only)["one_id"])
    arms = ids.group_by("one_id").agg(
        pl.col("id").is_in(held).any().alias("is_control"), pl.col("id").is_in(held).all().alias("is_all")
    )
    return entered.join(arms.filter(pl.col("is_control") == pl.col("is_all")), on="one_id").drop("is_all")


def _scores(con: duckdb.DuckDBPyConnection, item: UpliftConfig, values: Sequence[str]) -> dict[str, float]:
    """The number behind each value of the score: its place in `order`, else itself."""
    groups = [row[0] for row in con.execute(f"select distinct tag_group from {MARTS}.fct_tag_history").fetchall()]
    if item.score.tag not in groups:
        raise ConfigError(f"uplift `{item.id}`: no tag group `{item.score.tag}`{nearest(item.score.tag, groups)}")
    if item.score.order:
        places = {value: float(place) for place, value in enumerate(item.score.order, start=1)}
        odd = [value for value in values if value not in places]
        if odd:
            raise ConfigError(
                f"uplift `{item.id}`: `{odd[0]}` is a value of `{item.score.tag}` that `order` does not list"
                f"{nearest(odd[0], list(places))}",
                hint="list every value, the lowest first",
            )
        return {value: places[value] for value in values}
    try:
        return {value: float(value) for value in values}
    except ValueError as error:
        raise ConfigError(
            f"uplift `{item.id}`: the values of `{item.score.tag}` are no numbers ({error})",
            hint="put them in order, the lowest first: score: {tag: …, order: [低, 中, 高]}",
        ) from error
