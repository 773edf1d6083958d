--- Whether a mirror streams, by its primary's word.
---
--- A receiver calls itself streaming before its primary has looked for the WAL that it asks for. So
--- the word is the primary's: whether it keeps that WAL, and what the holder of the slot does.
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local PATIENCE_MS = 20000
local ASK_MS = 5000
local PAUSE_MS = 50

local SQL = [[
select r.wal_status, r.restart_lsn is not null as reserved, s.state, s.flush_lsn
from pg_replication_slots r left join pg_stat_replication s on s.pid = r.active_pid
where r.slot_name = $1 and r.slot_type = 'physical']]

-- Of the slot's row, or {} without a slot.
local function problem_of(row, slot)
    if row.reserved == nil then
        return "its primary has no slot " .. slot
    elseif row.wal_status == "lost" or not row.reserved then
        return "its primary has removed WAL that it still needs"
    end
    return nil
end

--- Why the primary cannot stream to this mirror, or nil when it keeps what the mirror needs.
---@param ctx table {env}
---@param primary table
---@param mirror table
---@return string? problem
---@return Error? err the primary does not answer
function M.slot_problem(ctx, primary, mirror)
    local slot = instance.slot_name(mirror)
    local row, err = instance.ask(ctx.env, primary, SQL, { slot }, ASK_MS)
    if err then
        return nil, err
    end
    return problem_of(row or {}, slot)
end

--- Whether somebody streams from a slot now.
---@param ctx table {env}
---@param primary table
---@param slot string
---@return boolean
function M.holds(ctx, primary, slot)
    local row = instance.ask(ctx.env, primary, SQL, { slot }, ASK_MS)
    return row ~= nil and row.state ~= nil and problem_of(row, slot) == nil
end

local function refuse(mirror, message)
    return nil, mr.error("refused", message, { instance = cluster.name(mirror),
        hint = "moonrise recoverseg --differential copies what differs" })
end

local function confirm(conn, mirror, slot)
    local flushed, deadline = -1, mr.clock() + PATIENCE_MS
    while true do
        local row, err = instance.first_row(conn, SQL, { slot }, ASK_MS)
        row = row or {}
        local problem = problem_of(row, slot)
        if err then
            return nil, err
        elseif problem then
            return refuse(mirror, problem)
        elseif row.state == "streaming" and row.flush_lsn then
            return true
        elseif (row.flush_lsn or -1) > flushed then
            flushed, deadline = row.flush_lsn, mr.clock() + PATIENCE_MS
        elseif mr.clock() > deadline then
            return refuse(mirror, ("it runs and does not stream (%s)"):format(
                row.state or "no WAL sender has its slot"))
        end
        local _, cancelled = mr.sleep(PAUSE_MS)
        if cancelled then
            return nil, cancelled
        end
    end
end

--- Waits until the primary streams to this mirror: the holder of the slot has caught up, and the
--- mirror has said what it has flushed. One that catches up has all the time it needs for as long
--- as it advances.
---@param ctx table {env}
---@param primary table
---@param mirror table
---@param slot? string when it is not the mirror's own
---@return boolean? ok
---@return Error? err
function M.confirm(ctx, primary, mirror, slot)
    local conn, err = mr.connect(instance.conninfo(ctx.env, primary,
        { connect_timeout_ms = ASK_MS }))
    if not conn then
        return nil, err
    end
    local ok
    ok, err = confirm(conn, mirror, slot or instance.slot_name(mirror))
    conn:close()
    return ok, err
end

return M
