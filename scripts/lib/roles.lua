--- Role moonrise: what it may do on every instance, and why.
---
--- It is no superuser. It replicates, sees statistics and settings, and may change what a failover
--- changes; everything else is denied to it, and with it to whoever gets hold of the passfile.
--- What that is worth to a thief, since PostgreSQL 15 lets it be narrowed no further: REPLICATION
--- copies the whole server (base backup, WAL), whoever may read which table; pg_signal_backend ends
--- every session but a superuser's; slots belong to nobody, so those of others can be dropped; and
--- the three parameters decide who waits for whom. So pg_hba.conf lets this role in from the pair's
--- own hosts and the coordinator's only.
local M = {}

local ROLE = {
    -- REPLICATION: mirrors stream as this role, base backups and slots belong to it.
    "create role moonrise login replication",
    -- pg_read_all_stats: who waits for whom, how far a mirror is. pg_read_all_settings: where the
    -- server's files are. pg_signal_backend: ends the sessions of an earlier order and the
    -- statements that hang on a lost primary. pg_checkpoint: before each copy.
    "grant pg_read_all_stats, pg_read_all_settings, pg_signal_backend, pg_checkpoint to moonrise",
    -- What arming, releasing, following a new primary and closing a primary to writes change.
    "grant alter system on parameter synchronous_standby_names, primary_conninfo, " ..
        "primary_slot_name to moonrise",
}

-- Grants on functions live in each database: template1 hands them on to those made later.
local FUNCTIONS = {
    -- A base backup held in one session while blocks are copied.
    "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)",
    "pg_promote(boolean, integer)", "pg_reload_conf()",
    -- The timeline that a mirror without a receiver has WAL of.
    "pg_ls_waldir()",
}

--- What a superuser's transaction begins with in which the role gets its password: nothing that
--- writes statements down, or keeps them to be looked at, gets to see that one. A library that is
--- not loaded knows no such setting, and needs none.
M.QUIET = {
    "set local log_statement = 'none'", "set local log_min_duration_statement = -1",
    "set local log_min_duration_sample = -1", "set local log_transaction_sample_rate = 0",
    "set local log_duration = off", "set local log_min_error_statement = 'panic'",
    "set local debug_print_parse = off", "set local debug_print_rewritten = off",
    "set local debug_print_plan = off",
    [[select set_config(name, case name when 'pgaudit.log' then 'none' else 'off' end, true)
    from pg_settings where name in ('pgaudit.log', 'pg_stat_statements.track_utility')]],
}

--- The statements that make role moonrise in a fresh server, for the databases template1 and
--- postgres.
---@param secret string of its password: mr.scram_secret's, which needs no quoting
---@return string[] template run in template1, first
---@return string[] postgres run in the database postgres
function M.statements(secret)
    local template, postgres = {}, {}
    for i, text in ipairs(ROLE) do
        template[i] = text
    end
    table.insert(template, ("alter role moonrise password '%s'"):format(secret))
    for i, name in ipairs(FUNCTIONS) do
        postgres[i] = ("grant execute on function pg_catalog.%s to moonrise"):format(name)
        table.insert(template, postgres[i])
    end
    return template, postgres
end

return M
