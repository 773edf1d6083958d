-- The transitions: each is one statement, checks, takes the next epoch, and leaves what it did and
-- why in gp_configuration_history and in the journal. All wait for each other on cluster_state's
-- row. Where the catalog says already what is asked for, the pair's epoch comes back and nothing is
-- written, so that a caller that died in between can simply ask again.

create function moonrise.primary_of(c integer) returns gp_segment_configuration
language sql as $$ select * from gp_segment_configuration where content = c and role = 'p' $$;

create function moonrise.mirror_of(c integer) returns gp_segment_configuration
language plpgsql as $$
declare
    found_row gp_segment_configuration;
begin
    select * into found_row from gp_segment_configuration where content = c and role = 'm';
    if not found then
        perform fail('MR004', format('content %s has no mirror', c));
    end if;
    return found_row;
end $$;

-- Takes an epoch for a content's pair.
create function moonrise.pair_epoch(c integer) returns bigint
language plpgsql as $$
declare
    taken bigint := next_epoch();
begin
    insert into pair_state as p (content, epoch) values (c, taken)
    on conflict on constraint pair_state_pkey do update set epoch = taken,
        since = clock_timestamp();
    return taken;
end $$;

create function moonrise.last_epoch(c integer) returns bigint
language sql as $$ select epoch from pair_state where content = c $$;

-- Both instances get `new_mode`, the mirror `new_status`.
create function moonrise.set_pair(c integer, new_mode "char", new_status "char") returns void
language sql as $$
    update gp_segment_configuration
    set mode = new_mode, status = case when role = 'm' then new_status else status end
    where content = c and (mode <> new_mode or (role = 'm' and status <> new_status))
$$;

create function moonrise.facts(epoch bigint, reason text, more jsonb) returns jsonb
language sql as $$
    select jsonb_build_object('epoch', epoch, 'reason', reason) || coalesce(more, '{}')
$$;

create function moonrise.reserve(c integer, reason text) returns bigint
language plpgsql as $$
declare
    taken bigint := pair_epoch(c);
begin
    update pair_state set reserved = taken where content = c;
    perform note('reserve', c, null, reason, jsonb_build_object('epoch', taken));
    return taken;
end $$;

-- An order needs one, so a pair that is not confirmed gets none but to be stopped.
create function moonrise.epoch_reserve(token bigint, content integer, reason text,
    seen bigint default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform authorise_caller(token, content, seen);
    if current_setting('moonrise.actor') <> 'stop' then
        perform check_confirmed(content);
    end if;
    return reserve(content, reason);
end $$;

-- The catalog's epoch is at least `seen`; whether it was not. It never goes back, so a number that
-- no cluster comes to in its life is none: it would leave no room for the next ones.
create function moonrise.raise_epoch(seen bigint) returns boolean
language plpgsql as $$
declare
    known bigint := (select epoch from cluster_state);
begin
    if seen > known + 1000000000 then
        perform fail('MR004', format('epoch %s is out of reach: the catalog''s is %s', seen, known),
            'an instance''s moonrise.epoch, or the record of a host, holds a wrong one');
    end if;
    update cluster_state set epoch = seen where epoch < seen;
    return found;
end $$;

-- What the hosts have seen counts: an epoch that was used while there was no coordinator is never
-- given out again.
create function moonrise.epoch_seen(seen bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform begin_change('epoch');
    if raise_epoch(seen) then
        perform note('epoch', null, null, format('a host has seen epoch %s', seen),
            jsonb_build_object('epoch', seen));
    end if;
    return (select epoch from cluster_state);
end $$;

create function moonrise.mirror_down(token bigint, content integer, reason text,
    facts jsonb default '{}', seen bigint default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
begin
    perform authorise(token, content, seen);
    mirror := mirror_of(content);
    if mirror.status = 'd' and mirror.mode = 'n' then
        return last_epoch(content);
    end if;
    perform check_pause(token, content);
    perform check_majority(content, facts);
    taken := pair_epoch(content);
    update pair_state p set armed_name = null where p.content = mirror_down.content;
    perform set_pair(content, 'n', 'd');
    perform note('mirror_down', content, mirror.dbid, reason, facts(taken, reason, facts));
    return taken;
end $$;

create function moonrise.mirror_up(token bigint, content integer, reason text,
    seen bigint default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
begin
    perform authorise(token, content, seen);
    mirror := mirror_of(content);
    if mirror.status = 'u' and mirror.mode = 'n' then
        return last_epoch(content);
    elsif mirror.mode = 's' then
        perform forbid(format('content %s is in sync: that is taken back by out_of_sync', content));
    end if;
    taken := pair_epoch(content);
    perform set_pair(content, 'n', 'u');
    perform note('mirror_up', content, mirror.dbid, reason, facts(taken, reason, null));
    return taken;
end $$;

-- Whether the evidence says what SAFETY.md's rule 1 asks for, as far as figures can say it.
create function moonrise.check_evidence(content integer, arm_epoch bigint,
    evidence jsonb) returns void
language plpgsql as $$
declare
    mirror gp_segment_configuration := mirror_of(content);
    name text := format('mr_%s_%s_%s', case content when -1 then 'c' else content::text end,
        mirror.dbid, arm_epoch);
begin
    if evidence ->> 'name' is distinct from name then
        perform forbid(format('content %s: armed with the name %s, not %s', content,
            coalesce(evidence ->> 'name', '(none)'), name));
    elsif evidence ->> 'timeline' is null then
        perform forbid(format('content %s: the history that the mirror follows was not seen',
            content), 'the evidence needs the timeline');
    elsif (evidence ->> 'flush_lsn')::pg_lsn >= (evidence ->> 'insert_lsn')::pg_lsn then
        return;
    end if;
    perform forbid(format('content %s: the mirror was not seen to have flushed what was written',
        content), 'the evidence needs insert_lsn and a flush_lsn at or after it');
exception when invalid_text_representation then
    perform fail('MR004', format('content %s: the evidence holds no positions: %s', content,
        evidence));
end $$;

create function moonrise.in_sync(token bigint, content integer, arm_epoch bigint, evidence jsonb)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
begin
    perform authorise(token, content);
    mirror := mirror_of(content);
    if arm_epoch is null or evidence is null then
        perform fail('MR004', 'in_sync needs the epoch it was armed with and the evidence');
    elsif not exists (select from pair_state p where p.content = in_sync.content
            and p.epoch = arm_epoch and p.reserved = arm_epoch) then
        perform fail('MR003', format('content %s was armed with epoch %s, its last one is %s',
            content,
            arm_epoch, last_epoch(content)),
                'something happened to the pair in between: arm it again');
    elsif mirror.status <> 'u' then
        perform forbid(format('the mirror of content %s is recorded as down', content));
    end if;
    perform check_evidence(content, arm_epoch, evidence);
    if (evidence ->> 'timeline')::bigint > (select p.timeline from pair_state p
            where p.content = in_sync.content) then
        perform forbid(format('content %s is on timeline %s: somebody else promoted', content,
            evidence ->> 'timeline'), 'moonrise recoverseg makes its mirror a copy');
    end if;
    taken := pair_epoch(content);
    update pair_state p set armed_name = evidence ->> 'name',
        armed_timeline = (evidence ->> 'timeline')::bigint where p.content = in_sync.content;
    perform set_pair(content, 's', 'u');
    perform note('in_sync', content, mirror.dbid, format('content %s is in sync', content),
        facts(taken, 'armed', evidence));
    return taken;
end $$;

-- No pause refuses it: that commits do not wait for the mirror is to be known.
create function moonrise.out_of_sync(token bigint, content integer, reason text,
    seen bigint default null, facts jsonb default '{}')
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
begin
    perform authorise(token, content, seen);
    mirror := mirror_of(content);
    if mirror.mode = 'n' then
        return last_epoch(content);
    end if;
    perform check_majority(content, facts);
    taken := pair_epoch(content);
    perform set_pair(content, 'n', mirror.status);
    perform note('out_of_sync', content, mirror.dbid, reason, facts(taken, reason, facts));
    return taken;
end $$;

-- The two rows of a content change roles; the old primary is down until it has become a mirror.
create function moonrise.swap_roles(c integer) returns bigint
language plpgsql as $$
declare
    taken bigint := pair_epoch(c);
    new_primary smallint := (mirror_of(c)).dbid;
begin
    update gp_segment_configuration set role = 'm', mode = 'n', status = 'd'
        where content = c and role = 'p';
    update gp_segment_configuration set role = 'p', mode = 'n', status = 'u'
        where dbid = new_primary;
    update pair_state set role_epoch = taken, armed_name = null where content = c;
    return taken;
end $$;

create function moonrise.promote(token bigint, content integer, dbid integer, decision jsonb,
    accept_loss text default null, seen bigint default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
    loss text := nullif(btrim(accept_loss), '');
begin
    perform authorise(token, content, seen);
    if content = -1 then
        perform forbid('a coordinator is not promoted like a segment',
            'the standby is activated with moonrise activatestandby');
    elsif dbid = (primary_of(content)).dbid then
        perform fail('MR003', format('dbid %s is the primary of content %s already', dbid,
            content));
    end if;
    perform check_pause(token, content);
    mirror := mirror_of(content);
    if mirror.dbid is distinct from dbid then
        perform fail('MR004', format('dbid %s is not the mirror of content %s', dbid, content));
    elsif (mirror.mode <> 's' or mirror.status <> 'u') and loss is null then
        perform forbid(format('dbid %s is not in sync (content %s): promoting it may lose commits',
            dbid, content), 'an operator may accept that loss in writing');
    end if;
    taken := swap_roles(content);
    perform note('promote', content, dbid, coalesce(decision ->> 'reason', 'promoted'),
        facts(taken, coalesce(decision ->> 'reason', ''), jsonb_strip_nulls(jsonb_build_object(
            'decision', decision, 'mode', mirror.mode, 'accept_loss', loss))));
    return taken;
end $$;

-- Whether the mirror has all that the primary wrote before it shut down, and nothing past that: a
-- primary that somebody has started again is none that was shut down.
create function moonrise.check_shutdown(content integer, evidence jsonb) returns void
language plpgsql as $$
begin
    if coalesce(evidence ->> 'shutdown_end', '') = '' then
        perform forbid(format('content %s: the primary was not seen shut down', content),
            'the evidence needs shutdown_end');
    elsif ((evidence ->> 'flush_lsn')::pg_lsn = (evidence ->> 'shutdown_end')::pg_lsn)
        is not true then
        perform forbid(format('content %s: the primary ends at %s, its mirror was seen at %s',
            content, evidence ->> 'shutdown_end', coalesce(evidence ->> 'flush_lsn', '(nothing)')),
            'the evidence needs a flush_lsn of the mirror that is shutdown_end');
    end if;
exception when invalid_text_representation then
    perform fail('MR004', format('content %s: the evidence holds no positions: %s', content,
        evidence));
end $$;

-- The watcher does not do that on its own: what it finishes it has taken over with the lease.
create function moonrise.hand_over(token bigint, content integer, evidence jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    mirror gp_segment_configuration;
    taken bigint;
begin
    if token is null then
        perform fail('MR004', 'hand_over needs the lease of the content');
    end if;
    perform authorise(token, content);
    mirror := mirror_of(content);
    if content = -1 then
        perform forbid('the coordinator''s roles are not handed over like a segment''s');
    elsif mirror.mode <> 's' or mirror.status <> 'u' then
        perform forbid(format('content %s is not in sync: its roles are not handed over', content));
    end if;
    perform check_shutdown(content, evidence);
    taken := swap_roles(content);
    -- From here on there is no way back, whenever the caller dies: the same transaction says so.
    update content_lease l set step = 'handed' where l.token = hand_over.token;
    perform note('hand_over', content, mirror.dbid, 'roles handed over', facts(taken, 'handed over',
        evidence));
    return taken;
end $$;

create function moonrise.promoted(token bigint, content integer, epoch bigint, timeline bigint,
    switch_lsn pg_lsn)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform authorise(token, content);
    if epoch is distinct from (select role_epoch from pair_state p
        where p.content = promoted.content) then
        perform fail('MR003', format('the roles of content %s were not changed with epoch %s',
            content, epoch));
    end if;
    insert into promotion as p values (content, epoch, timeline, switch_lsn)
    on conflict on constraint promotion_pkey do nothing;
    if found then
        update pair_state p set timeline = greatest(p.timeline, promoted.timeline)
        where p.content = promoted.content;
        perform note('promoted', content, (primary_of(content)).dbid,
            format('content %s is on timeline %s from %s', content, timeline, switch_lsn),
            jsonb_build_object('epoch', epoch, 'timeline', timeline, 'switch_lsn', switch_lsn));
    end if;
    return epoch;
end $$;

-- A primary that is on a higher timeline than moonrise has promoted it to, and whose mirror has
-- just been made its copy.
create function moonrise.timeline_seen(token bigint, content integer, timeline bigint)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform authorise(token, content);
    update pair_state p set timeline = timeline_seen.timeline
    where p.content = timeline_seen.content and p.timeline < timeline_seen.timeline;
    if found then
        perform note('timeline', content, (primary_of(content)).dbid,
            format('content %s is on timeline %s: somebody else promoted', content, timeline),
            jsonb_build_object('timeline', timeline));
    end if;
    return timeline;
end $$;
