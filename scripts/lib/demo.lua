--- The parts of `moonrise demo`: a cluster, a sharded table, writers, a failure, the proof.
local mr = require("moonrise")
local demo_layout = require("lib.demo_layout")
local fdw = require("lib.fdw")
local instance = require("lib.instance")
local ledger = require("lib.ledger")
local session = require("lib.session")
local term = require("lib.term")
local wait = require("lib.wait")
local writer = require("lib.writer")

local M = {}

local DATABASE = demo_layout.database
local TABLE = "orders"
local INSERT = ("INSERT INTO %s VALUES ($1::bigint, 'moon ' || $1::bigint)"):format(TABLE)
local SYNC_DEADLINE_MS = 60000
local LOOK_MS = 10
local COMMAND_DEADLINE_MS = 120000
local STORY_COLUMNS = 100

--- A file in the folder of a demo, so that nothing else is ever removed as one.
M.MARKER = "moonrise-demo"

---@return string
function M.default_dir()
    return ("/tmp/moonrise-demo-%d"):format(mr.whoami().uid)
end

-- Waits until done() gives something else than nil. `late` is what is said when it never does.
local function poll(done, late)
    local value, err = wait.eventually(SYNC_DEADLINE_MS, LOOK_MS, done)
    if value or (err and err.code == "cancelled") then
        return value, err
    end
    return nil, late()
end

-- Runs this program's own command line, as an operator would; `show` gets the lines that it says.
local function command(argv, show)
    local result, err = mr.run({ mr.executable, unpack(argv) },
        { timeout_ms = COMMAND_DEADLINE_MS })
    if not result then
        return nil, err
    end
    local said = result.stdout .. result.stderr
    for text in said:gmatch("[^\n]+") do
        show("   " .. text)
    end
    if result.code ~= 0 then
        return nil, mr.error("child",
            ("moonrise %s ended with code %d"):format(argv[1], result.code),
            { hint = said:match("%[ERROR%]:%-([^\n]*)") })
    end
    return true
end

--- Runs a command of moonrise on the demo's cluster.
---@param world table
---@param argv string[]
---@return boolean? ok
---@return Error? err
function M.command(world, argv)
    local line = { argv[1], "-d", world.coordinator.datadir, "-l", world.dir .. "/log" }
    for i = 2, #argv do
        table.insert(line, argv[i])
    end
    return command(line, world.show)
end

local function start_watcher(world)
    return M.command(world, { "watch", "--daemon" })
end

--- Makes the cluster and starts its watcher.
---@param dir string
---@param segments integer
---@param show? function gets the lines that moonrise's commands say (default: printed)
---@return table? world
---@return Error? err
function M.create(dir, segments, show)
    show = show or term.line
    if mr.stat(dir) then
        return nil, mr.error("exists", dir .. " is there already",
            { hint = "make demo-clean removes an earlier demo" })
    end
    local ok, err = mr.make_dir(dir)
    if ok then
        ok, err = mr.write_file(dir .. "/" .. M.MARKER, "made by moonrise demo\n")
    end
    if not ok then
        return nil, err
    end
    local spec = demo_layout.places(dir, segments)
    local file = dir .. "/cluster.lua"
    mr.write_file(file, demo_layout.text(spec))
    ok, err = command({ "init", "-a", "-l", dir .. "/log", file }, show)
    if not ok then
        return nil, err
    end
    local world = { dir = dir, coordinator = spec.coordinator, segments = segments, show = show }
    ok, err = start_watcher(world)
    if not ok then
        return nil, err
    end
    world.session, err = session.open({ datadir = spec.coordinator.datadir })
    return world.session and world, err
end

local function superuser(inst, dbname)
    return mr.connect({ host = instance.socket_dir(inst), port = inst.port, dbname = dbname,
                        user = mr.whoami().user, application_name = "moonrise demo" })
end

local function run_all(conn, statements)
    for _, statement in ipairs(statements) do
        local rows, err = conn:query(statement)
        if not rows then
            conn:close()
            return nil, err
        end
    end
    conn:close()
    return true
end

local function on_instance(world, inst, statements)
    local conn, err = superuser(inst, "postgres")
    if not conn then
        return nil, err
    end
    local ok
    ok, err = run_all(conn, { ("CREATE ROLE shop LOGIN PASSWORD '%s'"):format(world.password),
                              ("CREATE DATABASE %s OWNER shop"):format(DATABASE) })
    if not ok then
        return nil, err
    end
    conn, err = superuser(inst, DATABASE)
    if not conn then
        return nil, err
    end
    return run_all(conn, statements)
end

local function coordinator_statements(world)
    local statements = { ("CREATE TABLE %s (id bigint NOT NULL, item text) PARTITION BY HASH (id)")
        :format(TABLE), ("ALTER TABLE %s OWNER TO shop"):format(TABLE) }
    for i = 0, world.segments - 1 do
        table.insert(statements,
            ("CREATE USER MAPPING FOR shop SERVER seg%d OPTIONS (user 'shop', password '%s')")
            :format(i, world.password))
        table.insert(statements, ("GRANT USAGE ON FOREIGN SERVER seg%d TO shop"):format(i))
        table.insert(statements, ([[CREATE FOREIGN TABLE %s_%d PARTITION OF %s
            FOR VALUES WITH (MODULUS %d, REMAINDER %d) SERVER seg%d
            OPTIONS (table_name '%s')]]):format(TABLE, i, TABLE, world.segments, i, i, TABLE))
        table.insert(statements, ("ALTER FOREIGN TABLE %s_%d OWNER TO shop"):format(TABLE, i))
    end
    return statements
end

local function primaries(world)
    local instances, err = world.session.cat:instances()
    if not instances then
        return nil, err
    end
    local found = {}
    for _, inst in ipairs(instances) do
        if inst.role == "p" then
            found[inst.content] = inst
        end
    end
    return found
end

--- Makes the sharded table: a database on every primary, foreign partitions on the coordinator.
---@param world table
---@return boolean? ok
---@return Error? err
function M.shard(world)
    world.password = mr.random_hex(16)
    local by_content, err = primaries(world)
    if not by_content then
        return nil, err
    end
    for content = 0, world.segments - 1 do
        local ok
        ok, err = on_instance(world, by_content[content], {
            ("CREATE TABLE %s (id bigint PRIMARY KEY, item text)"):format(TABLE),
            ("ALTER TABLE %s OWNER TO shop"):format(TABLE) })
        if not ok then
            return nil, err
        end
    end
    local ok
    ok, err = on_instance(world, by_content[-1], {})
    if ok then
        ok, err = fdw.install(world.session, DATABASE)
    end
    if not ok then
        return nil, err
    end
    local conn
    conn, err = superuser(by_content[-1], DATABASE)
    if not conn then
        return nil, err
    end
    return run_all(conn, coordinator_statements(world))
end

--- Starts the writers.
---@param world table
---@param sessions integer
function M.write(world, sessions)
    world.ledger = ledger.new()
    world.acks = {}
    world.client = {
        host = world.coordinator.address, port = world.coordinator.port, dbname = DATABASE,
        user = "shop", password = world.password, application_name = "moonrise demo client",
    }
    world.writer = writer.start({
        conn = world.client, ledger = world.ledger, sql = INSERT, sessions = sessions,
        on_ack = function(id, at)
            table.insert(world.acks, { id = id, at = at })
        end,
    })
end

--- Waits until `count` more rows are acknowledged.
---@param world table
---@param count integer
---@return any? ok
---@return Error? err
function M.wait_rows(world, count)
    local goal = world.ledger.counts.acknowledged + count
    return poll(function()
        return world.ledger.counts.acknowledged >= goal or nil
    end, function()
        return mr.error("timeout", ("only %d of %d rows were acknowledged in time"):format(
            world.ledger.counts.acknowledged, goal), { cause = world.writer.last_error,
                hint = world.writer.last_error and world.writer.last_error.message })
    end)
end

--- When rows of one segment were acknowledged, in order. Which rows live there only its partition
--- knows.
---@param world table
---@param content integer
---@return number[]? times mr.clock()
---@return Error? err
function M.acks_of(world, content)
    local conn, err = mr.connect(world.client)
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query(("SELECT id FROM %s_%d"):format(TABLE, content), nil,
        { timeout_ms = 30000 })
    conn:close()
    if not rows then
        return nil, err
    end
    local there, times = {}, {}
    for _, row in ipairs(rows) do
        there[row.id] = true
    end
    for _, ack in ipairs(world.acks) do
        if there[ack.id] then
            table.insert(times, ack.at)
        end
    end
    return times
end

-- The old server can still acknowledge what it had begun, so the first row of the new one is the
-- one that ended the longest silence since.
local function first_row_after(world, content, at)
    local times, err = M.acks_of(world, content)
    if not times then
        return nil, err
    end
    local last, first, longest = at, nil, 0
    for _, time in ipairs(times) do
        if time > at then
            if time - last > longest then
                first, longest = time, time - last
            end
            last = time
        end
    end
    return first, mr.error("timeout", "no row reached the segment after the failover")
end

local function journal_since(world, content, since_wall)
    return world.session.cat:query([[
        select extract(epoch from time)::float8 * 1000 as at_ms, kind, text from journal
        where content = $1 and extract(epoch from time) * 1000 >= $2 order by id]],
        { content, since_wall })
end

local function wait_promoted(world, old)
    return poll(function()
        local by_content, err = primaries(world)
        local now = by_content and by_content[old.content]
        return now and now.dbid ~= old.dbid and now or nil, err
    end, function()
        return mr.error("timeout", "the mirror was not promoted")
    end)
end

--- Kills the postmaster of a content's primary with SIGKILL and tells what followed.
---@param world table
---@param content integer
---@return {ms: number, what: string}[]? story milliseconds after the kill, in order; story.first_ms
---@return Error? err
function M.fail_over(world, content)
    local by_content, err = primaries(world)
    local old = by_content and by_content[content]
    local word
    if old then
        word, err = world.session.agents:inspect(old)
    end
    if not word then
        return nil, err
    end
    local killed_wall, killed = mr.wall(), mr.clock()
    local ok
    ok, err = mr.kill(word.postmaster.pid, "KILL")
    if ok then
        ok, err = wait_promoted(world, old)
    end
    if ok then
        ok, err = M.wait_rows(world, 300)
    end
    if not ok then
        return nil, err
    end
    local first
    first, err = first_row_after(world, content, killed)
    if not first then
        return nil, err
    end
    local killing = ("postmaster %d of content %d killed"):format(word.postmaster.pid, content)
    local story = { { ms = 0, what = killing } }
    for _, row in ipairs(journal_since(world, content, killed_wall) or {}) do
        table.insert(story, { ms = row.at_ms - killed_wall,
            what = ("%-10s %s"):format(row.kind, row.text:sub(1, STORY_COLUMNS)) })
    end
    story.first_ms = first - killed
    table.insert(story, { ms = first - killed, what = "first row acknowledged by the new primary" })
    table.sort(story, function(a, b)
        return a.ms < b.ms
    end)
    return story
end

--- Waits until every pair is in sync again.
---@param world table
---@return boolean? ok
---@return Error? err
function M.wait_in_sync(world)
    return poll(function()
        local instances, err = world.session.cat:instances()
        for _, inst in ipairs(instances or {}) do
            if inst.mode ~= "s" or inst.status ~= "u" then
                return nil
            end
        end
        return instances, err
    end, function()
        return mr.error("timeout", "not every pair came back in sync in time")
    end)
end

--- Waits until the mirror of a content has this status.
---@param world table
---@param content integer
---@param status "u"|"d"
---@return boolean? ok
---@return Error? err
function M.wait_status(world, content, status)
    return poll(function()
        local instances, err = world.session.cat:instances()
        for _, inst in ipairs(instances or {}) do
            if inst.content == content and inst.role == "m" and inst.status == status then
                return inst
            end
        end
        return nil, err
    end, function()
        return mr.error("timeout",
            ("the mirror of content %d did not become %s"):format(content, status))
    end)
end

--- Stops the writers and compares the ledger with the tables.
---@param world table
---@return table? result with `sound`
---@return Error? err
function M.compare(world)
    world.writer:stop()
    local conn, err = mr.connect(world.client)
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query(("SELECT id, count(*) AS n FROM %s GROUP BY id"):format(TABLE), nil,
        { timeout_ms = 120000 })
    conn:close()
    if not rows then
        return nil, err
    end
    local present = {}
    for _, row in ipairs(rows) do
        present[row.id] = row.n
    end
    local result = world.ledger:compare(present)
    result.sound = ledger.sound(result)
    return result
end

--- Ends the demo's own sessions; the cluster and its watcher live on.
---@param world table
function M.close(world)
    world.session:close()
end

return M
