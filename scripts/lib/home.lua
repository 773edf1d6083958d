--- Where the cluster is: from -d, the environment, or a connection string, as Greenplum's tools
--- find it.
local mr = require("moonrise")

local M = {}

local VARIABLES = { "COORDINATOR_DATA_DIRECTORY", "MASTER_DATA_DIRECTORY" }
local DESCRIPTION = "moonrise.json"

--- The directory that holds what this user keeps of a cluster on this host (passfile, journal, pid
--- files).
---@param name string the cluster's
---@return string
function M.state_dir(name)
    local base = mr.getenv("XDG_STATE_HOME")
    if not base or base == "" then
        base = mr.whoami().home .. "/.local/state"
    end
    return ("%s/moonrise/%s"):format(base, name)
end

---@class Env
---@field name string the cluster's
---@field user string "moonrise"
---@field passfile string
---@field bin string PostgreSQL's programs
---@field dbname string the catalog's database
---@field datadir? string of the coordinator; nil when found by a connection string
---@field host string how the catalog is reached: the socket's directory, or hosts
---@field port integer
---@field listen? string
---@field sslmode? string
---@field sslrootcert? string
---@field channel_binding? string

local NAME_IT = "name the coordinator's data directory by -d or COORDINATOR_DATA_DIRECTORY"

local function unreadable(datadir, err)
    if err.code == "permission" then
        return mr.error(err.code, ("%s belongs to another user"):format(datadir),
            { cause = err, hint = "run this as the user who owns the cluster's servers" })
    elseif not mr.stat(datadir) then
        return mr.error(err.code, ("there is no directory %s"):format(datadir),
            { cause = err, hint = NAME_IT })
    end
    return mr.error(err.code,
        ("%s is not the data directory of a coordinator that moonrise made"):format(datadir),
        { cause = err, hint = ("it has no readable file %s; %s"):format(DESCRIPTION, NAME_IT) })
end

--- Reads the description that lies in a coordinator's data directory.
---@param datadir string
---@return Env? env
---@return Error? err
function M.read(datadir)
    datadir = datadir:gsub("(.)/+$", "%1")
    local text, err = mr.read_file(datadir .. "/" .. DESCRIPTION)
    if not text then
        return nil, unreadable(datadir, err)
    end
    local env
    env, err = mr.json_decode(text)
    if not env then
        return nil, mr.error("format", ("%s/%s: %s"):format(datadir, DESCRIPTION, err.message))
    end
    for _, key in ipairs({ "name", "user", "passfile", "bin", "port", "socket_dir" }) do
        if env[key] == nil then
            return nil, mr.error("format",
                ("%s/%s does not say %s"):format(datadir, DESCRIPTION, key))
        end
    end
    env.datadir = datadir
    env.dbname = env.dbname or "moonrise"
    env.host = env.socket_dir
    return env
end

--- The description that lies in the data directory of a coordinator, and of its standby.
---@param env table
---@return string text
function M.text(env)
    local kept = {}
    for _, key in ipairs({ "name", "user", "passfile", "bin", "port", "listen", "socket_dir",
                           "dbname", "sslmode", "sslrootcert", "channel_binding" }) do
        kept[key] = env[key]
    end
    return mr.json_encode(kept) .. "\n"
end

-- One word of a connection string from `at`: its value and what follows.
local function conninfo_value(text, at)
    if text:sub(at, at) ~= "'" then
        local value = text:match("^[^%s]*", at)
        return (value:gsub("\\(.)", "%1")), at + #value
    end
    local stop = at + 1
    while text:sub(stop, stop) ~= "'" do
        if stop > #text then
            return nil
        end
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
    end
    return (text:sub(at + 1, stop - 1):gsub("\\(.)", "%1")), stop + 1
end

--- Reads a libpq connection string of keywords.
---@param text string
---@return table<string, string>? options
---@return Error? err
function M.parse_conninfo(text)
    if text:match("^postgres%a*://") then
        local uri = { text:match("^postgres%a*://([^@/?]*)@?([^/?]*)/?([^?]*)%??(.*)$") }
        local host = uri[2] ~= "" and uri[2] or uri[1] or ""
        return nil, mr.error("argument", "MOONRISE_COORDINATOR is a URI",
            { hint = "write it as keywords: host=" .. host })
    end
    local options, at = {}, 1
    while true do
        at = text:find("%S", at)
        if not at then
            return options
        end
        local key, stop = text:match("^([%w_]+)%s*=%s*()", at)
        local value, after
        if key then
            value, after = conninfo_value(text, stop)
        end
        if not value then
            return nil, mr.error("argument",
                ("MOONRISE_COORDINATOR: cannot read '%s'"):format(text:sub(at)))
        end
        options[key], at = value, after
    end
end

-- What a connection string does not say is what init gives: the only passfile of this user, or
-- none.
local function from_conninfo(text)
    local env, err = M.parse_conninfo(text)
    if not env then
        return nil, err
    end
    env.user = env.user or "moonrise"
    env.dbname = env.dbname or "moonrise"
    env.port = env.port or 5432
    if not env.passfile then
        local root = M.state_dir("x"):gsub("/x$", "")
        local names = mr.list_dir(root) or {}
        if #names == 1 then
            env.name = names[1]
            env.passfile = ("%s/%s/passfile"):format(root, names[1])
        end
    end
    env.asks_catalog = true
    return env
end

--- Finds the cluster. `-d` beats the environment.
---@param options {datadir: string?}
---@return Env? env
---@return Error? err
function M.find(options)
    if options.datadir then
        return M.read(options.datadir)
    end
    for _, name in ipairs(VARIABLES) do
        local value = mr.getenv(name)
        if value and value ~= "" then
            return M.read(value)
        end
    end
    local text = mr.getenv("MOONRISE_COORDINATOR")
    if text and text ~= "" then
        return from_conninfo(text)
    end
    return nil, mr.error("usage", "which cluster? The coordinator's data directory is not known",
        { hint = "give it with -d DIR or in COORDINATOR_DATA_DIRECTORY, or a connection string " ..
            "in MOONRISE_COORDINATOR" })
end

return M
