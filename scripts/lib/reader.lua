--- Reading the catalog wherever it still is: from the coordinator, else from the standby
--- coordinator.
---
--- Where the standby is cannot be asked of a coordinator that is gone, so the rows that were last
--- read are kept in the state directory; they are used for that, and to stop a cluster whose
--- coordinator hangs.
local catalog = require("lib.catalog")
local home = require("lib.home")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local FILE = "instances.json"

---@class Reader
---@field env Env
---@field cat table lib/catalog.lua's object; of a standby it only reads
---@field source "coordinator"|"standby"
---@field coordinator_error? Error why the coordinator could not be asked

local function path(env)
    return env.name and ("%s/%s"):format(home.state_dir(env.name), FILE)
end

--- Keeps the catalog's rows for the day on which there is no coordinator.
---@param env Env
---@param instances table[]
function M.remember(env, instances)
    local file = path(env)
    local text = mr.json_encode(instances)
    if file and mr.read_file(file) ~= text then
        mr.write_file(file, text)
    end
end

local COLUMNS = { dbid = "number", content = "number", role = "string", port = "number",
                  hostname = "string", address = "string", datadir = "string" }

-- What is in the file was written by us, but a file is a file.
local function is_row(row)
    for name, kind in pairs(COLUMNS) do
        if type(row) ~= "table" or type(row[name]) ~= kind then
            return false
        end
    end
    return true
end

--- The rows that were kept last; roles may have changed since.
---@param env Env
---@return table[] instances
function M.remembered(env)
    local text = path(env) and mr.read_file(path(env))
    local rows = text and mr.json_decode(text)
    local found = {}
    for _, row in ipairs(type(rows) == "table" and rows or {}) do
        if is_row(row) then
            table.insert(found, row)
        end
    end
    return found
end

local function in_recovery(cat)
    local rows, err = cat:query("select pg_is_in_recovery() as recovering")
    if not rows then
        return nil, err
    end
    return { recovering = rows[1].recovering }
end

local function open(env, timeout_ms)
    local cat, err = catalog.open(env, { timeout_ms = timeout_ms })
    if not cat then
        return nil, err
    end
    local answer
    answer, err = in_recovery(cat)
    if not answer then
        cat:close()
        return nil, err
    end
    return { env = env, cat = cat, source = answer.recovering and "standby" or "coordinator" }
end

local function open_at(env, inst, timeout_ms)
    local there = instance.conninfo(env, inst, { dbname = env.dbname })
    for key, value in pairs(env) do
        if there[key] == nil then
            there[key] = value
        end
    end
    there.asks_catalog = nil
    return open(there, timeout_ms)
end

-- The environment named a standby: its coordinator is asked instead, if it answers.
local function from_standby(reader, timeout_ms)
    for _, row in ipairs(reader.cat:instances() or {}) do
        if row.content == -1 and row.role == "p" then
            local other, err = open_at(reader.env, row, timeout_ms)
            if other and other.source == "coordinator" then
                reader.cat:close()
                return other
            end
            reader.coordinator_error = err or mr.error("connect",
                "what answers in the coordinator's place is a standby")
        end
    end
    return reader
end

local function any_standby(env, err, timeout_ms)
    for _, row in ipairs(M.remembered(env)) do
        local reader = row.content == -1 and open_at(env, row, timeout_ms)
        if reader then
            reader.coordinator_error = err
            return reader
        end
    end
    return nil, mr.error(err.code, err.message, { cause = err, sqlstate = err.sqlstate,
        hint = "no standby coordinator answers either; a cluster that is stopped is started by " ..
            "moonrise start" })
end

--- Opens the catalog for reading; waits, at most three times `timeout_ms`.
---@param options {datadir: string?}
---@param timeout_ms number
---@return Reader? reader
---@return Error? err the coordinator's, when no standby answers either
function M.open(options, timeout_ms)
    local env, err = home.find(options)
    if not env then
        return nil, err
    end
    local reader
    reader, err = open(env, timeout_ms)
    if not reader then
        return any_standby(env, err, timeout_ms)
    elseif reader.source == "standby" then
        reader = from_standby(reader, timeout_ms)
    end
    return reader
end

return M
