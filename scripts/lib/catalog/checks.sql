-- What no change may break, whoever makes it.

create function moonrise.forbid(message text, hint text default '') returns void
language plpgsql as $$
begin
    raise exception using errcode = 'MR001', message = message, hint = hint;
end $$;

-- Every change belongs to a transaction that took an epoch, and leaves Greenplum's line in the
-- history.
create function moonrise.configuration_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    actor text := coalesce(nullif(current_setting('moonrise.actor', true), ''), 'FTS');
    line text;
begin
    if not exists (select from cluster_state where taken_by = pg_current_xact_id()) then
        perform forbid('gp_segment_configuration is changed by the catalog''s functions only',
            'each change takes an epoch: see mirror_down, promote and their like');
    end if;
    if tg_op = 'INSERT' then
        line := format('%s: add dbid %s with contentid %s as %s, %s, and %s at %s:%s:%s', actor,
            new.dbid, new.content, new.role, new.status, new.mode, new.hostname, new.port,
                new.datadir);
    elsif tg_op = 'DELETE' then
        line := format('%s: remove dbid %s with contentid %s', actor, old.dbid, old.content);
    elsif new.dbid <> old.dbid or new.content <> old.content then
        perform forbid('dbid and content of an instance never change');
    elsif (new.port, new.hostname, new.address, new.datadir)
        <> (old.port, old.hostname, old.address, old.datadir) then
        line := format('%s: move dbid %s with contentid %s to %s:%s:%s', actor, new.dbid,
            new.content,
            new.hostname, new.port, new.datadir);
    else
        line := format('%s: update role, status, and mode for dbid %s with contentid %s '
            'to %s, %s, and %s',
            actor, new.dbid, new.content, new.role, new.status, new.mode);
    end if;
    insert into gp_configuration_history values (clock_timestamp(), coalesce(new.dbid, old.dbid),
        line);
    return null;
end $$;

create trigger configuration_changed
    after insert or update or delete on moonrise.gp_segment_configuration
    for each row execute function moonrise.configuration_changed();

-- Looks at a content's rows when the transaction commits: in the middle of a role change they may
-- differ.
create function moonrise.pair_is_sound() returns trigger
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    c smallint := coalesce(new.content, old.content);
    pair record;
begin
    select count(*) as instances,
        count(*) filter (where role = 'p') as primaries,
        count(*) filter (where preferred_role = 'p') as preferred,
        count(distinct mode) as modes,
        bool_or(mode = 's') as in_sync,
        bool_or(role = 'p' and status = 'd') as primary_down,
        bool_or(role = 'm' and status = 'u') as mirror_up
    into pair from gp_segment_configuration where content = c;
    if pair.instances = 0 then
        return null;
    elsif pair.instances > 2 then
        perform forbid(format('content %s has %s instances, a pair has two', c, pair.instances));
    elsif pair.primaries <> 1 then
        perform forbid(format('content %s has %s primaries', c, pair.primaries));
    elsif pair.instances = 2 and pair.preferred <> 1 then
        perform forbid(format('content %s has %s instances that are preferred as its primary',
            c, pair.preferred));
    elsif pair.modes <> 1 then
        perform forbid(format('the modes of content %s differ inside the pair', c));
    elsif pair.primary_down then
        perform forbid(format('the primary of content %s is never recorded as down', c));
    elsif pair.in_sync and not coalesce(pair.mirror_up, false) then
        perform forbid(format('content %s is in sync with a mirror that is not up', c));
    end if;
    return null;
end $$;

create constraint trigger pair_is_sound
    after insert or update or delete on moonrise.gp_segment_configuration
    deferrable initially deferred
    for each row execute function moonrise.pair_is_sound();

create function moonrise.append_only() returns trigger
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform forbid(format('%s on %s: it only grows', tg_op, tg_table_name));
    return null;
end $$;

create trigger append_only before update or delete on moonrise.gp_configuration_history
    for each row execute function moonrise.append_only();
create trigger never_emptied before truncate on moonrise.gp_configuration_history
    for each statement execute function moonrise.append_only();
create trigger append_only before update or delete on moonrise.journal
    for each row execute function moonrise.append_only();
create trigger never_emptied before truncate on moonrise.journal
    for each statement execute function moonrise.append_only();
create trigger never_emptied before truncate on moonrise.gp_segment_configuration
    for each statement execute function moonrise.append_only();
create trigger append_only before delete on moonrise.cluster_state
    for each row execute function moonrise.append_only();
create trigger append_only before delete on moonrise.pair_state
    for each row execute function moonrise.append_only();

create function moonrise.epoch_grows() returns trigger
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    if new.epoch < old.epoch then
        perform forbid(format('an epoch never goes back (%s to %s)', old.epoch, new.epoch));
    end if;
    return new;
end $$;

create trigger epoch_grows before update on moonrise.cluster_state
    for each row execute function moonrise.epoch_grows();
create trigger epoch_grows before update on moonrise.pair_state
    for each row execute function moonrise.epoch_grows();
