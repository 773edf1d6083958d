--- Taking an adoption back: after a failure at once, after a kill by the next run. All that is
--- needed stands in a record that is written before anything is changed.
local adopt_settings = require("lib.adopt_settings")
local agents = require("lib.agents")
local create = require("lib.create")
local create_plan = require("lib.create_plan")
local mr = require("moonrise")
local wait = require("lib.wait")

local M = {}

local STAGE = "adopting"
local STOP_MS, START_MS = 120000, 60000
local FILES_MS, SLOT_MS, STREAM_MS, PAUSE_MS = 30000, 15000, 15000, 100
-- Orders of one epoch go up by their steps.
local FILES_BACK = agents.steps.stop - 1

-- What this adoption has made in a server bears this text: nothing else is ever dropped there. A
-- record may be old, and its servers somebody else's by now.
local function mark(name, adoption)
    return ("made by moonrise init --adopt for the cluster %s (%s)"):format(name, adoption)
end

--- The statement that says in a server whose its role moonrise is.
---@param plan AdoptPlan
---@return string
function M.role_comment(plan)
    return ("comment on role moonrise is '%s'"):format(mark(plan.config.name, plan.adoption))
end

local function unnamed_database(adoption)
    return "moonrise_" .. adoption
end

--- The statements that make the database moonrise: it has its mark before it has its name.
---@param plan AdoptPlan
---@return string[]
function M.database_statements(plan)
    local name = unnamed_database(plan.adoption)
    return { "create database " .. name,
             ("comment on database %s is '%s'"):format(name,
                 mark(plan.config.name, plan.adoption)),
             ("alter database %s rename to moonrise"):format(name) }
end

local function place_of(inst)
    return { dbid = inst.dbid, content = inst.content, role = inst.role, port = inst.port,
             hostname = inst.hostname, address = inst.address, datadir = inst.datadir }
end

--- Writes what is about to be done.
---@param plan AdoptPlan
---@return boolean? ok
---@return Error? err
function M.write_record(plan)
    local adopted, made = {}, {}
    for i, found in ipairs(plan.adopted) do
        adopted[i] = { inst = place_of(found.inst), restarts = found.restarts or false,
            line = adopt_settings.command_line(found.facts),
            pid = found.word.postmaster.pid, start_s = found.word.postmaster.start_s,
            sockets = plan.sockets[found.inst.dbid] }
    end
    for i, one in ipairs(plan.made) do
        made[i] = { inst = place_of(one.inst), was_empty = one.kind == "empty" }
        for _, found in ipairs(plan.adopted) do
            if found.inst.role == "p" and found.inst.content == one.inst.content then
                made[i].primary, made[i].sysid = place_of(found.inst), found.facts.sysid
            end
        end
    end
    return mr.write_file(create_plan.record_path(plan.config.name), mr.json_encode({
        stage = STAGE, adoption = plan.adoption, name = plan.config.name,
        datadir = plan.env.datadir,
        superuser = plan.superuser, bin = plan.env.bin, adopted = mr.json_array(adopted),
        made = mr.json_array(made), passfile = plan.env.passfile, pid = mr.whoami().pid }))
end

--- What an adoption of this name that did not end has left, nil when there is nothing.
---@param name string the cluster's
---@return table? record
function M.left(name)
    local text = mr.read_file(create_plan.record_path(name))
    local record = text and mr.json_decode(text)
    return record and record.stage == STAGE and record or nil
end

-- How far an earlier undoing has come with it: the steps of its orders go up.
local function steps_done(word)
    local epoch = word.epoch
    return epoch and epoch.valid and epoch.epoch == create.LAST_EPOCH and epoch.step or 0
end

-- Whether an instance is what this adoption has made of it, by its host's word.
local function is_ours(undoing, word)
    return word.adoption == undoing.adoption
end

local function order(undoing, one, op, args)
    args.epoch, args.adoption = create.LAST_EPOCH, undoing.adoption
    args.user, args.passfile = undoing.superuser, undoing.superuser_passfile or ""
    return undoing.agents:order(one.inst, op, args, { timeout_ms = STOP_MS + 5000 })
end

-- An instance's own configuration: nobody waits for a mirror any more, and no order of the
-- adoption's acts, whatever its agent was doing when it ended. One that shuts down for such an
-- order is asked again.
local function files_back(undoing, one)
    local word, err = undoing.agents:inspect(one.inst)
    if not word then
        return nil, err
    elseif not is_ours(undoing, word) or steps_done(word) > FILES_BACK then
        return true
    end
    return wait.eventually(FILES_MS, PAUSE_MS, function()
        return order(undoing, one, "disown", { step = FILES_BACK, forget = false })
    end)
end

local SLOTS_SQL = [[
select slot_name as name, active_pid as pid from pg_replication_slots
where slot_name ~ '^mr_slot_[0-9]+$']]

-- The plan has seen none of these names. Whose receiver has not noticed yet that it has another
-- slot now is ended, and asked again.
local function drop_slots(conn)
    return wait.eventually(SLOT_MS, PAUSE_MS, function()
        local rows, err = conn:query(SLOTS_SQL)
        for _, row in ipairs(rows or {}) do
            if row.pid then
                conn:query("select pg_terminate_backend($1)", { row.pid })
                err = mr.error("timeout", ("slot %s is still in use"):format(row.name))
            else
                local dropped, problem = conn:query("select pg_drop_replication_slot($1)",
                    { row.name })
                err = not dropped and problem or err
            end
        end
        return not err or nil, err
    end)
end

local DATABASES_SQL = [[
select quote_ident(datname) as name from pg_database
where datname = $1 or datname = 'moonrise' and shobj_description(oid, 'pg_database') = $2]]

local function drop_database(conn, undoing)
    local rows, err = conn:query(DATABASES_SQL, { unnamed_database(undoing.adoption),
                                                  mark(undoing.name, undoing.adoption) })
    for _, row in ipairs(rows or {}) do
        rows, err = conn:query(("drop database %s with (force)"):format(row.name))
        if not rows then
            return nil, err
        end
    end
    return rows and true, err
end

local function drop_role(conn, undoing)
    local rows, err = conn:query([[select 1 from pg_roles where rolname = 'moonrise'
        and shobj_description(oid, 'pg_authid') = $1]], { mark(undoing.name, undoing.adoption) })
    if rows and rows[1] then
        return conn:run({ "begin", "drop owned by moonrise", "drop role moonrise", "commit" })
    end
    return rows and true, err
end

-- The role is made before anything else: it may be there where nothing else is ours.
local function drop_from(undoing, one, ours)
    local server = create.superuser(undoing, "postgres", one.inst)
    local ok, err = true, nil
    if ours then
        ok, err = drop_slots(server)
    end
    if ok then
        ok, err = drop_database(server, undoing)
    end
    if ok then
        ok, err = drop_role(server, undoing)
    end
    return ok, err
end

-- A receiver that has lost its sender looks for it again only after a while, and who asks the
-- standby before would take it for a broken one. One that does not come back was not ours to mend.
local function await_stream(undoing, one)
    local server = create.superuser(undoing, "postgres", one.inst)
    local asked, err = server:query("select 1")
    if not asked then
        return nil, err
    end
    wait.eventually(STREAM_MS, PAUSE_MS, function()
        local rows = server:query("select 1 from pg_stat_wal_receiver where status = 'streaming'")
        return rows and rows[1]
    end)
    return true
end

local function start(undoing, one)
    table.insert(undoing.restarted, one.inst)
    return order(undoing, one, "start", { wait_ms = START_MS, settings = one.line })
end

-- What was started with moonrise's settings is started with its own again: its files', and those
-- that only its command line had.
local function restart(undoing, one, word)
    local post = word.postmaster
    if (post.pid == one.pid and post.start_s == one.start_s)
        or steps_done(word) >= agents.steps.start then
        return true
    end
    local ok, err = order(undoing, one, "stop",
        { mode = "fast", wait_ms = STOP_MS, fence = false })
    if ok then
        ok, err = start(undoing, one)
    end
    return ok, err
end

-- An instance goes on as it was. What is in it goes before it is started with its own settings,
-- which may be less than a slot needs.
local function disown(undoing, one)
    local word, err = undoing.agents:inspect(one.inst)
    local ok, ours = word ~= nil, word and is_ours(undoing, word)
    local restarts = ours and one.restarts and word.epoch
    if restarts and word.stopped then
        ok, err = start(undoing, one)
    end
    if ok and one.inst.role == "p" then
        ok, err = drop_from(undoing, one, ours)
    elseif ok and ours then
        ok, err = await_stream(undoing, one)
    end
    if ok and restarts and not word.stopped then
        ok, err = restart(undoing, one, word)
    end
    if ok and ours then
        ok, err = order(undoing, one, "disown", {})
    end
    return ok, err
end

-- A copy was begun only when its primary was ours; what is of another system is somebody else's.
local function remove_copy(undoing, one)
    local primary, err = undoing.agents:inspect(one.primary)
    local word
    if primary and is_ours(undoing, primary) then
        word, err = undoing.agents:inspect(one.inst)
    end
    if err then
        return nil, err
    end
    local sysid = word and word.control and word.control.sysid
    if not word or sysid and sysid ~= one.sysid then
        return true
    end
    return create.remove(undoing, one.inst, one.was_empty)
end

local function each(problems, list, fn)
    for _, one in ipairs(list) do
        local ok, err = fn(one)
        if not ok then
            table.insert(problems, err)
        end
    end
end

--- Takes back what the record's adoption has done, as far as it had come. Nothing stays stopped.
---@param record table of M.left
---@return Error[] problems what could not be taken back
---@return table[] restarted the instances that were started anew
function M.undo(record)
    local problems = {}
    local undoing = { restarted = {}, name = record.name, adoption = record.adoption,
        maker = record.adoption, superuser = record.superuser,
        superuser_passfile = mr.getenv("PGPASSFILE"),
        agents = agents.new({ bin = record.bin, user = "moonrise", passfile = record.passfile }) }
    each(problems, record.adopted, function(one)
        return files_back(undoing, one)
    end)
    each(problems, record.made, function(one)
        return remove_copy(undoing, one)
    end)
    -- The mirrors first, which hold their primaries' slots.
    for _, role in ipairs(#problems == 0 and { "m", "p" } or {}) do
        each(problems, record.adopted, function(one)
            return one.inst.role ~= role or disown(undoing, one)
        end)
    end
    undoing.agents:close()
    if #problems == 0 then
        mr.remove_file(record.passfile)
        mr.remove_file(create_plan.record_path(record.name))
    end
    return problems, undoing.restarted
end

return M
