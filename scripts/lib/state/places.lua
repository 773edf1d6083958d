--- `state -p` and `state -i`: the ports of all instances, and their versions. Pure.
local cluster = require("lib.cluster")
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")

local M = {}

-- The instance that prefers to be primary first, as the samples have them.
local function both(pair)
    if not pair.mirror then
        return { pair.primary }
    elseif pair.primary.preferred_role == "p" then
        return { pair.primary, pair.mirror }
    end
    return { pair.mirror, pair.primary }
end

--- The lines of -p.
---@param facts StateFacts
---@return StateLine[]
function M.ports(facts)
    local coordinator, segments = judge.split(facts)
    local out = sheet.new()
    out:text(("-Coordinator segment instance  %s  port = %d")
        :format(coordinator.primary.datadir, coordinator.primary.port))
    out:text("-Segment instance port assignments")
    out:rule(34)
    out:row({ "Host", "Datadir", "Port" })
    for _, pair in ipairs(segments) do
        for _, inst in ipairs(both(pair)) do
            out:row({ inst.hostname, inst.datadir, inst.port })
        end
    end
    return out:lines()
end

local function version_of(facts, inst)
    local sql = (facts.seen[inst.dbid] or {}).sql
    return sql and (sql.version:gsub(" on .*$", "")) or nil
end

local function verdict(found, missing)
    if missing > 0 then
        return sheet.warn("Unable to retrieve version data from all segments.")
    elseif #found > 1 then
        return sheet.warn("Versions for some segments do not match.  Review table above for " ..
            "details.")
    end
    return sheet.info("All segments are running the same software version")
end

--- The lines of -i.
---@param facts StateFacts
---@return StateLine[]
function M.versions(facts)
    local out = sheet.new()
    local seen, found, missing = {}, {}, 0
    out:text("Loading version information")
    out:row({ "Host", "Datadir", "Port", "Version" })
    for _, pair in ipairs(cluster.pairs(facts.instances)) do
        for _, inst in ipairs(both(pair)) do
            local version = version_of(facts, inst)
            out:row({ inst.hostname, inst.datadir, inst.port,
                      version or "unable to retrieve version" }, not version)
            missing = missing + (version and 0 or 1)
            if version and not seen[version] then
                seen[version] = true
                table.insert(found, version)
            end
        end
    end
    local lines = out:lines()
    table.insert(lines, verdict(found, missing))
    return lines
end

return M
