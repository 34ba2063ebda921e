/*
Money spent on channels, by day.
grain: cost_key
owner: data
*/
with stg_costs as (
    select
        concat(source, '|', cost_id) as cost_key,  -- unique over all sources
        source,
        cost_id,
        channel_id,
        date,  -- day in the brand's zone
        amount,
        currency,
        recorded_at  -- UTC, when we learned it
    from staging.stg_canonical__costs
)

select * from stg_costs
