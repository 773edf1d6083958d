--- Role moonrise: what it may do on every instance, and why.
---
--- It is no superuser. It replicates, sees statistics and settings, and may change what a failover
--- changes; everything else is denied to it, and with it to whoever gets hold of the passfile.
local M = {}

local ROLE = {
    -- REPLICATION: mirrors stream as this role, base backups and slots belong to it.
    "create role moonrise login replication",
    -- pg_monitor: who waits for whom, how far a mirror is. pg_signal_backend: ends the sessions of
    -- an earlier order and the statements that hang on a lost primary. pg_checkpoint: before each
    -- copy.
    "grant pg_monitor, pg_signal_backend, pg_checkpoint to moonrise",
    -- What arming, releasing, following a new primary and closing a primary to writes change.
    "grant alter system on parameter synchronous_standby_names, primary_conninfo, " ..
        "primary_slot_name to moonrise",
}

-- Its password, as the secret that the server would make of it (RFC 5802, RFC 7677), of one
-- iteration instead of 4096. Many iterations make a password that people think of dear to guess.
-- This one is 192 random bits, and is asked for whenever a fresh session is opened: by the watcher
-- of eight instances several times a second, where they were two thirds of its work.
local PASSWORD = [[
do $$
declare
    salt bytea := decode(replace(gen_random_uuid()::text, '-', ''), 'hex');
    salted bytea := '%s';
    message bytea[] := array[salt || '\x00000001', 'Client Key', 'Server Key'];
    digest bytea[];
    key bytea;
    inner_pad bytea;
    outer_pad bytea;
begin
    -- HMAC-SHA-256 of each message: with the password first, then with what that gives.
    for i in 1 .. 3 loop
        key := salted || decode(repeat('00', 64 - length(salted)), 'hex');
        inner_pad := key;
        outer_pad := key;
        for at in 0 .. 63 loop
            inner_pad := set_byte(inner_pad, at, get_byte(key, at) # 54);
            outer_pad := set_byte(outer_pad, at, get_byte(key, at) # 92);
        end loop;
        digest[i] := sha256(outer_pad || sha256(inner_pad || message[i]));
        salted := digest[1];
    end loop;
    execute format('alter role moonrise password %%L', 'SCRAM-SHA-256$1:'
        || encode(salt, 'base64') || '$' || encode(sha256(digest[2]), 'base64') || ':'
        || encode(digest[3], 'base64'));
end $$]]

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
        template[i] = text
    end
    table.insert(template, PASSWORD:format(password))
    for i, name in ipairs(FUNCTIONS) do
        postgres[i] = ("grant execute on function pg_catalog.%s to moonrise"):format(name)
        table.insert(template, postgres[i])
    end
    return template, postgres
end

return M
