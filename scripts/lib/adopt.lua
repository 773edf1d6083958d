--- Adopting running instances: role, configuration, restarts that cannot be avoided, catalog,
--- mirrors. adopt_undo takes all of it back.
local adopt_undo = require("lib.adopt_undo")
local cluster = require("lib.cluster")
local create = require("lib.create")
local home = require("lib.home")
local instance = require("lib.instance")
local merged = require("lib.merged")
local mr = require("moonrise")
local roles = require("lib.roles")
local streaming = require("lib.streaming")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

local STOP_MS, START_MS = 120000, 60000
local REACH_MS, REPLAY_MS, PAUSE_MS = 15000, 60000, 100

-- Within one epoch orders go up by their steps.
local CONFIGURE, STOP = 2, 3

local function as_superuser(plan, args)
    args.user, args.passfile = plan.superuser, plan.superuser_passfile or ""
    return args
end

-- In one transaction: there is all of the role, or nothing. Its comment says whose it is.
local function make_role(plan, inst)
    local template, grants = roles.statements(plan.secret)
    local statements, comment = {}, adopt_undo.role_comment(plan)
    for _, list in ipairs({ { "begin" }, roles.QUIET, template, { comment, "commit" } }) do
        for _, text in ipairs(list) do
            table.insert(statements, text)
        end
    end
    -- As init does in template1, which is its operator's here.
    plan.grants = grants
    local server = create.superuser(plan, "postgres", inst)
    local ok, err = server:run(statements)
    if ok then
        ok, err = server:run(grants)
    end
    return ok, err
end

local function configure(plan, found, epoch, more)
    local inst = found.inst
    local files = found.files or {}
    local ok, err = plan.agents:order(inst, "adopt",
        { epoch = epoch, adoption = plan.adoption, sysid = found.facts.sysid,
          config_file = files.config_file, hba_file = files.hba_file,
          ident_file = files.ident_file })
    if not ok then
        return nil, err
    end
    return plan.agents:order(inst, "configure", as_superuser(plan,
        { epoch = epoch, step = CONFIGURE, settings = merged(found.wanted, more),
          hba = found.hba }))
end

-- The server reads its files before it is stopped for them.
local function try_files(plan, inst)
    local ok, err = plan.agents:ask(inst, "try", {})
    if not ok and err.code == "child" then
        err = mr.error("usage", "it would not start again: " .. err.message,
            { instance = cluster.name(inst), hint = "it was not stopped; mend pg.settings" })
    end
    return ok, err
end

local function restart(plan, found, epoch)
    local inst = found.inst
    local ok, err = try_files(plan, inst)
    if ok then
        term.info("Restarting %s", cluster.name(inst))
        -- It is stopped with care: what hangs is no reason to kill it.
        ok, err = plan.agents:order(inst, "stop", { epoch = epoch, step = STOP, mode = "fast",
            wait_ms = STOP_MS, fence = false }, { timeout_ms = STOP_MS + 5000 })
    end
    if ok then
        ok, err = plan.agents:order(inst, "start", { epoch = epoch, wait_ms = START_MS,
            listen = instance.listen(inst) }, { timeout_ms = START_MS + 15000 })
    end
    return ok, err
end

-- By the cluster's own way, over the network as moonrise: that instance and none else.
local function reach(plan, found)
    return wait.eventually(REACH_MS, PAUSE_MS, function()
        local row, err = instance.ask(plan.env, found.inst,
            "select system_identifier::text as sysid from pg_control_system()")
        if row and row.sysid ~= found.facts.sysid then
            err = mr.error("refused", ("at %s port %d another server answers, of system %s"):format(
                found.inst.address, found.inst.port, row.sysid),
                { instance = cluster.name(found.inst),
                  hint = "name an address and a port at which this one alone is reached" })
        end
        return row and row.sysid == found.facts.sysid or nil, err
    end)
end

local function each_primary(plan, fn)
    for _, found in ipairs(plan.adopted) do
        if found.inst.role == "p" then
            local ok, err = fn(found)
            if not ok then
                return nil, err
            end
        end
    end
    return true
end

-- One after another: each is somebody's production.
local function take_primaries(plan, stage)
    stage("the role moonrise")
    local ok, err = each_primary(plan, function(found)
        return make_role(plan, found.inst)
    end)
    if not ok then
        return nil, err
    end
    stage("the configuration")
    return each_primary(plan, function(found)
        local done, problem = configure(plan, found, create.FIRST_EPOCH)
        if done and found.restarts then
            done, problem = restart(plan, found, create.FIRST_EPOCH)
        end
        if not done then
            return nil, problem
        end
        return reach(plan, found)
    end)
end

local ROLE_SQL = "select rolpassword from pg_authid where rolname = 'moonrise'"

-- What was made on the primary a moment ago has come to the standby: it is that primary's.
local function proven(plan, found, primary)
    local mine, err = instance.first_row(create.superuser(plan, "postgres", primary), ROLE_SQL)
    if not mine then
        return nil, err
    end
    return wait.eventually(REPLAY_MS, PAUSE_MS, function()
        local theirs, problem = instance.first_row(
            create.superuser(plan, "postgres", found.inst), ROLE_SQL)
        if theirs and theirs.rolpassword == mine.rolpassword then
            return true
        end
        return nil, problem or mr.error("refused", "its primary's newest change has not come to it",
            { instance = cluster.name(found.inst),
              hint = "see in its log whether it streams, and from where" })
    end)
end

local function point(ctx, pair, plan, epoch)
    local found, spec = plan.standbys[pair.mirror.dbid],
        instance.standby_spec(ctx.env, pair.mirror, pair.primary)
    local ok, err = ctx.agents:order(pair.primary, "slot",
        { epoch = epoch, create = true, name = spec.slot })
    if ok then
        ok, err = configure(plan, found, epoch, spec.settings)
    end
    if ok and found.restarts then
        ok, err = restart(plan, found, epoch)
    end
    if ok then
        ok, err = reach(plan, found)
    end
    return ok, err
end

local function take_standby(ctx, pair, plan)
    local ok, err = proven(plan, plan.standbys[pair.mirror.dbid], pair.primary)
    local epoch
    if ok then
        epoch, err = ctx.cat:call("epoch_reserve", plan.tokens[pair.content], pair.content,
            "init: adopt the standby")
    end
    if epoch then
        ok, err = point(ctx, pair, plan, epoch)
    end
    if not epoch or not ok then
        return nil, err
    end
    ok, err = streaming.confirm(ctx, pair.primary, pair.mirror)
    if ok then
        ok, err = create.bring_in_sync(ctx, pair, plan)
    end
    return ok, err
end

local function drop_former_slot(plan, primary, name)
    local ok, err = create.superuser(plan, "postgres", primary):query(
        "select pg_drop_replication_slot($1)", { name })
    if not ok then
        term.warn("%s: the slot %s, which nobody reads any more, could not be dropped and holds "
            .. "WAL: %s", cluster.name(primary), name, err.message)
    end
end

-- A slot that nobody reads any more would hold WAL for ever. But a standby that is given back needs
-- its own again: these go once there is nothing left that could fail.
local function drop_former_slots(plan)
    for _, standby in pairs(plan.standbys) do
        for _, found in ipairs(standby.former_slot and plan.adopted or {}) do
            if found.inst.role == "p" and found.inst.content == standby.inst.content then
                drop_former_slot(plan, found.inst, standby.former_slot)
            end
        end
    end
end

--- Adopts everything; the first failure comes back, and what was done stays (see adopt_undo).
---@param plan AdoptPlan
---@param options {batch: integer, stage: function, progress: function?}
---@return boolean? ok
---@return Error? err
function M.run(plan, options)
    plan.take_standby, plan.adoption = take_standby, mr.random_hex(8)
    plan.maker = plan.adoption
    plan.make_database = adopt_undo.database_statements(plan)
    local ok, err = mr.make_dir(home.state_dir(plan.config.name))
    if ok then
        ok, err = adopt_undo.write_record(plan)
    end
    if ok then
        ok, err = create.write_passfiles(plan)
    end
    if ok then
        ok, err = take_primaries(plan, options.stage)
    end
    if not ok then
        return nil, err
    end
    ok, err = create.with_catalog(plan, options)
    if ok then
        drop_former_slots(plan)
    end
    return ok, err
end

return M
