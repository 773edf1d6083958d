--- Stock PostgreSQL servers for specs: copies of one initdb'ed template, private sockets only.
---
---     local place = place_of.new()
---     local server = pg.new(place, { settings = { wal_level = "replica" } })
---     server:start()
---     assert.are.same({ { one = "1" } }, server:sql("select 1 as one"))
---     teardown(place_of.close_all)    -- ends and removes everything

local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local wait = require("tests.lib.wait")

local M = {}
local Server = {}
Server.__index = Server

--- PostgreSQL's programs: PG_BIN, or the newest that Debian has.
---@return string
function M.bin()
    return os.getenv("PG_BIN") or
        assert(io.popen("ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1")):read("*l")
end

-- A data directory by initdb, made once by whoever needs it first, kept while the suites run.
local function template(place, options)
    local words = table.concat(options, " ")
    local name = "template" .. words:gsub("[^%w]+", "_")
    local cache = os.getenv("MOONRISE_TEST_CACHE") or place.dir
    local path = cache .. "/" .. name
    if os.execute("test -d " .. place_of.quote(path)) ~= 0 then
        -- Suites that run side by side may both come here: the first one's stays.
        local line = '%s/initdb -D "$1.$$" -A peer -N -k -E UTF8 --locale=C.UTF-8 %s && ' ..
            '{ mv -T "$1.$$" "$1" || rm -r "$1.$$"; }'
        place:must({ "sh", "-c", line:format(M.bin(), words), "sh", path })
    end
    return path
end

local function settings_text(server, settings)
    local lines = {
        "port = " .. server.port, "listen_addresses = ''",
        ("unix_socket_directories = '%s'"):format(server.host),
        "fsync = off", "shared_buffers = 16MB", "max_connections = 30",
        "log_line_prefix = '%m [%p] '",
    }
    for name, value in pairs(settings or {}) do
        lines[#lines + 1] = ("%s = '%s'"):format(name, (tostring(value):gsub("'", "''")))
    end
    return "\n" .. table.concat(lines, "\n") .. "\n"
end

local function describe(place, options)
    place.servers = (place.servers or 0) + 1
    local name = options.name or ("server" .. place.servers)
    return setmetatable({
        place = place, name = name, bin = M.bin(), datadir = place:path(name),
        port = place_of.free_port(), host = place.dir, log = place:path(name .. ".log"),
    }, Server)
end

--- Makes a server that does not run yet.
---@param place table
---@param options? {name: string?, settings: table?, initdb: string[]?, hba: string[]?}
--- `initdb`: more options for it, `hba`: more lines of pg_hba.conf.
---@return table server {datadir, host (the socket's directory), port, log, bin}
function M.new(place, options)
    options = options or {}
    local server = describe(place, options)
    place:must({ "cp", "-R", template(place, options.initdb or {}), server.datadir })
    place_of.append(server.datadir .. "/postgresql.conf", settings_text(server, options.settings))
    place_of.append(server.datadir .. "/pg_hba.conf", table.concat(options.hba or {}, "\n") .. "\n")
    return server
end

--- Makes a standby of a running server, with a physical slot of its own; it does not run yet.
---@param primary table
---@param options? {name: string?, settings: table?, slot: string?}
---@return table server
function M.standby(primary, options)
    options = options or {}
    local server = describe(primary.place, options)
    server.slot = options.slot or (server.name .. "_slot")
    primary.place:must({ primary.bin .. "/pg_basebackup", "-d", psql.conninfo(primary), "-D",
        server.datadir, "-R", "-c", "fast", "-X", "stream", "-C", "-S", server.slot, "--no-sync" })
    place_of.append(server.datadir .. "/postgresql.conf", settings_text(server, options.settings))
    return server
end

--- A server that somebody else made; port and socket are those of its last start.
---@param place table
---@param datadir string
---@return table server
function M.at(place, datadir)
    local lines = {}
    for line in (place_of.read(datadir .. "/postmaster.pid") or ""):gmatch("([^\n]*)\n") do
        lines[#lines + 1] = line
    end
    return setmetatable({
        place = place, name = datadir:match("[^/]+$"), bin = M.bin(), datadir = datadir,
        port = tonumber(lines[4]), host = lines[5], log = datadir .. "/log/postgresql.log",
    }, Server)
end

--- Starts it and waits until it takes connections (until it runs at all with `wait = false`).
---@param options? {wait: boolean?, timeout_s: number?, line: string?} line: of its command line
function Server:start(options)
    local timeout = options and options.timeout_s or 60
    -- PostgreSQL takes the zombie of a killed postmaster for a running one.
    local old = self:pid()
    wait.eventually("the old postmaster to be reaped", wait.SOON_S, function()
        return not (old and place_of.read(("/proc/%d/stat"):format(old)))
    end)
    local result = self.place:run({ self.bin .. "/pg_ctl", "start", "-D", self.datadir,
        "-l", self.log, "-t", tostring(timeout), "-o", options and options.line or "",
        options and options.wait == false and "-W" or "-w" }, { timeout_s = timeout + 5 })
    if result.code ~= 0 then
        error(self.name .. " does not start: " .. result.err .. (place_of.read(self.log) or ""), 2)
    end
end

---@param mode? string "fast" (default), "smart", "immediate"
function Server:stop(mode)
    local how = mode or "fast"
    self.place:must({ self.bin .. "/pg_ctl", "stop", "-D", self.datadir, "-m", how, "-w" })
end

--- The postmaster's process id, from its lock file.
---@return integer? pid
function Server:pid()
    local text = place_of.read(self.datadir .. "/postmaster.pid")
    return text and tonumber(text:match("^%d+"))
end

---@return boolean
function Server:running()
    local pid = self:pid()
    return pid ~= nil and place_of.alive(pid)
end

--- Sends a signal to the postmaster (default KILL); with KILL waits until it is gone.
---@param signal? string
function Server:kill(signal)
    local pid = assert(self:pid(), self.name .. " has no postmaster")
    place_of.kill(pid, signal or "KILL")
    if not signal or signal == "KILL" then
        wait.eventually(self.name .. "'s postmaster to be gone", wait.SOON_S, function()
            return not place_of.alive(pid)
        end)
    end
end

--- Runs SQL; raises when it fails.
---@param sql string
---@param options? {dbname: string?, timeout_s: number?}
---@return table[] rows
function Server:sql(sql, options)
    local rows, message = self:try_sql(sql, options)
    return rows or error(self.name .. ": " .. message, 2)
end

--- Runs SQL; nil and psql's words when it fails.
---@param sql string
---@param options? {dbname: string?, timeout_s: number?}
---@return table[]? rows
---@return string? message
function Server:try_sql(sql, options)
    local target = setmetatable({ dbname = options and options.dbname }, { __index = self })
    return psql.query(self.place, target, sql, options)
end

--- Tries SQL until it is carried out, as where a server is about to be promoted.
---@param sql string
---@param deadline_s number
---@param said? fun(): string what a failure tells besides
function Server:wait_sql(sql, deadline_s, said)
    wait.patiently(("%s on %s"):format(sql, self.name), deadline_s, function()
        local rows, message = self:try_sql(sql, { timeout_s = 5 })
        return rows, message and message .. "\n" .. (said and said() or "")
    end)
end

--- The first column of the first row.
---@param sql string
---@param options? {dbname: string?, timeout_s: number?}
---@return string?
function Server:value(sql, options)
    local rows = self:sql("select (" .. sql .. ") as value", options)
    return rows[1] and rows[1].value
end

--- A psql session that stays open.
function Server:session(options)
    local target = setmetatable({ dbname = options and options.dbname }, { __index = self })
    return psql.session(self.place, target)
end

--- pg_controldata as a table by its labels.
---@return table<string, string>
function Server:control()
    local control = {}
    local out = self.place:must({ self.bin .. "/pg_controldata", "-D", self.datadir })
    for label, value in out:gmatch("([^\n:]+):%s*([^\n]*)\n") do
        control[label] = value
    end
    return control
end

--- Waits until a standby has replayed all that its primary has written by now.
---@param primary table
---@param deadline_s? number
function Server:catch_up(primary, deadline_s)
    local lsn = primary:value("pg_current_wal_flush_lsn()")
    wait.patiently(self.name .. " to replay up to " .. lsn, deadline_s or wait.SOON_S, function()
        return self:value("pg_last_wal_replay_lsn() >= '" .. lsn .. "'") == "t"
    end)
end

return M
