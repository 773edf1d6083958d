--- A network for specs, without root: the servers are on one host, the watcher and the clients on
--- two others, and each way between them can be cut. What is sent on it then vanishes: no answer,
--- no error. Names are those of a hosts file.
---
---     local ok, why = network.enter(place)    -- in the setup, before anything is started
---     local watch = network.on("watcher", function() return cluster:watch() end)
---     local mend = network.cut("watcher", network.address(2))
---     mend()

local namespace = require("tests.lib.namespace")

local M = {}

-- The others by their links to the servers' host; the servers have addresses of a net behind those,
-- so that neighbours are found whatever is cut.
local NET = { watcher = "10.9.2", clients = "10.9.3" }
local SERVERS = "10.9.1.%d"
local ADDRESSES = 9

local networks = {}
local hosts_file

local function must(commands)
    local done, why = namespace.ip(commands)
    assert(done, why)
end

--- An address that servers can listen on.
---@param number integer 1 to 9
---@return string
function M.address(number)
    return SERVERS:format(number)
end

--- The address from which a host other than the servers' comes.
---@param host "watcher"|"clients"
---@return string
function M.from(host)
    return NET[host] .. ".2"
end

local function join(host)
    must({
        ("link add %s type veth peer name servers netns %s"):format(host,
            namespace.network_path(networks[host])),
        ("address add %s.1/24 dev %s"):format(NET[host], host),
        ("link set %s up"):format(host),
    })
    namespace.inside(networks[host], function()
        must({ "link set lo up", ("address add %s/24 dev servers"):format(M.from(host)),
            "link set servers up",
            ("route add %s/24 via %s.1"):format(M.address(0), NET[host]) })
    end)
end

local function connect()
    for host in pairs(NET) do
        networks[host] = namespace.new_network()
    end
    networks.servers = namespace.new_network()
    -- What is cut is looked up first: before the addresses of this host.
    local commands = { "link set lo up", "rule add pref 100 lookup local", "rule del pref 0" }
    for number = 1, ADDRESSES do
        table.insert(commands, ("address add %s/32 dev lo"):format(M.address(number)))
    end
    must(commands)
    for host in pairs(NET) do
        join(host)
    end
end

--- Makes the network; this process is on the servers' host from now on.
---@param place table
---@return boolean entered
---@return string? why it cannot be done here
function M.enter(place)
    local entered, why = namespace.enter()
    if not entered then
        return false, why
    end
    local made
    made, why = pcall(connect)
    if not made then
        return false, "no network for an ordinary user here: " .. tostring(why)
    end
    -- No name is asked for anywhere else.
    namespace.bind(place:write("nsswitch.conf", "hosts: files\npasswd: files\ngroup: files\n"),
        "/etc/nsswitch.conf")
    hosts_file = place:write("hosts", "")
    namespace.bind(hosts_file, "/etc/hosts")
    M.names({})
    return true
end

--- Gives names these addresses, and no others.
---@param addresses table<string, string>
function M.names(addresses)
    local lines = { "127.0.0.1 localhost" }
    for name, address in pairs(addresses) do
        table.insert(lines, address .. " " .. name)
    end
    local file = assert(io.open(hosts_file, "w"))
    file:write(table.concat(lines, "\n"), "\n")
    file:close()
end

--- Runs a function on another host, and what it starts.
---@param host "watcher"|"clients"
---@param fn fun(): any
---@return any
function M.on(host, fn)
    return namespace.inside(networks[host], fn)
end

--- Cuts the way between a host and a server's address; among the servers that between a primary at
--- this address and its mirror.
---@param host "watcher"|"clients"|"servers"
---@param address string
---@return fun() mend
function M.cut(host, address)
    local rules = { ("pref 10 iif lo to %s blackhole"):format(address) }
    if host ~= "servers" then
        rules = { ("pref 10 iif %s to %s blackhole"):format(host, address),
            ("pref 10 from %s to %s blackhole"):format(address, M.from(host)) }
    end
    local function each(verb)
        local commands = {}
        for _, rule in ipairs(rules) do
            table.insert(commands, ("rule %s %s"):format(verb, rule))
        end
        must(commands)
    end
    each("add")
    return function()
        each("del")
    end
end

return M
