--- Servers in Debian's layout, made by pg_createcluster: the configuration is not among the data.
--- As an ordinary user, with a configuration root in the place.
---
---     local server = debian.start(debian.new(place, { name = "one", port = 5432 }))

local pg = require("tests.lib.pg")
local psql = require("tests.lib.psql")

local M = {}
local Cluster = {}
Cluster.__index = Cluster

-- In conf.d, where postgresql.conf includes it.
local SETTINGS = { fsync = "off", shared_buffers = "16MB", max_connections = "30",
    listen_addresses = "127.0.0.1" }

--- Whether the programs are there.
---@return boolean
function M.there()
    return os.execute("command -v pg_createcluster >/dev/null") == 0
end

--- Makes a cluster that does not run yet.
---@param place table
---@param options {name: string, port: integer, settings: table?}
---@return table cluster {datadir, conf_dir}
function M.new(place, options)
    local cluster = setmetatable({ place = place, name = options.name, port = options.port,
        version = pg.bin():match("/(%d+)/bin$"), datadir = place:path(options.name) }, Cluster)
    cluster.conf_dir = place:path(("etc/%s/%s"):format(cluster.version, cluster.name))
    place:must({ "mkdir", "-p", place:path("etc") })
    cluster:common("pg_createcluster", "-d", cluster.datadir, "-s", place.dir, "-p",
        tostring(cluster.port), "-l", place:path(cluster.name .. ".log"), "--start-conf=manual",
        "--", "--no-sync", "-k")
    for _, settings in ipairs({ SETTINGS, options.settings or {} }) do
        cluster:set(settings)
    end
    return cluster
end

--- Runs one of postgresql-common's programs on it.
---@param program string
---@param ... string what follows version and name
function Cluster:common(program, ...)
    self.place:must({ program, self.version, self.name, ... },
        { env = { PG_CLUSTER_CONF_ROOT = self.place:path("etc") } })
end

--- Appends settings to a file in conf.d.
---@param settings table<string, string>
function Cluster:set(settings)
    local file = assert(io.open(self.conf_dir .. "/conf.d/spec.conf", "a"))
    for name, value in pairs(settings) do
        file:write(("%s = '%s'\n"):format(name, value))
    end
    file:close()
end

--- Makes it a standby of a server that runs, with a slot of its own.
---@param primary table a server of tests/lib/pg.lua
function Cluster:follow(primary)
    self.place:must({ "rm", "-r", self.datadir })
    self.place:must({ pg.bin() .. "/pg_basebackup", "-d", psql.conninfo(primary), "-D",
        self.datadir, "-R", "-c", "fast", "-C", "-S", self.name .. "_slot", "--no-sync" })
end

--- Starts it as Debian does.
---@return table server of tests/lib/pg.lua
function Cluster:start()
    self:common("pg_ctlcluster", "start")
    local server = pg.at(self.place, self.datadir)
    server.log = self.place:path(self.name .. ".log")
    return server
end

--- All of its configuration, for a comparison.
---@return string
function Cluster:files()
    return self.place:must({ "sh", "-c", "cd \"$1\" && find . -printf '%p %m %l\\n' | sort && "
        .. "find . -type f | sort | xargs tail -n +1", "sh", self.conf_dir })
end

return M
