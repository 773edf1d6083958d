--- What a cluster.lua may hold: a description per key, and the walk that compares.
---
--- Every problem is told with its path (`segments[2].mirror.port`). Pure: no files, no network.
local hooks = require("lib.hooks")
local sight = require("lib.sight")

local M = {}

local function is_text(value)
    return type(value) == "string" and value ~= "" and not value:find("[%z\1-\31]")
end

local function is_whole(value)
    return type(value) == "number" and value == math.floor(value)
end

local kinds = {}

function kinds.name(value)
    return is_text(value) and #value <= 40 and value:match("^[%a][%w_-]*$") ~= nil,
        "a name of letters, digits, _ and -, at most 40"
end

function kinds.host(value)
    return is_text(value) and #value <= 255 and value:match("^[%w][%w._:-]*$") ~= nil
        or value == "::1", "a host name or address"
end

function kinds.port(value)
    return is_whole(value) and value >= 1 and value <= 65535, "a port from 1 to 65535"
end

-- Data directories are named in places that know no quoting.
function kinds.path(value)
    return is_text(value) and value:match("^/[^'\"\\|:]+$") ~= nil
        and not (value .. "/"):find("/%.%.?/"),
        "an absolute path without quotes, backslash, |, : or .."
end

function kinds.verify(value)
    return value == "full" or value == "ca", '"full" or "ca"'
end

function kinds.text(value)
    return is_text(value), "a text"
end

function kinds.positive(value)
    return type(value) == "number" and value > 0 and value < 2 ^ 53, "a number above 0"
end

function kinds.scalar(value)
    local kind = type(value)
    return (kind == "string" and is_text(value)) or kind == "number" or kind == "boolean",
        "a text, a number, true or false"
end

function kinds.event(value)
    return hooks.is_kind(value), "one of " .. table.concat(hooks.kinds, ", ")
end

local PLACE = {
    fields = {
        host = { kind = "host", required = true },
        address = { kind = "host" },
        port = { kind = "port", required = true },
        datadir = { kind = "path", required = true },
    },
}

local function required(schema)
    return { fields = schema.fields, required = true }
end

local function watch_fields()
    local fields = {
        interval_ms = { kind = "positive" }, timeout_ms = { kind = "positive" },
    }
    for name in pairs(sight.settings) do
        fields[name] = { kind = "positive" }
    end
    return fields
end

M.schema = {
    fields = {
        name = { kind = "name", required = true },
        pg = { fields = {
            bin = { kind = "path" },
            settings = { map = "scalar", keys = "^[%a_][%w_.]*$" },
            locale = { kind = "text" },
            encoding = { kind = "text" },
        } },
        coordinator = required(PLACE),
        standby = PLACE,
        segments = { required = true, list = { fields = {
            primary = required(PLACE), mirror = PLACE,
        } } },
        hba = { list = { kind = "text" } },
        tls = { fields = {
            cert = { kind = "path", required = true },
            key = { kind = "path", required = true },
            ca = { kind = "path" }, verify = { kind = "verify" },
        } },
        fdw = { fields = { databases = { list = { kind = "name" } } } },
        policies = { fields = {
            failover = { kind = "path" }, recovery = { kind = "path" },
            rebalance = { kind = "path" },
        } },
        on_event = { list = { fields = {
            run = { kind = "path", required = true }, kinds = { list = { kind = "event" } },
            timeout_ms = { kind = "positive" },
        } } },
        watch = { fields = watch_fields() },
    },
}

local function add(problems, path, text)
    table.insert(problems, ("%s: %s"):format(path == "" and "the file" or path, text))
end

local function key_text(key)
    return type(key) == "string" and key or ("[%s]"):format(tostring(key))
end

local function sorted_keys(value)
    local keys = {}
    for key in pairs(value) do
        table.insert(keys, key)
    end
    table.sort(keys, function(a, b)
        return key_text(a) < key_text(b)
    end)
    return keys
end

local function join(path, key)
    return path == "" and key_text(key) or path .. (type(key) == "string" and "." or "") ..
        key_text(key)
end

-- Two words that differ in one letter, one letter more, or two that changed places.
local function alike(a, b)
    if #a > #b then
        a, b = b, a
    end
    local i = 1
    while i <= #a and a:byte(i) == b:byte(i) do
        i = i + 1
    end
    if #a < #b then
        return #b == #a + 1 and a:sub(i) == b:sub(i + 1)
    end
    return a:sub(i + 1) == b:sub(i + 1)
        or (a:sub(i, i + 1):reverse() == b:sub(i, i + 1) and a:sub(i + 2) == b:sub(i + 2))
end

-- The known key that somebody probably meant.
local function meant(fields, key)
    for _, known in ipairs(sorted_keys(fields)) do
        if alike(key, known) then
            return (" (%s?)"):format(known)
        end
    end
    return ""
end

local walk

local function walk_fields(problems, path, value, schema)
    for _, key in ipairs(sorted_keys(value)) do
        if type(key) ~= "string" or not schema.fields[key] then
            add(problems, join(path, key), "unknown key" ..
                (type(key) == "string" and meant(schema.fields, key) or ""))
        end
    end
    for _, key in ipairs(sorted_keys(schema.fields)) do
        walk(problems, join(path, key), value[key], schema.fields[key])
    end
end

local function walk_list(problems, path, value, schema)
    local keys = sorted_keys(value)
    for _, key in ipairs(keys) do
        if not is_whole(key) or key < 1 or key > #keys then
            add(problems, join(path, key), "is no place in a list without holes")
        end
    end
    for i, item in ipairs(value) do
        walk(problems, ("%s[%d]"):format(path, i), item, schema.list)
    end
end

local function walk_map(problems, path, value, schema)
    for _, key in ipairs(sorted_keys(value)) do
        if type(key) ~= "string" or not key:match(schema.keys) then
            add(problems, join(path, key), "is no name of a setting")
        else
            walk(problems, join(path, key), value[key], { kind = schema.map })
        end
    end
end

walk = function(problems, path, value, schema)
    if value == nil then
        if schema.required then
            add(problems, path, "is missing")
        end
        return
    elseif schema.kind then
        local good, wanted = kinds[schema.kind](value)
        if not good then
            local shown = type(value) == "table" and "a table" or ("'%s'"):format(tostring(value))
            add(problems, path, ("wants %s, not %s"):format(wanted, shown))
        end
    elseif type(value) ~= "table" then
        add(problems, path, ("wants a table, not '%s'"):format(tostring(value)))
    elseif schema.fields then
        walk_fields(problems, path, value, schema)
    elseif schema.list then
        walk_list(problems, path, value, schema)
    else
        walk_map(problems, path, value, schema)
    end
end

--- Compares a value with the schema of cluster.lua.
---@param value any
---@return string[] problems each with its path; empty when there is none
function M.check(value)
    local problems = {}
    if type(value) ~= "table" then
        add(problems, "", "returns no table")
    else
        walk(problems, "", value, M.schema)
    end
    return problems
end

return M
