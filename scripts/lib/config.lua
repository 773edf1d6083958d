--- cluster.lua: the file that describes a cluster, read in the sandbox and held against its schema.
local hooks = require("lib.hooks")
local mr = require("moonrise")
local schema = require("lib.config_schema")

local M = {}

---@class Place
---@field host string where its agent is started
---@field address string what PostgreSQL connects to
---@field port integer
---@field datadir string

---@class Config
---@field name string
---@field pg {bin: string?, settings: table, locale: string?, encoding: string?}
---@field coordinator Place
---@field standby? Place
---@field segments {primary: Place, mirror: Place?}[]
---@field hba string[]
---@field tls? {cert: string, key: string, ca: string?, verify: "full"|"ca"|nil}
---@field fdw {databases: string[]}
---@field policies table<string, string>
---@field on_event HookSpec[]
---@field watch table<string, number>
---@field text string the file's text
---@field warnings string[]

-- Settings that decide who is primary, who waits for whom and who is reachable.
local OWNED = {
    port = "it is the instance's port",
    listen_addresses = "moonrise gives it when it starts a server",
    unix_socket_directories = "sockets are in the data directories",
    synchronous_standby_names = "moonrise sets it while a pair is in sync",
    primary_conninfo = "moonrise sets it", primary_slot_name = "moonrise sets it",
    data_directory = "it is the instance's datadir", hba_file = "use hba", ident_file = "use hba",
    external_pid_file = "it would be shared", hot_standby = "mirrors answer for themselves",
    ssl = "use tls", ssl_cert_file = "use tls", ssl_key_file = "use tls", ssl_ca_file = "use tls",
    promote_trigger_file = "a mirror is promoted by its agent alone",
    restore_command = "it is a recovery's",
    recovery_target_timeline = "mirrors follow their primaries",
}

local REFUSED = {
    full_page_writes = { off = "recoveries read blocks while they are written" },
    wal_level = { minimal = "mirrors need at least replica" },
}

local function off(value)
    return value == false or value == "off" or value == "false" or value == 0 or value == "0"
end

local function check_settings(problems, warnings, settings)
    for name, value in pairs(settings) do
        local path = "pg.settings." .. name
        local key = name:lower()
        local refused = REFUSED[key]
        if OWNED[key] then
            table.insert(problems, ("%s: is not set here: %s"):format(path, OWNED[key]))
        elseif refused and (refused[tostring(value)] or (refused.off and off(value))) then
            table.insert(problems, ("%s: %s"):format(path, refused[tostring(value)] or refused.off))
        elseif key == "synchronous_commit" and value ~= "on" and value ~= "remote_apply" then
            table.insert(warnings,
                ("%s is '%s': no pair will be in sync, since commits do not wait")
                :format(path, tostring(value)))
        end
    end
end

local function each_place(config, fn)
    fn("coordinator", config.coordinator)
    if config.standby then
        fn("standby", config.standby)
    end
    for i, segment in ipairs(config.segments) do
        fn(("segments[%d].primary"):format(i), segment.primary)
        if segment.mirror then
            fn(("segments[%d].mirror"):format(i), segment.mirror)
        end
    end
end

local function complete_place(_, place)
    place.address = place.address or place.host
    place.datadir = (place.datadir:gsub("//+", "/"):gsub("(.)/$", "%1"))
end

-- Two instances on one host share neither port nor directory, and none lies inside another's.
local function check_places(problems, config)
    local seen = {}
    each_place(config, function(path, place)
        for _, other in ipairs(seen) do
            if other.place.host == place.host then
                if other.place.port == place.port then
                    table.insert(problems,
                        ("%s.port: %s has port %d on host %s already"):format(path,
                        other.path, place.port, place.host))
                end
                local a, b = place.datadir .. "/", other.place.datadir .. "/"
                if a == b then
                    table.insert(problems, ("%s.datadir: %s has %s on host %s already")
                        :format(path, other.path, place.datadir, place.host))
                elseif a:sub(1, #b) == b or b:sub(1, #a) == a then
                    table.insert(problems, ("%s.datadir: one of it and %s lies inside the other")
                        :format(path, other.path))
                end
            end
        end
        table.insert(seen, { path = path, place = place })
    end)
end

local function warn_about_hosts(warnings, config)
    if config.standby and config.standby.host == config.coordinator.host then
        table.insert(warnings, "standby: is on its coordinator's host: losing the host loses both")
    end
    for i, segment in ipairs(config.segments) do
        if segment.mirror and segment.mirror.host == segment.primary.host then
            table.insert(warnings,
                ("segments[%d].mirror: is on its primary's host: losing the host " ..
                "loses both"):format(i))
        end
    end
end

local function fill(config)
    config.pg = config.pg or {}
    config.pg.settings = config.pg.settings or {}
    config.hba = config.hba or {}
    config.fdw = config.fdw or {}
    config.fdw.databases = config.fdw.databases or {}
    config.policies = config.policies or {}
    config.on_event = config.on_event or {}
    config.watch = config.watch or {}
    each_place(config, complete_place)
end

--- How moonrise and the mirrors connect to servers of this cluster. The server's certificate is
--- verified when there is a `ca`. In any case both ends prove that they see the same one: whoever
--- stands in between does not know the password, and is found out (SCRAM with channel binding).
---@param config Config
---@return {sslmode: string?, sslrootcert: string?, channel_binding: string?}
function M.tls(config)
    local tls = config.tls
    if not tls then
        return {}
    end
    return { sslmode = tls.ca and "verify-" .. (tls.verify or "full") or "require",
             sslrootcert = tls.ca, channel_binding = "require" }
end

local function invalid(name, problems)
    local err = mr.error("usage", ("%s: %s"):format(name, problems[1]), {
        hint = #problems > 1 and ("and %d more:\n  %s"):format(#problems - 1,
            table.concat(problems, "\n  ", 2)) or nil })
    return nil, err
end

--- Checks the table that a cluster.lua returned, and fills in what it leaves out.
---@param value any
---@param name string the file's name, for messages
---@return Config? config
---@return Error? err code "usage"; its hint lists all further mistakes
function M.check(value, name)
    if type(value) == "table" then
        value.on_event = hooks.as_list(value.on_event)
    end
    local problems = schema.check(value)
    if #problems > 0 then
        return invalid(name, problems)
    end
    local config, warnings = value, {}
    fill(config)
    check_settings(problems, warnings, config.pg.settings)
    check_places(problems, config)
    if #problems > 0 then
        return invalid(name, problems)
    end
    warn_about_hosts(warnings, config)
    config.warnings = warnings
    return config
end

--- Reads the text of a cluster.lua.
---@param text string
---@param name string
---@return Config? config
---@return Error? err
function M.parse(text, name)
    local sandbox, err = mr.sandbox({ source = text, name = name })
    if not sandbox then
        return nil, mr.error("usage", err.message, { cause = err, hint = err.hint })
    end
    local value
    value, err = sandbox:value()
    sandbox:close()
    if value == nil and err then
        return nil, mr.error("usage", err.message, { cause = err, hint = err.hint })
    end
    local config
    config, err = M.check(value, name)
    if config then
        config.text = text
    end
    return config, err
end

--- Reads a cluster.lua.
---@param path string
---@return Config? config
---@return Error? err
function M.load(path)
    local text, err = mr.read_file(path, 2 ^ 20)
    if not text then
        return nil, mr.error("usage", ("%s cannot be read: %s"):format(path, err.message),
            { cause = err })
    end
    return M.parse(text, path)
end

local function row(rows, place, content, role)
    table.insert(rows, {
        dbid = #rows + 1, content = content, role = role, preferred_role = role, mode = "n",
        status = role == "p" and "u" or "d", port = place.port, hostname = place.host,
        address = place.address, datadir = place.datadir,
    })
end

--- The rows that a cluster of this description has in gp_segment_configuration: the coordinator is
--- dbid 1, then the primaries, the mirrors, and the standby.
---@param config Config
---@return table[] instances
function M.instances(config)
    local rows = {}
    row(rows, config.coordinator, -1, "p")
    for i, segment in ipairs(config.segments) do
        row(rows, segment.primary, i - 1, "p")
    end
    for i, segment in ipairs(config.segments) do
        if segment.mirror then
            row(rows, segment.mirror, i - 1, "m")
        end
    end
    if config.standby then
        row(rows, config.standby, -1, "m")
    end
    return rows
end

return M
