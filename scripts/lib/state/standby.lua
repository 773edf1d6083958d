--- `state -f`: the standby coordinator and the WAL sender that feeds it. Pure.
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")

local M = {}

local RULE, DETAILS_RULE = 61, 22

local function details(facts, standby)
    local out = sheet.new()
    local pid, unknown = judge.pid_text(facts.seen[standby.dbid])
    local state, good = judge.standby_state(facts, standby)
    out:text("Standby coordinator details")
    out:rule(DETAILS_RULE)
    out:pair("Standby address", standby.address)
    out:pair("Standby data directory", standby.datadir)
    out:pair("Standby port", standby.port)
    out:pair("Standby PID", pid, unknown)
    out:pair("Standby status", state, not good)
    return out:lines()
end

local function sender(facts, pair)
    local rule = sheet.info(("-"):rep(RULE))
    local lines = { rule, sheet.info("-pg_stat_replication"), rule }
    local peer = judge.peer(facts, pair)
    if not peer then
        table.insert(lines, sheet.info("No entries found."))
    else
        for _, item in ipairs({
            { "WAL Sender State", peer.state }, { "Sync state", peer.sync },
            { "Sent Location", judge.lsn(peer.sent_lsn) },
            { "Flush Location", judge.lsn(peer.flush_lsn) },
            { "Replay Location", judge.lsn(peer.replay_lsn) },
        }) do
            table.insert(lines, sheet.info(("-%s: %s"):format(item[1], item[2] or "Unknown")))
        end
    end
    table.insert(lines, rule)
    return lines
end

--- The view's lines.
---@param facts StateFacts
---@return StateLine[]
function M.lines(facts)
    local pair = judge.split(facts)
    if not pair or not pair.mirror then
        return { sheet.info("No coordinator standby configured") }
    end
    return sheet.append(details(facts, pair.mirror), sender(facts, pair))
end

return M
