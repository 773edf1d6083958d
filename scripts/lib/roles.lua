--- Role moonrise: what it may do on every instance, and why.
---
--- It is no superuser. It replicates, sees statistics and settings, and may change what a failover
--- changes; everything else is denied to it, and with it to whoever gets hold of the passfile.
local M = {}

local ROLE = {
    -- REPLICATION: mirrors stream as this role, base backups and slots belong to it.
    "create role moonrise login replication password '%s'",
    -- pg_monitor: who waits for whom, how far a mirror is. pg_signal_backend: ends the sessions of
    -- an earlier order and the statements that hang on a lost primary. pg_checkpoint: before each
    -- copy.
    "grant pg_monitor, pg_signal_backend, pg_checkpoint to moonrise",
    -- What arming, releasing, following a new primary and closing a primary to writes change.
    "grant alter system on parameter synchronous_standby_names, primary_conninfo, " ..
        "primary_slot_name to moonrise",
}

-- Grants on functions live in each database: template1 hands them on to those made later.
local FUNCTIONS = {
    -- A base backup held in one session while blocks are copied.
    "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)",
    -- The last segment of a timeline is closed so that it can be compared and archived.
    "pg_switch_wal()",
    "pg_promote(boolean, integer)", "pg_reload_conf()",
    -- Replay that somebody has paused is resumed before a promotion is proposed.
    "pg_wal_replay_pause()", "pg_wal_replay_resume()",
}

--- The statements that make role moonrise in a fresh server, for the databases template1 and
--- postgres.
---@param password string hexadecimal, so that it needs no quoting
---@return string[] template run in template1, first
---@return string[] postgres run in the database postgres
function M.statements(password)
    local template, postgres = {}, {}
    for i, text in ipairs(ROLE) do
        template[i] = i == 1 and text:format(password) or text
    end
    for i, name in ipairs(FUNCTIONS) do
        postgres[i] = ("grant execute on function pg_catalog.%s to moonrise"):format(name)
        table.insert(template, postgres[i])
    end
    return template, postgres
end

return M
