--- What stands in an instance's moonrise.conf and pg_hba.conf.
local instance = require("lib.instance")

local M = {}

local MB = 2 ^ 20

-- cluster.lua's pg.settings come after these.
local DEFAULTS = {
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

-- Losing a slot costs a differential recovery, never the primary's disk: all slots of a host
-- together may hold at most half of what is free now.
local function slot_bound(free_bytes, instances_on_host)
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

--- The settings of an instance that `init` makes.
---@param config Config
---@param inst table
---@param room {free_bytes: number?, instances: integer}
---@return table<string, any>
function M.instance(config, inst, room)
    local settings = {}
    for name, value in pairs(DEFAULTS) do
        settings[name] = value
    end
    settings.max_slot_wal_keep_size = slot_bound(room.free_bytes, room.instances)
    for name, value in pairs(config.pg.settings) do
        settings[name:lower()] = value
    end
    tls(settings, config)
    settings.hot_standby = true
    settings.port = inst.port
    settings.listen_addresses = ""
    settings.unix_socket_directories = instance.socket_dir(inst)
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

local function addresses(instances)
    local seen, list = {}, {}
    for _, inst in ipairs(instances) do
        if not seen[inst.address] then
            seen[inst.address] = true
            table.insert(list, inst.address)
        end
    end
    table.sort(list)
    return list
end

local MOONRISE_HBA = "local all,replication moonrise scram-sha-256"

local function superuser_hba(os_user)
    return ('local all "%s" peer'):format(os_user)
end

local function moonrise_hba(kind, address)
    return ("%s all,replication moonrise %s scram-sha-256"):format(kind, address)
end

--- pg_hba.conf: the operating system's user by peer, moonrise by SCRAM from the cluster's
--- addresses, and what cluster.lua adds. `restricted` leaves the latter out.
---@param config Config
---@param instances table[]
---@param os_user string
---@param restricted? boolean
---@return string[] lines
function M.hba(config, instances, os_user, restricted)
    local lines = { superuser_hba(os_user), MOONRISE_HBA }
    local kind = config.tls and "hostssl" or "host"
    for _, address in ipairs(addresses(instances)) do
        table.insert(lines, moonrise_hba(kind, cidr(address)))
    end
    for _, line in ipairs(restricted and {} or config.hba) do
        table.insert(lines, line)
    end
    return lines
end

--- Whether a line of pg_hba.conf is one that `hba` gives to every instance: the superuser's and
--- moonrise's, whatever the address.
---@param line string
---@param os_user string
---@return boolean
function M.is_own_hba(line, os_user)
    local address = line:match("^%a+ all,replication moonrise (%S+) scram%-sha%-256$")
    for _, own in ipairs({ superuser_hba(os_user), MOONRISE_HBA,
                           address and moonrise_hba("host", address),
                           address and moonrise_hba("hostssl", address) }) do
        if line == own then
            return true
        end
    end
    return false
end

return M
