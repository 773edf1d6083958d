-- A cycle of the watcher for whoever wants to know that everything was looked at from now on
-- (Greenplum's gp_request_fts_probe_scan): the holder of the lease does one when more are asked for
-- than done.

create table moonrise.watch_cycle (
    the_one         boolean primary key default true check (the_one),
    asked           bigint not null default 0,
    done            bigint not null default 0 check (done <= asked)
);

insert into moonrise.watch_cycle default values;

-- Returns the number that `done` must have reached.
create function moonrise.cycle_request() returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    number bigint;
begin
    perform set_config('synchronous_commit', 'local', true);
    update watch_cycle set asked = asked + 1 returning asked into number;
    return number;
end $$;

create function moonrise.cycle_done(number bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'local', true);
    if not holds_watcher_lease() then
        perform fail('MR002', 'the caller does not hold the watcher''s lease');
    end if;
    update watch_cycle set done = greatest(done, number);
    return number;
end $$;
