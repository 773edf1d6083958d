-- Pauses: where, until when and why the watcher neither promotes nor releases anybody.
--
-- A pause binds the watcher alone. What a runbook does under a content's lease is the operator's
-- own will, also where the watcher finishes or undoes it for one that was killed; and a change of
-- roles that is recorded is carried out, or the pair would be without a primary. It ends by itself,
-- by this server's clock.

-- Of one content, of the pairs that have an instance on one host, or, with neither, of the cluster.
create table moonrise.pause (
    content         smallint check (content >= -1),
    hostname        text check (hostname <> ''),
    holder          text not null check (holder <> ''),
    reason          text not null check (btrim(reason) <> ''),
    since           timestamptz not null default clock_timestamp(),
    until           timestamptz not null,
    check (content is null or hostname is null),
    check (until > since and until <= since + interval '168 hours')
);

create unique index pause_one_each on moonrise.pause (coalesce(content, -2),
    coalesce(hostname, ''));

-- Each content that is paused now, by the pause that lasts longest. The watcher reads it every
-- second: a plan that is estimated to be dear would be compiled each time, for seconds.
create view moonrise.paused_content as
    select distinct on (c.content) c.content, p.holder, p.reason, p.until
    from moonrise.pause p
    join moonrise.gp_segment_configuration c on (p.content is null or p.content = c.content)
        and (p.hostname is null or p.hostname = c.hostname)
    where p.until > clock_timestamp()
    order by c.content, p.until desc;

-- Whose pause it is, in words.
create function moonrise.pause_scope(content integer, hostname text) returns text
language sql immutable as $$
    select case when content is not null then format('content %s', content)
        when hostname is not null then format('host %s', hostname) else 'the cluster' end
$$;

-- Raises where the watcher (a null token) may not promote or release.
create function moonrise.check_pause(token bigint, c integer) returns void
language plpgsql as $$
declare
    pause record;
begin
    select * into pause from paused_content p where p.content = c;
    if found and token is null then
        perform forbid(format('failover of content %s is paused until %s by %s: %s', c,
            to_char(pause.until, 'YYYY-MM-DD HH24:MI:SS'), pause.holder, pause.reason),
            'moonrise resume ends a pause');
    end if;
end $$;

-- Begins a pause; one of the same scope is replaced. -> epoch
create function moonrise.pause_set(content integer, hostname text, duration interval, holder text,
    reason text)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    taken bigint;
    began timestamptz := clock_timestamp();
    scope text := pause_scope(content, hostname);
begin
    if duration is null or duration <= interval '0' or duration > interval '168 hours' then
        perform fail('MR004', format('a pause lasts up to 7 days, not %s', duration));
    elsif not exists (select from gp_segment_configuration c
            where (pause_set.content is null or c.content = pause_set.content)
            and (pause_set.hostname is null or c.hostname = pause_set.hostname)) then
        perform fail('MR004', format('the cluster has no instance of %s', scope));
    end if;
    perform begin_change('pause');
    delete from pause p where p.until <= began or (p.content is not distinct from pause_set.content
        and p.hostname is not distinct from pause_set.hostname);
    insert into pause values (content, hostname, holder, reason, began, began + duration);
    taken := next_epoch();
    perform note('pause', content, null, format('failover of %s is paused until %s by %s: %s',
        scope, to_char(began + duration, 'YYYY-MM-DD HH24:MI:SS'), holder, reason),
        jsonb_build_object('epoch', taken, 'hostname', hostname, 'until', began + duration,
            'holder', holder, 'reason', reason));
    return taken;
exception when check_violation or not_null_violation then
    perform fail('MR004', format('a pause needs content or host, who and a reason: %s', sqlerrm));
end $$;

-- Ends the pause of this scope. -> epoch; null when there is none
create function moonrise.pause_end(content integer, hostname text, holder text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    ended pause;
    taken bigint;
begin
    perform begin_change('resume');
    delete from pause p where p.content is not distinct from pause_end.content
        and p.hostname is not distinct from pause_end.hostname
        returning * into ended;
    if not found or ended.until <= clock_timestamp() then
        return null;
    end if;
    taken := next_epoch();
    perform note('resume', content, null, format('failover of %s goes on, by %s',
        pause_scope(content, hostname), holder), jsonb_build_object('epoch', taken,
            'hostname', hostname, 'holder', holder, 'until', ended.until));
    return taken;
end $$;
