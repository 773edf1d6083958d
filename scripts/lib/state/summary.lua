--- `state -b`: the summary. Pure.
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")

local M = {}

local RULE = 52

-- Counts both ways of one question: how many instances lack it (marked when there are any), how
-- many do not.
local function both(out, instances, label, has)
    local found = 0
    for _, inst in ipairs(instances) do
        if has(inst) then
            found = found + 1
        end
    end
    local missing = #instances - found
    out:pair(label .. " missing", missing, missing > 0)
    out:pair(label .. " found", found)
end

local function word_of(facts, inst)
    return (facts.seen[inst.dbid] or {}).word or {}
end

local function processes(out, facts, instances)
    both(out, instances, "Total number of postmaster.pid files", function(inst)
        return word_of(facts, inst).postmaster ~= nil
    end)
    both(out, instances, "Total number of postmaster.pid PIDs", function(inst)
        local postmaster = word_of(facts, inst).postmaster
        return postmaster ~= nil and postmaster.pid > 0
    end)
    both(out, instances, "Total number of /tmp lock files", function(inst)
        local postmaster = word_of(facts, inst).postmaster
        return postmaster ~= nil and postmaster.socket_lock ~= false
    end)
    both(out, instances, "Total number postmaster processes", function(inst)
        return judge.pid(facts.seen[inst.dbid]) ~= nil
    end)
end

local function validity(out, facts, instances, word)
    local failures = 0
    for _, inst in ipairs(instances) do
        if judge.status(facts, inst) ~= "Up" then
            failures = failures + 1
        end
    end
    out:pair(("Total %s segments"):format(word), #instances)
    out:pair(("Total %s segment valid (at coordinator)"):format(word), #instances - failures)
    out:pair(("Total %s segment failures (at coordinator)"):format(word), failures, failures > 0)
end

local function heading(out, text)
    out:rule(RULE)
    out:row({ text })
    out:rule(RULE)
end

local function coordinator(out, facts)
    local pair = judge.split(facts)
    local active = facts.source == "coordinator" and pair
        and judge.status(facts, pair.primary) == "Up"
    out:pair("Coordinator instance", active and "Active" or "DOWN", not active)
    local standby = pair and pair.mirror
    if not standby then
        out:pair("Coordinator standby", "No coordinator standby configured")
    else
        local state, good = judge.standby_state(facts, standby)
        out:pair("Coordinator standby", standby.hostname)
        out:pair("Standby coordinator state", state, not good)
    end
    local total = #judge.preferring(facts, "p") + #judge.preferring(facts, "m")
    out:pair("Total segment instance count from metadata", total)
end

local function mirrors(out, facts)
    local instances = judge.preferring(facts, "m")
    heading(out, "Mirror Segment Status")
    if #instances == 0 then
        out:row({ "Mirrors not configured on this array" })
        return
    end
    validity(out, facts, instances, "mirror")
    processes(out, facts, instances)
    local acting = 0
    for _, inst in ipairs(instances) do
        acting = acting + (inst.role == "p" and 1 or 0)
    end
    out:pair("Total number mirror segments acting as primary segments", acting, acting > 0)
    out:pair("Total number mirror segments acting as mirror segments", #instances - acting)
end

--- The view's lines.
---@param facts StateFacts
---@return StateLine[]
function M.lines(facts)
    local out = sheet.new()
    out:text("Greenplum instance status summary")
    out:rule(RULE)
    coordinator(out, facts)
    heading(out, "Primary Segment Status")
    local primaries = judge.preferring(facts, "p")
    validity(out, facts, primaries, "primary")
    processes(out, facts, primaries)
    mirrors(out, facts)
    out:rule(RULE)
    return out:lines()
end

return M
