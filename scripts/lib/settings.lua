--- What stands in an instance's moonrise.conf and pg_hba.conf.
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local merged = require("lib.merged")

local M = {}

local MB = 2 ^ 20

--- What cluster.lua's pg.settings come after.
M.DEFAULTS = {
    wal_level = "replica",
    max_wal_senders = 10,
    max_replication_slots = 10,
    password_encryption = "scram-sha-256",
    log_line_prefix = "%m [%p] %q%u@%d ",
    -- A mirror whose primary has moved tries again at once, not after 5 s.
    wal_retrieve_retry_interval = "500ms",
    -- After half of it a mirror asks a silent primary for a sign of life, which tells one that
    -- nobody but the watcher has lost (lib/sight.lua, heard_ms).
    wal_receiver_timeout = "15s",
}

--- max_slot_wal_keep_size. Losing a slot costs a differential recovery, never the primary's disk:
--- all slots of a host together may hold at most half of what is free now.
---@param free_bytes? number
---@param instances_on_host integer
---@return string
function M.slot_bound(free_bytes, instances_on_host)
    local share = (free_bytes or 2 ^ 33) / 2 / math.max(instances_on_host, 1)
    return ("%dMB"):format(math.max(64, math.floor(share / MB)))
end

local function tls(settings, config)
    if config.tls then
        settings.ssl = true
        settings.ssl_cert_file = config.tls.cert
        settings.ssl_key_file = config.tls.key
        settings.ssl_ca_file = config.tls.ca
    end
end

--- Adds what cluster.lua says, and what is an instance's own.
---@param settings table<string, any>
---@param config Config
---@param inst table
function M.complete(settings, config, inst)
    for name, value in pairs(config.pg.settings) do
        settings[name:lower()] = value
    end
    tls(settings, config)
    settings.hot_standby = true
    settings.port = inst.port
    settings.listen_addresses = ""
    settings.unix_socket_directories = instance.socket_dir(inst)
end

--- The settings of an instance that `init` makes.
---@param config Config
---@param inst table
---@param room {free_bytes: number?, instances: integer}
---@return table<string, any>
function M.instance(config, inst, room)
    local settings = merged(M.DEFAULTS)
    settings.max_slot_wal_keep_size = M.slot_bound(room.free_bytes, room.instances)
    M.complete(settings, config, inst)
    return settings
end

local function cidr(address)
    if address:match("^%d+%.%d+%.%d+%.%d+$") then
        return address .. "/32"
    elseif address:find(":", 1, true) then
        return address .. "/128"
    end
    return address
end

-- Whose hosts have to do with an instance: the other one of its pair, which streams from it, and
-- the coordinators, where the watcher and the runbooks are. Without one: all.
local function concerned(instances, inst)
    local list = {}
    for _, other in ipairs(instances) do
        if not inst or inst.content == -1 or other.content == -1
            or other.content == inst.content then
            table.insert(list, other)
        end
    end
    return list
end

local function addresses(instances)
    local list = cluster.values(instances, "address")
    table.sort(list)
    return list
end

-- On a segment moonrise has nothing to do in anybody's database; on the coordinator it has in those
-- whose foreign servers follow the primaries.
local EVERYWHERE, OWN_BUSINESS = "all,replication", "postgres,replication"

local function superuser_hba(os_user)
    return ('local all "%s" peer'):format(os_user)
end

local function moonrise_hba(kind, databases, address)
    return ("%s %s moonrise %sscram-sha-256"):format(kind, databases,
        address and address .. " " or "")
end

--- pg_hba.conf: the operating system's user by peer, moonrise by SCRAM from the addresses that have
--- to do with the instance, and what cluster.lua adds.
---@param config Config
---@param instances table[]
---@param os_user? string nil where the superuser has a way of its own
---@param inst? table whose file it is; one that is good for every instance without it
---@return string[] lines
function M.hba(config, instances, os_user, inst)
    local databases = inst and inst.content >= 0 and OWN_BUSINESS or EVERYWHERE
    local lines = { moonrise_hba("local", databases) }
    if os_user then
        table.insert(lines, 1, superuser_hba(os_user))
    end
    local kind = config.tls and "hostssl" or "host"
    for _, address in ipairs(addresses(concerned(instances, inst))) do
        table.insert(lines, moonrise_hba(kind, databases, cidr(address)))
    end
    for _, line in ipairs(config.hba) do
        table.insert(lines, line)
    end
    return lines
end

--- Whether a line of pg_hba.conf is one that `hba` gives to instances: the superuser's and
--- moonrise's, whatever the address.
---@param line string
---@param os_user string
---@return boolean
function M.is_own_hba(line, os_user)
    local kind, databases, address = line:match("^(%a+) (%S+) moonrise (%S+) scram%-sha%-256$")
    if not kind then
        databases = line:match("^local (%S+) moonrise scram%-sha%-256$")
        kind = databases and "local"
    end
    local known = databases == EVERYWHERE or databases == OWN_BUSINESS
    local fits = address and (kind == "host" or kind == "hostssl")
        or not address and kind == "local"
    return line == superuser_hba(os_user) or (known and fits) or false
end

return M
