--- The plan of `init --adopt` for its reader.
local create_plan = require("lib.create_plan")
local instance = require("lib.instance")
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local function print_instances(plan)
    local rows, becomes = {}, {}
    for _, found in ipairs(plan.adopted) do
        becomes[found.inst.dbid] = found.inst.role == "p" and "is adopted as it runs"
            or "its standby is adopted, without a copy"
    end
    for i, inst in ipairs(plan.instances) do
        rows[i] = { inst.dbid, create_plan.role_name(inst), inst.content, inst.hostname, inst.port,
            inst.datadir, becomes[inst.dbid] or "is made by a copy" }
    end
    local headers = { "dbid", "role", "content", "host", "port", "directory", "" }
    for _, line in ipairs(term.table(headers, rows)) do
        term.info("   %s", line)
    end
end

-- The files say '' so that nobody else's start opens it.
local function new_value(found, change)
    if change.name == "listen_addresses" and change.when == "next start" then
        return ("'', and '%s' by moonrise's start"):format(instance.listen(found.inst))
    end
    return "'" .. change.new .. "'"
end

local function print_changes(plan, when, title)
    local rows = {}
    for _, found in ipairs(plan.adopted) do
        for _, change in ipairs(found.changes) do
            if change.when == when then
                table.insert(rows, { found.inst.dbid, change.name, "'" .. change.old .. "'",
                    new_value(found, change) })
            end
        end
    end
    if #rows == 0 then
        return
    end
    term.info("%s", title)
    for _, line in ipairs(term.table({ "dbid", "setting", "now", "then" }, rows)) do
        term.info("   %s", line)
    end
end

local function print_restarts(plan)
    if #plan.restarts == 0 then
        term.info("No instance is restarted")
        return
    end
    for _, found in ipairs(plan.restarts) do
        term.warn("dbid %d (%s) is restarted: its sessions end", found.inst.dbid,
            create_plan.role_name(found.inst))
    end
    print_changes(plan, "restart", "Settings that need the restart:")
end

local function print_others(plan)
    for _, found in ipairs(plan.adopted) do
        for _, replica in ipairs(found.replicas or {}) do
            term.info("Left alone: %s from %s streams from dbid %d%s", replica.name,
                replica.address, found.inst.dbid,
                replica.slot and " by the slot " .. replica.slot or "")
        end
        for _, slot in ipairs(found.slots or {}) do
            term.info("Left alone: the %s slot %s of dbid %d", slot.kind, slot.name,
                found.inst.dbid)
        end
        if found.former_slot then
            term.info("The slot %s, by which dbid %d streams now, is dropped at the end",
                found.former_slot, found.inst.dbid)
        end
    end
end

--- Prints the plan.
---@param plan AdoptPlan
function M.print(plan)
    for _, list in ipairs({ plan.config.warnings, plan.warnings }) do
        for _, warning in ipairs(list) do
            term.warn("%s", warning)
        end
    end
    term.info("Cluster %s with %s from %s, out of servers that run", plan.config.name,
        plan.version, plan.env.bin)
    print_instances(plan)
    term.info("Each primary gets the role moonrise, the coordinator also the database moonrise")
    for _, found in ipairs(plan.adopted) do
        if found.files then
            term.info("The configuration of dbid %d stays in %s", found.inst.dbid,
                found.files.config_file:match("^(.*)/"))
        end
        term.info("pg_hba.conf of dbid %d gets, before its other lines:", found.inst.dbid)
        for _, line in ipairs(found.hba) do
            term.info("   %s", line)
        end
    end
    print_changes(plan, "reload", "Settings changed at once, by moonrise.conf:")
    print_changes(plan, "next start", "Settings from the next start on:")
    print_restarts(plan)
    print_others(plan)
end

--- The plan as a table for --json.
---@param plan AdoptPlan
---@return table
function M.table(plan)
    local adopted, made, restarts = {}, {}, {}
    for i, found in ipairs(plan.adopted) do
        adopted[i] = { dbid = found.inst.dbid, hba = found.hba,
            changes = mr.json_array(found.changes),
            replicas = mr.json_array(found.replicas or {}),
            slots = mr.json_array(found.slots or {}), former_slot = found.former_slot }
    end
    for i, one in ipairs(plan.made) do
        made[i] = one.inst.dbid
    end
    for i, found in ipairs(plan.restarts) do
        restarts[i] = found.inst.dbid
    end
    return { name = plan.config.name, instances = plan.instances,
             adopted = mr.json_array(adopted), made = mr.json_array(made),
             restarts = mr.json_array(restarts), warnings = mr.json_array(plan.warnings) }
end

-- Disk space comes and goes; the bound of slots that follows from it is not worth a refusal.
local function without_bound(plan)
    local shown = M.table(plan)
    for _, one in ipairs(shown.adopted) do
        local changes = {}
        for _, change in ipairs(one.changes) do
            if change.name ~= "max_slot_wal_keep_size" then
                table.insert(changes, change)
            end
        end
        one.changes = changes
    end
    return shown
end

local function equal(one, other)
    if type(one) ~= "table" or type(other) ~= "table" then
        return one == other
    end
    for key, value in pairs(one) do
        if not equal(value, other[key]) then
            return false
        end
    end
    for key in pairs(other) do
        if one[key] == nil then
            return false
        end
    end
    return true
end

--- Whether two plans show their reader the same.
---@param plan AdoptPlan
---@param other AdoptPlan
---@return boolean
function M.same(plan, other)
    return equal(without_bound(plan), without_bound(other))
end

return M
