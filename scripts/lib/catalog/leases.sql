-- Who may change something: the watcher's lease over everything, and leases of single contents.
--
-- `token` in a transition: null means "the caller's session holds the watcher's lease", anything
-- else an unexpired lease of that content. While a content is leased, and while the cluster is
-- stopped, the watcher is refused: it is not a failure that is going on there.

create function moonrise.fail(code text, message text, hint text default '') returns void
language plpgsql as $$
begin
    raise exception using errcode = code, message = message, hint = hint;
end $$;

-- Takes the lock that puts all transitions in one line, and lets the transaction commit without the
-- standby: the row that says "the standby is gone" cannot wait for the standby (SAFETY.md, rule 8).
create function moonrise.begin_change(actor text) returns void
language plpgsql as $$
begin
    perform set_config('synchronous_commit', 'local', true);
    perform set_config('moonrise.actor', actor, true);
    perform from cluster_state for update;
    if not found then
        perform fail('MR004', 'the catalog has no cluster yet',
            'moonrise.cluster_create comes first');
    end if;
end $$;

create function moonrise.next_epoch() returns bigint
language sql as $$
    update cluster_state set epoch = epoch + 1, taken_by = pg_current_xact_id() returning epoch
$$;

create function moonrise.note(kind text, content integer, dbid integer, text text, data jsonb)
returns void
language sql as $$
    insert into journal (kind, content, dbid, text, data)
    values (kind, content, dbid, text, coalesce(data, '{}'))
$$;

-- The backend that holds the watcher's lease: two keys of a session advisory lock, which ends with
-- its session whatever happens to its client.
create function moonrise.watcher_pid() returns integer
language sql as $$
    select pid from pg_locks
    where locktype = 'advisory' and granted and mode = 'ExclusiveLock'
        and classid = 1836215923 and objid = 1 and objsubid = 2
        and database = (select oid from pg_database where datname = current_database())
$$;

create function moonrise.holds_watcher_lease() returns boolean
language sql as $$
    select coalesce(moonrise.watcher_pid() = pg_backend_pid(), false)
$$;

-- Raises unless the caller may work on this content; tells who it is, for the history. `seen` is
-- the pair's epoch by which the caller decided: what was decided by an older one is refused.
create function moonrise.authorise_caller(token bigint, content integer, seen bigint default null)
returns text
language plpgsql as $$
declare
    lease content_lease;
begin
    if content is null or content < -1 then
        perform fail('MR004', format('there is no content %s', coalesce(content::text, 'null')));
    end if;
    perform begin_change('FTS');
    select * into lease from content_lease l where l.content = authorise_caller.content;
    if seen <> last_epoch(content) then
        perform fail('MR003', format('content %s has changed since epoch %s', content, seen));
    elsif token is not null then
        if lease.token is distinct from token then
            perform fail('MR002', format('the lease %s of content %s is not held any more', token,
                content));
        elsif lease.expires <= clock_timestamp() then
            perform fail('MR002', format('the lease %s of content %s has expired', token, content));
        end if;
        perform set_config('moonrise.actor', lease.intent, true);
        return lease.holder;
    elsif not holds_watcher_lease() then
        perform fail('MR002', 'the caller does not hold the watcher''s lease');
    elsif lease.expires > clock_timestamp() then
        perform fail('MR002', format('content %s is in the hands of %s (%s, %s)', content,
            lease.holder, lease.intent, lease.step));
    elsif exists (select from cluster_state where state = 'stopped') then
        perform fail('MR002', 'the cluster is stopped: nothing there is a failure');
    end if;
    return 'watcher';
end $$;

-- Raises unless the caller may change this content now, as the above, and its pair is confirmed.
create function moonrise.authorise(token bigint, content integer, seen bigint default null)
returns text
language plpgsql as $$
declare
    caller text := authorise_caller(token, content, seen);
begin
    perform check_confirmed(content);
    return caller;
end $$;

create function moonrise.watcher_lease_take(holder text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    taken bigint;
begin
    if holds_watcher_lease() then
        return (select epoch from cluster_state);
    elsif not pg_try_advisory_lock(1836215923, 1) then
        return null;
    end if;
    -- A holder that was stopped loses the lease with its session; it asks something every second.
    perform set_config('idle_session_timeout', '5s', false);
    perform begin_change('FTS');
    taken := next_epoch();
    update cluster_state set watcher = holder, watcher_since = clock_timestamp();
    perform note('watcher', null, null, format('%s watches', holder), jsonb_build_object('epoch',
        taken));
    return taken;
end $$;

create function moonrise.lease_take(content integer, holder text, intent text, step text,
    ttl interval)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    old content_lease;
    new_token bigint;
begin
    if content is null or content < -1 or holder is null or intent is null or step is null then
        perform fail('MR004', 'a lease needs content, holder, intent and step');
    end if;
    perform check_ttl(ttl);
    perform begin_change(intent);
    select * into old from content_lease l where l.content = lease_take.content;
    if intent not in ('start', 'stop') and exists (select from cluster_state
        where state = 'stopped') then
        perform fail('MR003', 'the cluster is stopped', 'moonrise start starts it');
    elsif old.expires > clock_timestamp() then
        perform fail('MR003', format('content %s is in the hands of %s (%s, %s)', content,
            old.holder,
            old.intent, old.step), format('it is theirs until %s unless they renew it',
                old.expires));
    end if;
    new_token := nextval('moonrise.lease_token');
    insert into content_lease values (content, new_token, holder, intent, step, clock_timestamp(),
        clock_timestamp() + ttl)
    on conflict on constraint content_lease_pkey do update set token = excluded.token,
        holder = excluded.holder, intent = excluded.intent, step = excluded.step,
        taken = excluded.taken, expires = excluded.expires;
    perform note('lease', content, null, format('%s: %s takes content %s', intent, holder, content),
        jsonb_strip_nulls(jsonb_build_object('token', new_token, 'step', step,
            'left_by', old.holder, 'left_intent', old.intent, 'left_step', old.step)));
    return new_token;
end $$;

create function moonrise.check_ttl(ttl interval) returns void
language plpgsql as $$
begin
    if ttl is null or ttl <= interval '0' or ttl > interval '1 hour' then
        perform fail('MR004', format('a lease is taken for up to an hour, not for %s', ttl));
    end if;
end $$;

create function moonrise.lease_step(token bigint, step text, ttl interval) returns boolean
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    lease content_lease;
begin
    perform check_ttl(ttl);
    perform begin_change('lease');
    -- What hand_over has set stays: a renewal may have been on its way meanwhile.
    update content_lease l set expires = clock_timestamp() + ttl,
            step = case when l.step = 'handed' then l.step else lease_step.step end
        where l.token = lease_step.token and l.expires > clock_timestamp()
        returning * into lease;
    if not found then
        perform fail('MR002', format('the lease %s is not held any more', token));
    end if;
    return true;
end $$;

-- Takes over what a killed holder has left, with its intent and its step; of several that try it
-- one succeeds. `gone`: the caller knows that the holder's process has ended. Otherwise the lease
-- must have expired, and that is judged here: it may have been renewed since the caller looked.
create function moonrise.lease_inherit(token bigint, holder text, ttl interval, gone boolean)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    lease content_lease;
begin
    perform check_ttl(ttl);
    perform begin_change('lease');
    update content_lease l set token = nextval('moonrise.lease_token'),
            holder = lease_inherit.holder, expires = clock_timestamp() + ttl
        where l.token = lease_inherit.token and (gone or l.expires <= clock_timestamp())
        returning * into lease;
    if not found then
        perform fail('MR003', format('the lease %s is not there any more, or was renewed', token));
    end if;
    perform note('lease', lease.content, null,
        format('%s: %s takes over content %s, left at step %s', lease.intent, holder,
            lease.content, lease.step), jsonb_build_object('token', lease.token));
    return lease.token;
end $$;

-- Gives a lease back; one that has expired can be dropped by whoever has finished what it was for.
create function moonrise.lease_drop(token bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform begin_change('lease');
    delete from content_lease l where l.token = lease_drop.token;
    return found;
end $$;

-- The cluster is stopped or started as a whole by whoever holds the leases of all its contents.
-- Stopping gives them back: nobody could do that afterwards, and a stopped cluster is left alone
-- without them.
create function moonrise.cluster_set_state(tokens bigint[], new_state text,
    reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    missing smallint;
    taken bigint;
begin
    if new_state is null or new_state not in ('running', 'stopped') then
        perform fail('MR004', format('a cluster is running or stopped, not %s', new_state));
    end if;
    perform begin_change(new_state);
    select content into missing from gp_segment_configuration c
        where not exists (select from content_lease l
            where l.content = c.content and l.token = any (tokens)
                and l.expires > clock_timestamp())
        limit 1;
    if found then
        perform fail('MR002', format('the lease of content %s is not held', missing));
    end if;
    taken := next_epoch();
    update cluster_state set state = new_state;
    if new_state = 'stopped' then
        delete from content_lease l where l.token = any (tokens);
    end if;
    perform note('cluster', null, null, format('%s: %s', new_state, reason),
        jsonb_build_object('epoch', taken));
    return taken;
end $$;
