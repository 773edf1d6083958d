--- The facts for machines: `state --json`. Pure.
local cluster = require("lib.cluster")
local judge = require("lib.state.judge")
local mr = require("moonrise")

local M = {}

local COLUMNS = { "dbid", "content", "role", "preferred_role", "mode", "status", "port", "hostname",
    "address", "datadir" }

local function error_text(...)
    for _, err in ipairs({ ... }) do
        if err then
            return err.message
        end
    end
    return nil
end

local function instance(facts, pair, inst)
    local seen = facts.seen[inst.dbid] or {}
    local sql = seen.sql or {}
    local row = {}
    for _, key in ipairs(COLUMNS) do
        row[key] = inst[key]
    end
    if not facts.quick then
        row.answer = judge.status(facts, inst)
        row.data_state = pair.mirror and judge.data_state(facts, pair) or nil
        row.pid = judge.pid(seen)
        row.version = sql.server_version
        row.in_recovery = sql.in_recovery
        row.write_lsn = sql.write_lsn and judge.lsn(sql.write_lsn)
        row.replay_lsn = sql.replay_lsn and judge.lsn(sql.replay_lsn)
        row.recovery = seen.word and seen.word.patch or nil
        row.error = error_text(seen.sql_error, seen.word_error)
    end
    if inst.role == "p" then
        row.bytes_behind = judge.behind(facts, pair)
    end
    return row
end

--- The result as a table of plain data.
---@param facts StateFacts
---@return table
function M.of(facts)
    local list = {}
    for _, pair in ipairs(cluster.pairs(facts.instances)) do
        table.insert(list, instance(facts, pair, pair.primary))
        if pair.mirror then
            table.insert(list, instance(facts, pair, pair.mirror))
        end
    end
    local problems = judge.problems(facts)
    return {
        cluster = facts.cluster.name, epoch = facts.cluster.epoch, source = facts.source,
        coordinator_error = facts.coordinator_error, ok = #problems == 0, instances = list,
        problems = mr.json_array(problems), leases = mr.json_array(facts.leases),
        pauses = mr.json_array(facts.pauses), left = mr.json_array(facts.left),
    }
end

return M
