--- Clusters for specs, made and run by build/moonrise itself, on this host or on test hosts
--- (tests/lib/hosts.lua).
---
---     local cluster = require("tests.lib.cluster").new(place, { segments = 2, standby = true })
---     cluster:init()
---     local watch = cluster:watch()
---     cluster:primary(0):kill()
---     cluster:wait_row({ content = 0, role = "p", status = "u" }, wait.SOON_S)

local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local sorted = require("tests.lib.sorted")
local wait = require("tests.lib.wait")

local M = {}
local Cluster = {}
Cluster.__index = Cluster

-- Tests kill processes, never the power: nothing is lost without fsync, and much time is won.
local SETTINGS = { fsync = "off", shared_buffers = "16MB", max_connections = "40" }

-- Each name of this host has an agent of its own.
local function instance(cluster, name)
    if cluster.lab then
        return { host = cluster.hosts[name], port = cluster.port or place_of.free_port(),
            datadir = "/data/" .. name }
    end
    return { host = cluster.hosts[name] or "localhost",
        address = cluster.addresses[name] or "127.0.0.1",
        port = cluster.port or place_of.free_port(), datadir = cluster.place:path(name) }
end

local function describe(cluster, options)
    local config = {
        name = "test" .. cluster.place.dir:gsub("%W", ""):sub(-8),
        pg = { bin = pg.bin(), settings = {} },
        coordinator = instance(cluster, "coordinator"),
        standby = options.standby and instance(cluster, "standby") or nil,
        segments = {},
        hba = options.hba, tls = options.tls, fdw = options.fdw,
        watch = options.watch, on_event = options.on_event,
    }
    for _, settings in ipairs({ SETTINGS, options.settings or {} }) do
        for name, value in pairs(settings) do
            config.pg.settings[name] = value
        end
    end
    for content = 0, (options.segments or 1) - 1 do
        local mirror = options.mirrors ~= false and instance(cluster, "mirror" .. content) or nil
        table.insert(config.segments,
            { primary = instance(cluster, "primary" .. content), mirror = mirror })
    end
    return config
end

local function to_lua(value, indent)
    if type(value) ~= "table" then
        return type(value) == "string" and ("%q"):format(value) or tostring(value)
    end
    local lines = {}
    for _, key in ipairs(sorted(value)) do
        local name = type(key) == "string" and ("[%q] = "):format(key) or ""
        local text = to_lua(value[key], indent .. "    ")
        lines[#lines + 1] = ("%s    %s%s,\n"):format(indent, name, text)
    end
    return "{\n" .. table.concat(lines) .. indent .. "}"
end

--- Describes a cluster: writes its cluster.lua, starts nothing.
---@param place table
---@param options? table {segments = 1, standby = false, mirrors = true, settings = {}, hba = nil,
--- hosts = {}: by directory ("standby", "mirror0"), localhost unless named; addresses = {}:
--- likewise, 127.0.0.1 unless named; port = nil: all have this one; tls = nil, fdw = nil,
--- watch = nil, on_event = nil, lab = nil: the hosts on which it is, all of them named; moonrise
--- is run on the coordinator's}
---@return table cluster {config (the table of cluster.lua), file (its path), place}
function M.new(place, options)
    options = options or {}
    local cluster = setmetatable({ place = place, bin = pg.bin(), hosts = options.hosts or {},
        addresses = options.addresses or {}, port = options.port, lab = options.lab }, Cluster)
    cluster.config = describe(cluster, options)
    cluster.datadir = cluster.config.coordinator.datadir
    cluster.runner = cluster.lab and cluster.lab[cluster.config.coordinator.host] or place
    cluster.file = place:write("cluster.lua", "return " .. to_lua(cluster.config, "") .. "\n")
    return cluster
end

--- A file of the cluster's in the state directory of its user.
---@param name string
---@return string path
function Cluster:state_file(name)
    local dir = self.lab and "home/.local/state" or "home/state"
    return ("%s/moonrise/%s/%s"):format(self.runner:path(dir), self.config.name, name)
end

local function environment(cluster)
    return { COORDINATOR_DATA_DIRECTORY = cluster.datadir }
end

--- Runs `moonrise ARGS...` on this cluster to its end, whatever the code.
---@param args string[]
---@param options? {stdin: string?, timeout_s: number?}
---@return {code: integer, out: string, err: string} result
function Cluster:moonrise(args, options)
    local argv = { place_of.moonrise(), unpack(args) }
    return self.runner:run(argv, { env = environment(self), stdin = options and options.stdin,
        timeout_s = options and options.timeout_s or 120 })
end

--- Like moonrise, and raises with all that it said unless it ends with code 0.
---@return string out
function Cluster:must(args, options)
    local result = self:moonrise(args, options)
    if result.code ~= 0 then
        error(("moonrise %s: exit code %d\n%s%s"):format(table.concat(args, " "), result.code,
            result.out, result.err), 2)
    end
    return result.out
end

--- Starts `moonrise ARGS...` in the background.
---@param args string[]
---@param on? table another test host than the coordinator's
---@return table program
function Cluster:start(args, on)
    return (on or self.runner):start({ place_of.moonrise(), unpack(args) },
        { env = environment(self) })
end

--- Starts `moonrise ARGS...` on a terminal of its own, for its questions.
---@param args string[]
---@return table program
---@return function answer called with the line that is typed
function Cluster:ask(args)
    local answers = self.place:path("answers")
    self.place:must({ "mkfifo", answers })
    local line = 'answers=$1; shift; exec script -qec "$*" /dev/null <>"$answers"'
    local program = self.place:start({ "sh", "-c", line, "sh", answers, place_of.moonrise(),
        unpack(args) }, { env = environment(self) })
    return program, function(text)
        local file = assert(io.open(answers, "w"))
        file:write(text, "\n")
        file:close()
    end
end

--- Makes the cluster, all of it running and in sync.
function Cluster:init()
    self:must({ "init", "-a", self.file }, { timeout_s = 300 })
end

--- Starts the watcher.
---@param ... string more arguments
---@return table program
function Cluster:watch(...)
    self.watcher = self:start({ "watch", ... })
    return self.watcher
end

--- Starts the watcher, and waits until it watches a healthy cluster.
---@return table program
function Cluster:watched()
    local watch = self:watch()
    watch:says("watching", wait.SOON_S)
    self:wait_healthy()
    return watch
end

--- Ends the watcher that was started last, unless it has ended.
---@param deadline_s number
---@return integer? code
function Cluster:unwatch(deadline_s)
    local watcher = self.watcher
    self.watcher = nil
    if watcher and not watcher:code() then
        watcher:kill("TERM")
        return watcher:wait(deadline_s)
    end
end

--- Recovers what is down, and has everything up and in sync.
function Cluster:recover()
    self:must({ "recoverseg", "-a" })
    self:wait_healthy()
end

--- Records that a standby coordinator was activated: every pair is to be confirmed.
function Cluster:unconfirm()
    self:catalog([[with l as (select moonrise.lease_take(-1, 'spec', 'spec', 'x',
        '1 minute') as token)
        select moonrise.activated(token, 'spec'), moonrise.lease_drop(token) from l]])
end

--- Whatever a test left: everything runs and is in sync.
function Cluster:mend()
    self:moonrise({ "start", "-a" })
    -- A watcher may find something that is to be recovered while this is under way.
    wait.patiently("a mended cluster", 120, function()
        local said = self:moonrise({ "recoverseg", "-a" })
        return pcall(self.wait_healthy, self, 20), said.out .. said.err
    end)
end

--- Has the content's roles switched by a failover, unless they are, and the pair in sync. A watcher
--- is there.
---@param content integer
function Cluster:switch_roles(content)
    local primary, mirror = self:primary(content), self:mirror(content)
    if primary.preferred_role == "p" then
        primary:kill()
        self:wait_row({ dbid = mirror.dbid, role = "p" }, wait.SOON_S)
        wait.patiently("its promotion", wait.SOON_S, function()
            return mirror:value("pg_is_in_recovery()") == "f"
        end)
        self:recover()
    end
end

-- The lock file of a server tells its socket's directory and its port.
local function as_server(cluster, row)
    local server = cluster.lab and cluster.lab[row.hostname]:server(row.datadir)
        or pg.at(cluster.place, row.datadir)
    for key, value in pairs(row) do
        server[key] = server[key] or value
    end
    return server
end

--- The coordinator's server; `dbname` is given with each statement.
function Cluster:coordinator()
    return as_server(self, { datadir = self.datadir, hostname = self.config.coordinator.host })
end

--- SQL on the coordinator, in the database moonrise.
---@return table[] rows
function Cluster:catalog(sql)
    return self:coordinator():sql(sql, { dbname = "moonrise" })
end

--- The rows of gp_segment_configuration, all values as texts, ordered by dbid.
---@return table[] rows
function Cluster:rows()
    return self:catalog("select * from gp_segment_configuration order by dbid")
end

local function matches(row, wanted)
    for key, value in pairs(wanted) do
        if row[key] ~= tostring(value) then
            return false
        end
    end
    return true
end

--- The server of the first row that has these values.
---@param wanted table e.g. { content = 0, role = "m" }
---@return table server a server of tests/lib/pg.lua, with the row's columns as well
function Cluster:instance(wanted)
    for _, row in ipairs(self:rows()) do
        if matches(row, wanted) then
            return as_server(self, row)
        end
    end
    error("no such instance: " .. to_lua(wanted, ""), 2)
end

---@param content integer
function Cluster:primary(content)
    return self:instance({ content = content, role = "p" })
end

---@param content integer
function Cluster:mirror(content)
    return self:instance({ content = content, role = "m" })
end

local function show(rows)
    local lines = {}
    for _, row in ipairs(rows) do
        lines[#lines + 1] = table.concat({ row.dbid, row.content, row.role, row.preferred_role,
            row.mode, row.status, row.port }, " ")
    end
    return "\n" .. table.concat(lines, "\n")
end

-- What the watcher made of it, for a test that waits in vain.
local STORY = [[
select * from (
    select id, time::time(3) as time, kind, content, dbid, left(text, 200) as text
    from journal order by id desc limit 15) j
order by id]]

local function story(cluster)
    local lines = {}
    for _, row in ipairs(cluster:catalog(STORY)) do
        lines[#lines + 1] = table.concat({ row.time, row.kind, row.content or "", row.dbid or "",
            row.text }, " ")
    end
    return "\n" .. table.concat(lines, "\n")
end

--- Waits until a row of the catalog has these values.
---@param wanted table
---@param deadline_s number
---@return table row
function Cluster:wait_row(wanted, deadline_s)
    return wait.patiently("a row with " .. to_lua(wanted, ""), deadline_s, function()
        local rows = self:rows()
        for _, row in ipairs(rows) do
            if matches(row, wanted) then
                return row
            end
        end
        return nil, show(rows) .. story(self)
    end)
end

--- The id of the journal's last row, for `since`.
---@return integer
function Cluster:journal_end()
    return tonumber(self:catalog("select coalesce(max(id), 0) as id from journal")[1].id)
end

--- Rows of the journal, in their order.
---@param wanted {kind: string|string[]|nil, content: integer?, since: integer?, text: string?}
--- `since`: after this id; `text`: a pattern that it matches
---@return table[] rows
function Cluster:journal(wanted)
    local terms = { "id > " .. (wanted.since or 0) }
    if wanted.kind then
        local kinds = type(wanted.kind) == "table" and wanted.kind or { wanted.kind }
        terms[#terms + 1] = ("kind in ('%s')"):format(table.concat(kinds, "', '"))
    end
    if wanted.content then
        terms[#terms + 1] = "content = " .. wanted.content
    end
    local rows = {}
    for _, row in ipairs(self:catalog("select * from journal where " ..
        table.concat(terms, " and ") .. " order by id")) do
        if row.text:match(wanted.text or "") then
            rows[#rows + 1] = row
        end
    end
    return rows
end

--- Waits for a row of the journal.
---@param wanted table as for journal
---@param deadline_s number
---@return table row the first one
function Cluster:wait_journal(wanted, deadline_s)
    return wait.patiently("a row of the journal with " .. to_lua(wanted, ""), deadline_s,
        function()
        return self:journal(wanted)[1], self.watcher and self.watcher:output()
    end)
end

--- Waits until every instance is up, in sync and, with `preferred`, in its preferred role.
---@param deadline_s? number default wait.SOON_S
---@param preferred? boolean
function Cluster:wait_healthy(deadline_s, preferred)
    wait.patiently("a healthy cluster", deadline_s or wait.SOON_S, function()
        local rows = self:rows()
        for _, row in ipairs(rows) do
            local paired = self.config.segments[1].mirror and row.content ~= "-1"
            if row.status ~= "u" or (paired and row.mode ~= "s") or
                (preferred and row.role ~= row.preferred_role) then
                return nil, show(rows)
            end
        end
        return #rows > 0
    end)
end

--- A psql session on the coordinator that stays open.
function Cluster:session(dbname)
    local target = setmetatable({ dbname = dbname or "postgres" }, { __index = self:coordinator() })
    return psql.session(self.place, target)
end

return M
