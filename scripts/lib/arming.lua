--- Arming a pair: making its commits wait for the mirror, and recording `s` once all of SAFETY.md's
--- rule 1 was seen. `init`, `start`, the recoveries and the watcher use this one function.
local cluster = require("lib.cluster")
local guard = require("lib.guard")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local mr = require("moonrise")
local sight = require("lib.sight")
local wait = require("lib.wait")

local M = {}

local STREAM_DEADLINE_MS = 5000
local FLUSH_DEADLINE_MS = 2000
local ARM_DEADLINE_MS = 15000
local PAUSE_MS, AGAIN_MS = 10, 100

-- A mirror with a lower one streams, acknowledges, and shuts down when it is promoted.
local PARAMETERS = "'max_connections', 'max_worker_processes', 'max_wal_senders', " ..
    "'max_prepared_transactions', 'max_locks_per_transaction'"

local PRIMARY_SQL = [[
select s.pid, s.application_name as name, s.state, r.slot_name as slot,
       pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.flush_lsn)::float8 as lag_bytes,
       -- What this database or role was given, a higher one too, says nothing about others: then it
       -- is for the agent to find out.
       (select reset_val from pg_settings where name = 'synchronous_commit'
        and source not in ('database', 'user', 'database user')) as sync_commit,
       current_setting('server_version_num')::integer as version,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline,
       (select json_object_agg(name, setting::bigint)::text from pg_settings
        where name in (]] .. PARAMETERS .. [[)) as parameters
from (select $1::text as slot) w
left join pg_replication_slots r on r.slot_name = w.slot
left join pg_stat_replication s on s.pid = r.active_pid]]

local MIRROR_SQL = [[
select pg_is_in_recovery() as in_recovery,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() end as paused,
       case when pg_is_in_recovery()
            then pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8
       end as replay_lag_bytes,
       current_setting('synchronous_standby_names') as sync_names,
       r.status, r.flushed_lsn as flush_lsn, r.slot_name as slot, r.received_tli as timeline,
       substring(r.conninfo from 'application_name=(\S+)') as name,
       (select json_object_agg(name, setting::bigint)::text from pg_settings
        where name in (]] .. PARAMETERS .. [[)) as parameters
from (select 1) w left join pg_stat_wal_receiver r on true]]

local function refuse(inst, fmt, ...)
    return nil, mr.error("refused", fmt:format(...), { instance = cluster.name(inst) })
end

local function connect(ctx, inst)
    return mr.connect(instance.conninfo(ctx.env, inst,
        { connect_timeout_ms = 3000, application_name = "moonrise arming" }))
end

-- Whether the mirror could be promoted at all.
local function promotable(mirror, primary, pair, settings)
    if not mirror.in_recovery then
        return refuse(pair.mirror, "it is not in recovery")
    elseif mirror.paused then
        return refuse(pair.mirror, "its replay is paused")
    elseif (mirror.replay_lag_bytes or 0) > settings.replay_lag_bytes then
        return refuse(pair.mirror, "its replay is %d bytes behind", mirror.replay_lag_bytes)
    elseif mirror.sync_names ~= "" then
        return refuse(pair.mirror, "it has synchronous_standby_names of its own: %s",
            mirror.sync_names)
    end
    local theirs = mr.json_decode(primary.parameters or "{}")
    for name, value in pairs(mr.json_decode(mirror.parameters or "{}")) do
        if value < (theirs[name] or 0) then
            return refuse(pair.mirror, "its %s is %d, the primary's is %d", name, value,
                theirs[name])
        end
    end
    return true
end

--- Why a primary's commits would never wait for its mirror, whatever that one does.
---@param level? string its synchronous_commit, as far as it is known
---@param version integer server_version_num
---@return string? reason nil when they can
function M.never(level, version)
    if level and level ~= "on" and level ~= "remote_apply" then
        return ("its synchronous_commit is %s: commits do not wait"):format(level)
    elseif not guard.server_waits(version) then
        return ("its version %d lets commits through while it starts"):format(version)
    end
    return nil
end

-- Whether the primary's commits can wait, and the mirror is near enough for them to.
local function ready(primary, pair, settings)
    local never = M.never(primary.sync_commit, primary.version)
    if never then
        return refuse(pair.primary, "%s", never)
    elseif primary.slot == nil then
        return refuse(pair.primary, "it has no slot %s", instance.slot_name(pair.mirror))
    elseif primary.pid == nil or primary.state ~= "streaming" then
        return refuse(pair.mirror, "it does not stream (%s)", primary.state
            or "no WAL sender has its slot")
    elseif not primary.lag_bytes then
        return refuse(pair.mirror, "it has not told yet how far it is")
    elseif primary.lag_bytes > settings.arm_lag_bytes then
        return refuse(pair.mirror, "it is %d bytes behind", primary.lag_bytes)
    end
    return true
end

local function check(conns, pair, settings)
    local slot = instance.slot_name(pair.mirror)
    local primary, err = instance.first_row(conns.primary, PRIMARY_SQL, { slot })
    local mirror
    if primary then
        mirror, err = instance.first_row(conns.mirror, MIRROR_SQL)
    end
    if not mirror then
        return nil, err
    end
    local ok
    ok, err = ready(primary, pair, settings)
    if ok then
        ok, err = promotable(mirror, primary, pair, settings)
    end
    return ok and { primary = primary, mirror = mirror }, err
end

-- The mirror streams under the name it was given, by its own word and by the holder of its slot.
local function wait_named(conns, pair, name, settings)
    return wait.eventually(STREAM_DEADLINE_MS, PAUSE_MS, function()
        local seen, err = check(conns, pair, settings)
        if not seen then
            return nil, err
        elseif seen.primary.name ~= name or seen.mirror.name ~= name then
            return refuse(pair.mirror, "it does not stream under the name %s yet", name)
        elseif seen.mirror.slot ~= instance.slot_name(pair.mirror) then
            return refuse(pair.mirror, "it streams from the slot %s", tostring(seen.mirror.slot))
        elseif seen.mirror.timeline ~= seen.primary.timeline then
            return refuse(pair.mirror, "it receives timeline %s, its primary writes timeline %d",
                tostring(seen.mirror.timeline), seen.primary.timeline)
        end
        return seen
    end)
end

local function wait_flushed(conns, pair, name, insert_lsn)
    return wait.eventually(FLUSH_DEADLINE_MS, PAUSE_MS, function()
        local mirror, err = instance.first_row(conns.mirror, MIRROR_SQL)
        if not mirror then
            return nil, err
        elseif mirror.name ~= name or (mirror.flush_lsn or 0) < insert_lsn then
            return refuse(pair.mirror, "it has flushed up to %s only",
                mirror.flush_lsn and mr.lsn_text(mirror.flush_lsn) or "nothing")
        end
        return mirror
    end)
end

local function arm_primary(ctx, pair, conns, armed)
    local done, err = ctx.agents:order(pair.primary, "arm", {
        epoch = armed.epoch, name = armed.name, slot = instance.slot_name(pair.mirror),
        max_lag_bytes = armed.settings.arm_lag_bytes,
    }, { timeout_ms = ARM_DEADLINE_MS })
    if not done then
        return nil, err
    end
    local insert_lsn
    insert_lsn, err = mr.lsn(done.insert_lsn)
    if not insert_lsn then
        return nil, err
    end
    local mirror
    mirror, err = wait_flushed(conns, pair, armed.name, insert_lsn)
    if not mirror then
        return nil, err
    end
    armed.told = true
    return ctx.cat:call("in_sync", armed.token, pair.content, armed.epoch, {
        name = armed.name, insert_lsn = done.insert_lsn, flush_lsn = mr.lsn_text(mirror.flush_lsn),
        waited_ms = done.waited_ms, replay_lag_bytes = mirror.replay_lag_bytes,
        timeline = armed.timeline,
    })
end

-- Nobody shall wait for a mirror that the catalog does not promise to have everything. Whether the
-- catalog has taken the promise is not known when its answer was lost: then it is recorded first
-- that the pair is not in sync, and while that cannot be recorded commits go on waiting.
local function disarm(ctx, pair, armed)
    if armed.told then
        local recorded, err = hosts_record.out_of_sync(ctx, pair,
            { token = armed.token, reason = "arming was not finished" })
        if not recorded then
            return nil, err
        end
    end
    return ctx.agents:order(pair.primary, "release", { epoch = armed.epoch })
end

local function arm(ctx, pair, conns, armed)
    local seen, err = check(conns, pair, armed.settings)
    if not seen then
        return nil, err
    end
    armed.epoch, err = ctx.cat:call("epoch_reserve", armed.token, pair.content, "arm")
    if not armed.epoch then
        return nil, err
    end
    armed.name = instance.stream_name(pair.mirror, armed.epoch)
    local named
    named, err = ctx.agents:order(pair.mirror, "name", { epoch = armed.epoch, name = armed.name })
    if not named then
        return nil, err
    end
    seen, err = wait_named(conns, pair, armed.name, armed.settings)
    if not seen then
        return nil, err
    end
    armed.timeline = seen.mirror.timeline
    local epoch
    epoch, err = arm_primary(ctx, pair, conns, armed)
    if not epoch then
        local released, release_err = disarm(ctx, pair, armed)
        if not released and release_err.code ~= "stale" then
            err = mr.error(err.code,
                ("%s; and the primary could not be released: %s"):format(err.message,
                release_err.message), { instance = err.instance, cause = err })
        end
        return nil, err
    end
    hosts_record.in_sync(ctx, pair, epoch)
    return true
end

--- Runs fn(conns) with a session on each of the two, conns.primary and conns.mirror.
---@param ctx table {env}
---@param pair {primary: table, mirror: table}
---@param fn function
---@return any ok what fn returned
---@return Error? err
function M.with_both(ctx, pair, fn)
    local conns = {}
    local err, ok
    conns.primary, err = connect(ctx, pair.primary)
    if conns.primary then
        conns.mirror, err = connect(ctx, pair.mirror)
    end
    if conns.mirror then
        ok, err = fn(conns)
    end
    for _, conn in pairs(conns) do
        conn:close()
    end
    return ok, err
end

--- Whether the mirror streams and could be promoted now; asks until it is so, at most for so long.
---@param ctx table {env}
---@param pair {content: integer, primary: table, mirror: table}
---@param replay_lag_bytes number how far its replay may be behind
---@param deadline_ms number
---@return boolean? ok
---@return Error? err
function M.fit(ctx, pair, replay_lag_bytes, deadline_ms)
    local bounds = setmetatable({ replay_lag_bytes = replay_lag_bytes },
        { __index = ctx.settings or sight.settings })
    return M.with_both(ctx, pair, function(conns)
        return wait.eventually(deadline_ms, PAUSE_MS, function()
            local seen, err = check(conns, pair, bounds)
            return seen and true, err
        end)
    end)
end

--- Brings a pair in sync. Fails without a trace but for an epoch when the mirror does not stream,
--- is too far behind, or could not be promoted; the caller tries again later.
---@param ctx table {env, cat, agents}
---@param pair {content: integer, primary: table, mirror: table}
---@param token? integer the content's lease; nil for the watcher
---@return boolean? ok
---@return Error? err
function M.arm(ctx, pair, token)
    return M.with_both(ctx, pair, function(conns)
        return arm(ctx, pair, conns,
            { token = token, settings = ctx.settings or sight.settings })
    end)
end

--- Arms as soon as it can be done, at most for so long; what a copy has just made is still catching
--- up.
---@param ctx table
---@param pair table
---@param token? integer
---@param deadline_ms number
---@return boolean? ok
---@return Error? err
function M.arm_within(ctx, pair, token, deadline_ms)
    return wait.eventually(deadline_ms, AGAIN_MS, function()
        return M.arm(ctx, pair, token)
    end)
end

return M
