--- Where the servers of a demo live, and the cluster.lua that says so.
local mr = require("moonrise")

local M = {}

--- The database of the demo's table, on the coordinator and on every segment.
M.database = "shop"

local function place(dir, name)
    return { host = "localhost", address = "127.0.0.1", port = mr.free_port(),
             datadir = ("%s/%s"):format(dir, name) }
end

local function distinct_place(dir, name, taken)
    local where
    repeat
        where = place(dir, name)
    until not taken[where.port]
    taken[where.port] = true
    return where
end

--- Free ports and directories for a cluster, as cluster.lua has them.
---@param dir string
---@param segments integer
---@return {coordinator: table, standby: table, segments: table[]} spec
function M.places(dir, segments)
    local taken = {}
    local spec = {
        coordinator = distinct_place(dir, "coordinator/gpseg-1", taken),
        standby = distinct_place(dir, "standby/gpseg-1", taken),
        segments = {},
    }
    for i = 1, segments do
        spec.segments[i] = {
            primary = distinct_place(dir, ("primary/gpseg%d"):format(i - 1), taken),
            mirror = distinct_place(dir, ("mirror/gpseg%d"):format(i - 1), taken),
        }
    end
    return spec
end

local function place_text(where)
    return ("{ host = %q, address = %q, port = %d, datadir = %q }"):format(
        where.host, where.address, where.port, where.datadir)
end

--- The text of cluster.lua.
---@param spec table
---@return string
function M.text(spec)
    local lines = {
        "return {",
        '    name = "demo",',
        "    pg = { settings = {",
        '        shared_buffers = "64MB", max_wal_size = "512MB", max_connections = "60",',
        '        max_prepared_transactions = "20",',
        "    } },",
        ('    hba = { "host %s shop 127.0.0.1/32 scram-sha-256" },'):format(M.database),
        "    coordinator = " .. place_text(spec.coordinator) .. ",",
        "    standby = " .. place_text(spec.standby) .. ",",
        "    segments = {",
    }
    for _, segment in ipairs(spec.segments) do
        table.insert(lines, ("        { primary = %s,\n          mirror = %s },"):format(
            place_text(segment.primary), place_text(segment.mirror)))
    end
    table.insert(lines, "    },\n}\n")
    return table.concat(lines, "\n")
end

return M
