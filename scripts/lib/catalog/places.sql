-- Mirrors get places: another host, port or directory, or their first one in a cluster that serves.

-- The mirror that is about to be somewhere else, and may.
create function moonrise.movable(content integer, dbid integer) returns gp_segment_configuration
language plpgsql as $$
declare
    mirror gp_segment_configuration := mirror_of(content);
begin
    if mirror.dbid is distinct from dbid then
        perform fail('MR003', format('dbid %s is not the mirror of content %s', dbid, content));
    elsif content = -1 then
        perform forbid('the standby coordinator is not recovered to another place like a segment',
            'it is removed, and made anew: moonrise initstandby');
    end if;
    return mirror;
end $$;

-- Of {port, hostname, address, datadir}; nobody else is there, nor has been.
create function moonrise.place_of(dbid integer, place jsonb) returns left_place
language plpgsql as $$
declare
    new left_place := jsonb_populate_record(null::left_place, place);
    other record;
begin
    select c.dbid, c.port, c.datadir into other from gp_segment_configuration c
        where c.hostname = new.hostname and c.dbid <> place_of.dbid
        and (c.port = new.port or c.datadir = new.datadir) limit 1;
    if found then
        perform fail('MR004', format('dbid %s has %s on host %s', other.dbid,
            case when other.port = new.port then 'port ' || new.port
                else 'directory ' || new.datadir end, new.hostname));
    end if;
    select l.dbid into other from left_place l where l.hostname = new.hostname
        and l.datadir = new.datadir and l.dbid <> place_of.dbid;
    if found then
        perform fail('MR004', format('%s on host %s is what dbid %s has left behind', new.datadir,
            new.hostname, other.dbid), 'it goes when that one is in sync');
    end if;
    return new;
exception when invalid_text_representation or numeric_value_out_of_range then
    perform fail('MR004', format('%s is no place: %s', place, sqlerrm));
end $$;

-- Notes where something will be written before it is: whoever comes after a killed run knows of it.
-- -> an epoch for the orders
-- A mirror that is up goes to one place at a time, for one `holder`.
create function moonrise.move_begin(token bigint, content integer, dbid integer, place jsonb,
    holder text default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    new left_place;
    other left_place;
begin
    perform authorise(token, content);
    mirror := movable(content, dbid);
    new := place_of(dbid, place);
    select * into other from left_place l where l.dbid = mirror.dbid and mirror.status = 'u'
        and l.busy_until > clock_timestamp() and l.busy_by is distinct from holder;
    if found then
        perform fail('MR002', format('dbid %s is on its way to %s on host %s, by %s', dbid,
            other.datadir, other.hostname, other.busy_by),
            'let that movemirrors end, or end it, and run this again');
    end if;
    -- Where it is already nothing is left.
    if (new.hostname, new.datadir) is distinct from (select (c.hostname, c.datadir)
            from gp_segment_configuration c where c.dbid = move_begin.dbid) then
        insert into left_place
            values (dbid, content, new.port, new.hostname, new.address, new.datadir)
        on conflict on constraint left_place_pkey do update set port = excluded.port,
            address = excluded.address;
    end if;
    return reserve(content, format('move dbid %s to %s:%s:%s', dbid, new.hostname, new.port,
        new.datadir));
exception when check_violation or not_null_violation then
    perform fail('MR004', format('%s is no place: %s', place, sqlerrm));
end $$;

create function moonrise.has_majority(hosts text[], named jsonb) returns boolean
language sql as $$
    select count(*) >= cardinality(hosts) / 2 + 1 from unnest(hosts) h where named ? h
$$;

-- The standby coordinator may lack this change and be activated. Then it asks a majority of the
-- hosts that it knows, which need not share one with the majority that has recorded since that it
-- is out. So before the change the record is on a majority of both sets, with a catalog_epoch to
-- which the catalog comes by the change and not before: whoever reads it, and whose catalog has not
-- come that far, lacks something that counts. The host that joins has it too: what it may have from
-- an earlier membership would count otherwise. `old` is the row that moves or goes; null for an
-- instance that is new. `new` is null for one that goes.
create function moonrise.check_membership(old gp_segment_configuration, new left_place,
    majority jsonb) returns void
language plpgsql as $$
declare
    hosts text[] := array(select c.hostname from gp_segment_configuration c
        where c.dbid is distinct from old.dbid
        union select new.hostname where new.hostname is not null);
    before text[] := array(select distinct c.hostname from gp_segment_configuration c);
begin
    if hosts <@ before and before <@ hosts
        or not exists (select from gp_segment_configuration where content = -1 and role = 'm') then
        return;
    elsif jsonb_typeof(majority -> 'hosts') is distinct from 'array'
        or jsonb_typeof(majority -> 'catalog_epoch') is distinct from 'number' then
        perform forbid('the cluster gets other hosts only with a record on a majority of them',
            'name that record in the facts: {"majority": {"epoch": ..., "catalog_epoch": ..., '
            '"hosts": [...]}}');
    elsif not has_majority(hosts, majority -> 'hosts')
        or not has_majority(before, majority -> 'hosts')
        or not coalesce(majority -> 'hosts' ? new.hostname, true) then
        perform forbid(format('the cluster gets other hosts only with a record on a majority of '
            'those it has and of those it gets%s: %s have it',
            ', host ' || new.hostname || ' included', majority -> 'hosts'));
    elsif to_jsonb(last_epoch(-1)) is distinct from majority -> 'epoch' then
        perform fail('MR003', format('the hosts have recorded epoch %s, the pair''s last one is %s',
            majority ->> 'epoch', last_epoch(-1)), 'something happened to the pair in between');
    elsif (majority ->> 'catalog_epoch')::bigint <= (select epoch from cluster_state) then
        perform fail('MR003', format('the hosts have recorded epoch %s of the catalog, which has '
            'come to %s', majority ->> 'catalog_epoch', (select epoch from cluster_state)),
            'something happened in between');
    end if;
    perform raise_epoch((majority ->> 'catalog_epoch')::bigint);
end $$;

-- Adds a mirror, as instance_add does, to a content of a cluster that serves. -> dbid
create function moonrise.mirror_add(token bigint, instance jsonb, facts jsonb default '{}')
returns integer
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    c integer := (instance ->> 'content')::integer;
begin
    perform authorise(token, c);
    if c = -1 or instance ->> 'role' is distinct from 'm' then
        perform forbid('what is added to a cluster that serves is the mirror of a segment');
    elsif exists (select from gp_segment_configuration where content = c and role = 'm') then
        perform fail('MR003', format('content %s has a mirror already, dbid %s', c,
            (mirror_of(c)).dbid));
    end if;
    perform check_membership(null, place_of(0, instance), facts -> 'majority');
    return instance_add(token, instance);
end $$;

-- From now on the mirror is there. It is down until mirror_up, as before.
create function moonrise.move_done(token bigint, content integer, dbid integer, place jsonb,
    reason text, facts jsonb default '{}')
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    old gp_segment_configuration;
    new left_place;
    taken bigint;
begin
    perform authorise(token, content);
    old := movable(content, dbid);
    if old.status <> 'd' then
        perform forbid(format('dbid %s is recorded as up: its row moves when it is down', dbid));
    end if;
    new := place_of(dbid, place);
    if (old.hostname, old.address, old.port, old.datadir)
        = (new.hostname, new.address, new.port, new.datadir) then
        return last_epoch(content);
    end if;
    perform check_membership(old, new, facts -> 'majority');
    taken := pair_epoch(content);
    delete from left_place l where l.hostname = new.hostname and l.datadir = new.datadir;
    if (old.hostname, old.datadir) <> (new.hostname, new.datadir) then
        insert into left_place
            values (dbid, content, old.port, old.hostname, old.address, old.datadir);
    end if;
    update gp_segment_configuration c set port = new.port, hostname = new.hostname,
        address = new.address, datadir = new.datadir where c.dbid = move_done.dbid;
    perform note('move', content, dbid, reason, facts(taken, reason, facts
        || jsonb_build_object('from', to_jsonb(old), 'to', to_jsonb(new))));
    return taken;
exception when check_violation or not_null_violation then
    perform fail('MR004', format('%s is no place: %s', place, sqlerrm));
end $$;

-- A mirror that is up goes on while it is copied to its new place, and nobody holds its content:
-- who copies says by this that he still does. -> whether the place is on record, and his
create function moonrise.place_hold(dbid integer, hostname text, datadir text, holder text,
    ttl interval)
returns boolean
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'local', true);
    update left_place l set busy_until = clock_timestamp() + ttl, busy_by = holder
        where l.dbid = place_hold.dbid and l.hostname = place_hold.hostname
        and l.datadir = place_hold.datadir and (l.busy_by is not distinct from holder
            or coalesce(l.busy_until <= clock_timestamp(), true));
    return found;
end $$;

-- Nothing of the instance is at that place any more, or what is there is its owner's.
create function moonrise.place_forget(token bigint, content integer, hostname text, datadir text)
returns boolean
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    gone left_place;
begin
    perform authorise_caller(token, content);
    delete from left_place l where l.content = place_forget.content
        and l.hostname = place_forget.hostname and l.datadir = place_forget.datadir
        returning * into gone;
    if found then
        perform note('place', content, gone.dbid, format('dbid %s has nothing in %s:%s any more',
            gone.dbid, gone.hostname, gone.datadir), to_jsonb(gone));
    end if;
    return gone.dbid is not null;
end $$;
