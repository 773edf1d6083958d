-- Role moonrise reads everything and changes nothing but by the functions named here; nobody else
-- has anything. What the functions call among themselves stays out of reach.

revoke all on schema moonrise from public;
revoke all on all tables in schema moonrise from public;
revoke all on all sequences in schema moonrise from public;
revoke all on all functions in schema moonrise from public;
revoke create on schema public from public;

grant usage on schema moonrise to moonrise;
grant select on all tables in schema moonrise to moonrise;

grant execute on function
    moonrise.watcher_lease_take(text),
    moonrise.holds_watcher_lease(),
    moonrise.watcher_pid(),
    moonrise.cycle_request(),
    moonrise.cycle_done(bigint),
    moonrise.lease_take(integer, text, text, text, interval),
    moonrise.lease_step(bigint, text, interval),
    moonrise.lease_inherit(bigint, text, interval, boolean),
    moonrise.lease_drop(bigint),
    moonrise.cluster_set_state(bigint[], text, text),
    moonrise.pause_set(integer, text, interval, text, text),
    moonrise.pause_end(integer, text, text),
    moonrise.epoch_reserve(bigint, integer, text, bigint),
    moonrise.epoch_seen(bigint),
    moonrise.timeline_seen(bigint, integer, bigint),
    moonrise.mirror_down(bigint, integer, text, jsonb, bigint),
    moonrise.mirror_up(bigint, integer, text, bigint),
    moonrise.in_sync(bigint, integer, bigint, jsonb),
    moonrise.out_of_sync(bigint, integer, text, bigint, jsonb),
    moonrise.promote(bigint, integer, integer, jsonb, text, bigint),
    moonrise.hand_over(bigint, integer, jsonb),
    moonrise.promoted(bigint, integer, bigint, bigint, pg_lsn),
    moonrise.activated(bigint, text),
    moonrise.bar_reserve(bigint, integer, bigint),
    moonrise.pair_confirm(bigint, integer, jsonb, text),
    moonrise.instance_add(bigint, jsonb),
    moonrise.instance_remove(bigint, integer, jsonb),
    moonrise.mirror_add(bigint, jsonb, jsonb),
    moonrise.move_begin(bigint, integer, integer, jsonb, text),
    moonrise.move_done(bigint, integer, integer, jsonb, text, jsonb),
    moonrise.place_hold(integer, text, text, text, interval),
    moonrise.place_forget(bigint, integer, text, text),
    moonrise.journal_add(text, integer, integer, text, jsonb),
    moonrise.fdw_database_set(text, boolean),
    moonrise.replication_sample_set(jsonb)
to moonrise;
