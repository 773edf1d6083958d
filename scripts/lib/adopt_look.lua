--- What a running instance says of itself, asked as its superuser before it is adopted.
local create = require("lib.create")
local mr = require("moonrise")

local M = {}

-- One row; lists are JSON. Works in recovery, too.
local FACTS = [[
select pg_is_in_recovery() as in_recovery,
       current_setting('is_superuser') = 'on' as superuser,
       current_setting('server_version_num')::integer as version,
       current_setting('server_version') as version_text,
       (select system_identifier::text from pg_control_system()) as sysid,
       (select timeline_id from pg_control_checkpoint()) as timeline,
       case when pg_is_in_recovery() then null else pg_current_wal_flush_lsn() end as flush_lsn,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() end as paused,
       exists (select from pg_roles where rolname = 'moonrise') as has_role,
       exists (select from pg_database where datname = 'moonrise') as has_database,
       (select json_strip_nulls(json_object_agg(name, json_build_object(
            'setting', reset_val, 'unit', unit, 'kind', vartype, 'context', context,
            'source', source, 'shown',
            case when reset_val = setting then current_setting(name) else reset_val end)))::text
        from pg_settings) as settings,
       (select json_strip_nulls(json_agg(json_build_object(
            'name', s.application_name, 'state', s.state, 'address',
            coalesce(host(s.client_addr), 'its socket'), 'slot', r.slot_name)))::text
        from pg_stat_replication s left join pg_replication_slots r on r.active_pid = s.pid)
       as replicas,
       (select json_agg(json_build_object('name', slot_name, 'kind', slot_type))::text
        from pg_replication_slots where not temporary) as slots,
       (select json_strip_nulls(json_build_object(
            'status', status, 'host', sender_host, 'port', sender_port,
            'slot', nullif(slot_name, ''), 'timeline', received_tli,
            'name', substring(conninfo from 'application_name=(\S+)')))::text
        from pg_stat_wal_receiver) as receiver,
       (select json_agg(format('%s %s', name, sourcefile))::text from pg_file_settings
        where name in ('data_directory', 'hba_file', 'ident_file', 'external_pid_file'))
       as places,
       (select json_agg(distinct format('%s:%s: %s', sourcefile, sourceline, error))::text
        from pg_file_settings where name is null and error is not null) as file_errors,
       (select json_agg(format('%s%s: %s', coalesce('database ' || d.datname, ''),
            coalesce(' role ' || r.rolname, ''), c))::text
        from pg_db_role_setting x left join pg_database d on d.oid = x.setdatabase
        left join pg_roles r on r.oid = x.setrole, unnest(x.setconfig) c
        where c ~ '^synchronous_commit=' and c !~ '=(on|remote_apply)$') as lower_commits,
       (select json_agg(x.text)::text from (
            select 'a session of ' || application_name as text from pg_stat_activity
            where application_name ~* '^(patroni|repmgr|pg_auto_?(failover|ctl)|stolon)'
            union select 'the database ' || datname from pg_database
            where datname in ('repmgr', 'pg_auto_failover')
            union select 'the extension ' || extname from pg_extension
            where extname in ('repmgr', 'pgautofailover')
            union select 'shared_preload_libraries: ' || l from unnest(string_to_array(
                replace(current_setting('shared_preload_libraries'), ' ', ''), ',')) l
            where l in ('repmgr', 'pgautofailover')
            union select 'its file patroni.dynamic.json'
            where (pg_stat_file('patroni.dynamic.json', true)).size is not null) x)
       as managers]]

local LISTS = { "settings", "replicas", "slots", "receiver", "places", "file_errors",
    "lower_commits", "managers" }

--- Asks a running instance for all that its adoption depends on.
---@param plan table {agents, superuser, superuser_passfile}
---@param inst table
---@return table? facts
---@return Error? err
function M.facts(plan, inst)
    local rows, err = create.superuser(plan, "postgres", inst):query(FACTS)
    if not rows and (err.code == "connect" or (err.sqlstate or ""):sub(1, 2) == "28") then
        err = mr.error(err.code, ("a session as %s: %s"):format(plan.superuser, err.message),
            { cause = err, hint = "name a superuser who may connect over the server's socket by " ..
                "--superuser; its password belongs in PGPASSFILE" })
    end
    if not rows then
        return nil, err
    end
    local facts = rows[1]
    for _, name in ipairs(LISTS) do
        facts[name] = facts[name] and mr.json_decode(facts[name]) or {}
    end
    return facts
end

return M
