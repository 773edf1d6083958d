--- `state -m` and `state -c`: mirrors, and pairs of primary and mirror. Pure.
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")

local M = {}

local RULE = 61

-- A pair by preference: [1] prefers to be primary, [2] to be mirror, whatever their roles are.
local function preferred(pair)
    if pair.primary.preferred_role == "p" then
        return pair.primary, pair.mirror
    end
    return pair.mirror, pair.primary
end

local function mirrored(facts)
    local _, segments = judge.split(facts)
    local found = {}
    for _, pair in ipairs(segments) do
        if pair.mirror then
            table.insert(found, pair)
        end
    end
    return found
end

-- Group: the mirrors of a host's primaries are all on one host; else Spread.
local function layout(pairs_list)
    local to = {}
    for _, pair in ipairs(pairs_list) do
        local primary, mirror = preferred(pair)
        if to[primary.hostname] and to[primary.hostname] ~= mirror.hostname then
            return "Spread"
        end
        to[primary.hostname] = mirror.hostname
    end
    return "Group"
end

local function head(pairs_list)
    return {
        sheet.info(("-"):rep(RULE)),
        sheet.info("-Current GPDB mirror list and status"),
        sheet.info("-Type = " .. layout(pairs_list)),
        sheet.info(("-"):rep(RULE)),
    }
end

local function none()
    return { sheet.info(("-"):rep(RULE)), sheet.info("-Physical mirroring is not configured"),
             sheet.info(("-"):rep(RULE)) }
end

local function warn_count(lines, count, text)
    if count > 0 then
        table.insert(lines, sheet.warn(text:format(count)))
    end
end

local function mirror_status(facts, inst)
    if inst.role == "p" then
        return judge.status(facts, inst) == "Up" and "Acting as Primary" or "Failed"
    end
    return judge.status(facts, inst) == "Up" and "Passive" or "Failed"
end

--- The lines of -m.
---@param facts StateFacts
---@return StateLine[]
function M.list(facts)
    local found = mirrored(facts)
    if #found == 0 then
        return none()
    end
    local out, acting, failed, behind = sheet.new(), 0, 0, 0
    out:row({ "Mirror", "Datadir", "Port", "Status", "Data Status" })
    for _, pair in ipairs(found) do
        local _, inst = preferred(pair)
        local status, data = mirror_status(facts, inst), judge.data_state(facts, pair)
        out:row({ inst.hostname, inst.datadir, inst.port, status, data }, status == "Failed")
        acting = acting + (inst.role == "p" and 1 or 0)
        failed = failed + (status == "Failed" and 1 or 0)
        behind = behind + (inst.role == "p" and data ~= "Synchronized" and 1 or 0)
    end
    local lines = sheet.append(head(found), out:lines())
    table.insert(lines, sheet.info(("-"):rep(RULE)))
    warn_count(lines, acting, "%d segment(s) configured as mirror(s) are acting as primaries")
    warn_count(lines, failed, "%d segment(s) configured as mirror(s) have failed")
    warn_count(lines, behind, "%d mirror segment(s) acting as primaries are not synchronized")
    return lines
end

-- "Primary Active, Mirror Available": who serves, and whether the other one is there.
local function pair_status(facts, pair)
    local active, other = "Primary", "Mirror"
    if pair.primary.preferred_role == "m" then
        active, other = other, active
    end
    local serves = judge.status(facts, pair.primary) == "Up"
    local there = judge.status(facts, pair.mirror) == "Up"
    return ("%s %s, %s %s"):format(active, serves and "Active" or "Failed", other,
        there and "Available" or "Failed"), serves and there
end

--- The lines of -c.
---@param facts StateFacts
---@return StateLine[]
function M.pairs(facts)
    local found = mirrored(facts)
    if #found == 0 then
        return none()
    end
    local out, acting, behind = sheet.new(), 0, 0
    out:row({ "Status", "Data State", "Primary", "Datadir", "Port", "Mirror", "Datadir", "Port" })
    for _, pair in ipairs(found) do
        local primary, mirror = preferred(pair)
        local status, good = pair_status(facts, pair)
        local data = judge.data_state(facts, pair)
        out:row({ status, data, primary.hostname, primary.datadir, primary.port, mirror.hostname,
                  mirror.datadir, mirror.port }, not good)
        acting = acting + (mirror.role == "p" and 1 or 0)
        behind = behind + (data ~= "Synchronized" and 1 or 0)
    end
    local lines = sheet.append(head(found), out:lines())
    table.insert(lines, sheet.info(("-"):rep(RULE)))
    warn_count(lines, acting, "%d segment(s) configured as mirror(s) are acting as primaries")
    warn_count(lines, behind, "%d primary segment(s) are not synchronized")
    return lines
end

return M
