/*
Tags that pulls saw put on or taken off a pair: each version of a pair against the one before. A pair's first version
tells what was put on only where the pair itself began after our first pull.
grain: source, corpid, userid, external_userid, tag_id, version
owner: data
*/
with seen as (
    select
        stream._source as source,
        trim(stream.corpid) as corpid,
        trim(stream.userid) as userid,
        trim(stream.external_userid) as external_userid,
        coalesce(stream.tag_ids, []) as tag_ids,
        stream.added_at,
        coalesce(stream.read_at, stream._loaded_at) as seen_at,
        min(stream._loaded_at) over (partition by stream._source) as first_pull_at,
        row_number() over (
            partition by stream._source, stream.corpid, stream.userid, stream.external_userid
            order by stream._batch_seq, stream._row_number
        ) as version
    from raw.wecom__relations as stream
    where stream._deleted is not true
),

versions as (
    select
        seen.*,
        case when version > 1 then lag(seen_at) over pair else added_at end as after_at,
        lag(tag_ids) over pair as tags_before
    from seen
    window pair as (partition by source, corpid, userid, external_userid order by version)
),

moved as (
    select
        source,
        corpid,
        userid,
        external_userid,
        version,
        after_at,
        seen_at,
        tag_ids as tags_after,
        coalesce(tags_before, []) as tags_before
    from versions
    where (version > 1 and tag_ids is distinct from tags_before)
        or (version = 1 and added_at > first_pull_at and len(tag_ids) > 0)
),

put_on as (
    select distinct source, corpid, userid, external_userid, version, after_at, seen_at, unnest(tags_after) as tag_id
    from moved
),

there_before as (
    select distinct source, corpid, userid, external_userid, version, after_at, seen_at, unnest(tags_before) as tag_id
    from moved
),

stg_wecom__tag_changes as (
    select
        coalesce(put_on.source, there_before.source) as source,
        coalesce(put_on.corpid, there_before.corpid) as corpid,
        coalesce(put_on.userid, there_before.userid) as userid,  -- staff member
        coalesce(put_on.external_userid, there_before.external_userid) as external_userid,  -- customer
        coalesce(put_on.tag_id, there_before.tag_id) as tag_id,
        coalesce(put_on.version, there_before.version) as version,  -- which version of the pair shows it first
        case when there_before.tag_id is null then 'added' else 'removed' end as change,  -- added, removed
        coalesce(put_on.after_at, there_before.after_at) as after_at,  -- UTC, it had not happened yet
        coalesce(put_on.seen_at, there_before.seen_at) as seen_at  -- UTC, it had happened
    from put_on
    full outer join there_before
        on there_before.source = put_on.source
        and there_before.corpid = put_on.corpid
        and there_before.userid = put_on.userid
        and there_before.external_userid = put_on.external_userid
        and there_before.version = put_on.version
        and there_before.tag_id = put_on.tag_id
    where put_on.tag_id is null or there_before.tag_id is null
)

select * from stg_wecom__tag_changes
