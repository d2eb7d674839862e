-- What insights_status says of the index, for those who may read it.  In PL/pgSQL, so that
-- it is not inlined, and asks for no table's privileges unless it is called.
create or replace function insights.index_status(
    out built boolean,
    out usable boolean,
    out unwatched text,
    out pending bigint,
    out lag_seconds double precision,
    out missed bigint,
    out traces bigint,
    out blocks bigint,
    out terms bigint,
    out postings bigint
)
language plpgsql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    select
        s.built,
        s.built and s.awaited is null and s.trusted >= m.last_value
            and s.fingerprint = insights.fingerprint(),
        insights.unwatched(),
        greatest(m.last_value - s.trusted, 0)
    into built, usable, unwatched, missed
    from insights.state s, insights.missed m;

    select
        count(distinct n.trace_id),
        greatest(extract(epoch from statement_timestamp() - min(n.noted_at)), 0)
    into pending, lag_seconds
    from (select p.trace_id, p.noted_at from insights.pending p limit 1000000) n;

    select coalesce(sum(b.live_count), 0), count(*)
    into traces, blocks
    from insights.block b;

    if pg_relation_size('insights.term') < 2 ^ 24 then
        select count(*) into terms from insights.term;
    else
        select c.reltuples into terms from pg_class c where c.oid = 'insights.term'::regclass;
    end if;
    if pg_relation_size('insights.posting') < 2 ^ 24 then
        select count(*) into postings from insights.posting;
    else
        select c.reltuples into postings from pg_class c where c.oid = 'insights.posting'::regclass;
    end if;
end
$plpgsql$;

comment on function insights.index_status() is
    'The state of the index, for insights_status';

revoke all on function insights.index_status() from public;
grant execute on function insights.index_status() to public;
