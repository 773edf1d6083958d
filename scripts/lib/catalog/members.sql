-- What belongs to the cluster: its own row, its instances, its settings, its journal.

create function moonrise.cluster_create(name text, config text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'local', true);
    if exists (select from cluster_state) then
        perform fail('MR003', format('the catalog holds the cluster %s already',
            (select s.name from cluster_state s)));
    end if;
    insert into cluster_state (name, config) values (name, config);
    perform note('cluster', null, null, format('cluster %s', name), '{}');
    return 0;
end $$;

-- Adds an instance: {dbid, content, role, port, hostname, address, datadir, preferred_role?}. A
-- mirror is down until mirror_up. Without a dbid the next free one is taken. -> dbid
create function moonrise.instance_add(token bigint, instance jsonb) returns integer
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    new gp_segment_configuration;
begin
    perform authorise(token, (instance ->> 'content')::integer);
    new := jsonb_populate_record(null::gp_segment_configuration, instance);
    new.dbid := coalesce(new.dbid, (select coalesce(max(dbid), 0) + 1
        from gp_segment_configuration));
    new.preferred_role := coalesce(new.preferred_role, new.role);
    new.mode := 'n';
    new.status := case when new.role = 'm' then 'd' else 'u' end;
    perform pair_epoch(new.content);
    insert into gp_segment_configuration select new.*;
    perform note('instance', new.content, new.dbid, format('dbid %s belongs to the cluster',
        new.dbid),
        to_jsonb(new));
    return new.dbid;
exception
    when unique_violation or check_violation or not_null_violation
        or invalid_text_representation then
        perform fail('MR004', format('instance %s: %s', instance, sqlerrm));
end $$;

-- Takes a mirror out of the cluster; its primary goes on alone.
create function moonrise.instance_remove(token bigint, dbid integer, facts jsonb default '{}')
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    old gp_segment_configuration;
    taken bigint;
begin
    select * into old from gp_segment_configuration c where c.dbid = instance_remove.dbid;
    if not found then
        perform fail('MR004', format('there is no dbid %s', dbid));
    end if;
    perform authorise(token, old.content);
    -- Read again: the first look was before the lock.
    select * into old from gp_segment_configuration c where c.dbid = instance_remove.dbid;
    if old.role is distinct from 'm' then
        perform forbid(format('dbid %s is a primary: only mirrors are removed', dbid));
    elsif old.content = -1 and old.mode = 's' then
        perform forbid(format('dbid %s is the coordinator''s standby, and in sync', dbid),
            'a majority of the hosts records first that it is out: see mirror_down');
    end if;
    if old.content >= 0 then
        perform check_membership(old, null, facts -> 'majority');
    end if;
    taken := pair_epoch(old.content);
    update pair_state p set armed_name = null where p.content = old.content;
    perform set_pair(old.content, 'n', 'd');
    delete from gp_segment_configuration c where c.dbid = instance_remove.dbid;
    perform note('instance', old.content, dbid, format('dbid %s left the cluster', dbid),
        to_jsonb(old));
    return taken;
end $$;

-- A superuser's: the watcher runs what on_event names as the owner of the servers, so whoever may
-- change this text is that user.
create function moonrise.config_set(config text, reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    taken bigint;
begin
    perform begin_change('config');
    taken := next_epoch();
    update cluster_state set config = config_set.config;
    perform note('config', null, null, reason, jsonb_build_object('epoch', taken));
    return taken;
end $$;

create function moonrise.journal_add(kind text, content integer, dbid integer, text text,
    data jsonb default '{}')
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    new_id bigint;
begin
    perform set_config('synchronous_commit', 'local', true);
    insert into journal (kind, content, dbid, text, data)
        values (kind, content, dbid, text, coalesce(data, '{}')) returning id into new_id;
    return new_id;
end $$;

create function moonrise.fdw_database_set(dbname text, follows boolean default true) returns boolean
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'local', true);
    if follows then
        insert into fdw_database values (dbname::name) on conflict do nothing;
    else
        delete from fdw_database d where d.dbname = fdw_database_set.dbname;
    end if;
    return found;
end $$;

-- Replaces the sample of pg_stat_replication: an array of objects with its columns and
-- gp_segment_id.
create function moonrise.replication_sample_set(rows jsonb) returns integer
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    n integer;
begin
    perform set_config('synchronous_commit', 'local', true);
    delete from replication_sample;
    insert into replication_sample
        select (jsonb_populate_record(null::replication_sample,
            jsonb_build_object('sample_time', clock_timestamp()) || r)).*
                from jsonb_array_elements(rows) r;
    get diagnostics n = row_count;
    return n;
end $$;
