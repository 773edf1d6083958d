--- What of a running instance's settings an adoption changes, and when that takes effect. Pure.
local settings = require("lib.settings")

local M = {}

-- What moonrise needs beside what others use: a mirror, one more while it changes, and the agent's.
local SENDERS, SLOTS = 3, 2
local ROOM = 10

-- Whoever starts the server from its files alone finds it closed; while it runs on nothing is
-- changed by them.
local AT_NEXT_START = { listen_addresses = true, unix_socket_directories = true,
    hot_standby = true, port = true }

-- On a command line, but of no use in moonrise.conf.
local NOT_KEPT = { data_directory = true, config_file = true, hba_file = true, ident_file = true }

-- A standby with a lower one shuts down when it is promoted.
M.AT_LEAST_THE_PRIMARYS = { "max_connections", "max_worker_processes", "max_wal_senders",
    "max_prepared_transactions", "max_locks_per_transaction" }

local UNITS = { B = 1, kB = 2 ^ 10, MB = 2 ^ 20, GB = 2 ^ 30, TB = 2 ^ 40, us = 0.001, ms = 1,
    s = 1000, min = 60000, h = 3600000, d = 86400000 }

local BOOLEANS = { on = "on", off = "off", ["true"] = "on", ["false"] = "off", yes = "on",
    no = "off", ["1"] = "on", ["0"] = "off" }

--- Whether standbys need at least as much of a setting as their primary has.
---@param name string
---@return boolean
function M.standbys_need(name)
    for _, one in ipairs(M.AT_LEAST_THE_PRIMARYS) do
        if one == name then
            return true
        end
    end
    return false
end

-- A number with its unit, or with the setting's own, in the smallest unit of its kind.
local function quantity(text, unit)
    local number, named = text:match("^%s*(%-?[%d.]+)%s*(%a*)%s*$")
    number = tonumber(number)
    if not number then
        return text
    elseif number < 0 then
        return number
    elseif named == "" then
        local count, base = (unit or ""):match("^(%d*)(%a*)$")
        return number * (tonumber(count) or 1) * (UNITS[base] or 1)
    end
    return UNITS[named] and number * UNITS[named] or text
end

--- Whether a setting has a value already, whatever unit that is written in.
---@param now {setting: string, unit: string?, kind: string}
---@param value any
---@return boolean
function M.is(now, value)
    local text = tostring(value)
    if now.kind == "bool" then
        return BOOLEANS[text:lower()] == now.setting
    elseif now.kind == "integer" or now.kind == "real" then
        return quantity(text, now.unit) == quantity(now.setting, now.unit)
    elseif now.kind == "enum" then
        return text:lower() == now.setting
    end
    return text == now.setting
end

local function number(facts, name)
    return tonumber(facts.settings[name].setting)
end

local function at_least(wanted, facts, name, needed)
    if number(facts, name) < needed then
        wanted[name] = math.max(ROOM, needed)
    end
end

-- What every instance needs, unless it has it.
local function needs(wanted, facts, slot_bound)
    local now = facts.settings
    if now.wal_level.setting == "minimal" then
        wanted.wal_level = "replica"
    end
    at_least(wanted, facts, "max_wal_senders", #facts.replicas + SENDERS)
    at_least(wanted, facts, "max_replication_slots", #facts.slots + SLOTS)
    if now.full_page_writes.setting == "off" then
        wanted.full_page_writes = true
    end
    if now.wal_retrieve_retry_interval.source == "default" then
        wanted.wal_retrieve_retry_interval = settings.DEFAULTS.wal_retrieve_retry_interval
    end
    -- Other people's slots are not bounded for them.
    if now.max_slot_wal_keep_size.setting == "-1" and #facts.slots == 0 then
        wanted.max_slot_wal_keep_size = slot_bound
    end
end

--- What a server was given at its start and has in no file: by its command line, and its port by
--- PGPORT.
---@param facts table lib/adopt_look.lua's
---@return table<string, string>
function M.command_line(facts)
    local line = {}
    for name, now in pairs(facts.settings) do
        if now.source == "command line" and not NOT_KEPT[name]
            or name == "port" and now.source == "environment variable" then
            line[name] = now.shown
        end
    end
    return line
end

local function raise(wanted, facts, primary)
    for _, name in ipairs(M.AT_LEAST_THE_PRIMARYS) do
        local needed = tonumber(primary.wanted[name] or primary.facts.settings[name].setting)
        if needed and (tonumber(wanted[name]) or number(facts, name)) < needed then
            wanted[name] = needed
        end
    end
end

--- The settings that an adopted instance has in its moonrise.conf.
---@param config Config
---@param inst table
---@param facts table lib/adopt_look.lua's
---@param more {room: table, primary: table?} room as settings.instance's; of a standby its primary
---@return table<string, any>
function M.wanted(config, inst, facts, more)
    -- A server that is started by its agent is given nothing on its command line but the addresses.
    local wanted = M.command_line(facts)
    needs(wanted, facts, settings.slot_bound(more.room.free_bytes, more.room.instances))
    settings.complete(wanted, config, inst)
    if more.primary then
        raise(wanted, facts, more.primary)
    end
    return wanted
end

local function when(name, now)
    if AT_NEXT_START[name] then
        return "next start"
    elseif now.context == "postmaster" then
        return "restart"
    end
    return "reload"
end

--- The settings that have another value now: {name, old, new, when = "reload" | "restart" |
--- "next start"}, ordered by name.
---@param facts table
---@param wanted table<string, any>
---@return table[] changes
---@return string[] problems settings that cannot have the value that is wanted
function M.changes(facts, wanted)
    local list, problems = {}, {}
    for name, value in pairs(wanted) do
        local now = facts.settings[name]
        if not now and not name:find(".", 1, true) then
            table.insert(problems, ("this server knows no setting %s"):format(name))
        elseif not now then
            table.insert(list, { name = name, old = "", new = tostring(value), when = "reload" })
        elseif now.context == "internal" and not M.is(now, value) then
            table.insert(problems, ("%s is %s and cannot be changed"):format(name, now.setting))
        elseif not M.is(now, value) then
            local new = value == true and "on" or value == false and "off" or tostring(value)
            table.insert(list, { name = name, old = now.shown, new = new, when = when(name, now) })
        end
    end
    table.sort(list, function(a, b)
        return a.name < b.name
    end)
    table.sort(problems)
    return list, problems
end

return M
