--- Making a cluster: servers, catalog, mirrors, in sync; and taking it all back when that fails.
local arming = require("lib.arming")
local catalog = require("lib.catalog")
local cluster = require("lib.cluster")
local configuration = require("lib.configuration")
local create_plan = require("lib.create_plan")
local fdw = require("lib.fdw")
local hold = require("lib.hold")
local home = require("lib.home")
local host_setup = require("lib.host_setup")
local instance = require("lib.instance")
local merged = require("lib.merged")
local mr = require("moonrise")
local reader = require("lib.reader")
local relay = require("lib.relay")
local roles = require("lib.roles")
local settings = require("lib.settings")
local superuser = require("lib.superuser")

local M = {}

local INITDB_DEADLINE_MS = 300000
local START_DEADLINE_MS = 60000
local SCRIPT_MS = 60000
local ARM_DEADLINE_MS = 60000
local LEASE = "10 minutes"
--- Until there is a catalog all orders are given under this epoch.
M.FIRST_EPOCH = 1
--- A directory is removed under the last epoch there can be. The catalog that has reserved the
--- others goes with it and cannot be asked for one; a number that it has given to an order which is
--- still under way would let that order come after the removal. No catalog ever reserves this one,
--- and nothing but the removal itself, run again, is carried out after it.
M.LAST_EPOCH = 999999999999999

-- The first failure of mr.parallel's results.
local function first_error(results)
    for _, result in pairs(results) do
        if type(result) == "table" and result.error then
            return result.error
        end
    end
    return nil
end

-- Runs fn(item) for each, so many at a time; the first failure comes back.
local function each(items, limit, fn)
    local err = first_error(mr.parallel(items, limit, function(item)
        local ok, problem = fn(item)
        return ok and { done = true }, problem
    end))
    return not err or nil, err
end

-- Where an instance's socket is: one that was adopted may have to be started anew first.
local function socket_dir(plan, inst)
    return plan.sockets and plan.sockets[inst.dbid] or instance.socket_dir(inst)
end

local function write_record(plan, stage)
    return mr.write_file(create_plan.record_path(plan.config.name), mr.json_encode({
        stage = stage, datadir = plan.env.datadir, maker = plan.maker, pid = mr.whoami().pid }))
end

--- Makes the password of role moonrise and keeps it on every host.
---@param plan CreatePlan
---@return boolean? ok
---@return Error? err
function M.write_passfiles(plan)
    local password = mr.random_hex(24)
    plan.secret = mr.scram_secret(password)
    local text = ("*:*:*:%s:%s\n"):format(plan.env.user, password)
    local ok, err = mr.write_file(plan.env.passfile, text)
    if ok then
        ok, err = host_setup.keep_secret(plan.agents, plan.env,
            cluster.values(plan.instances, "hostname"))
    end
    return ok, err
end

local function make_primary(plan, inst, found)
    local hello, err = plan.agents:call(inst.hostname, "hello")
    if not hello then
        return nil, err
    end
    local conf = plan.config
    local template_sql, init_sql = roles.statements(plan.secret)
    local made
    made, err = plan.agents:order(inst, "initdb", {
        epoch = M.FIRST_EPOCH, maker = plan.maker, superuser = hello.os_user,
        encoding = conf.pg.encoding or "UTF8",
        locale = conf.pg.locale or "C.UTF-8",
        settings = settings.instance(conf, inst, {
            free_bytes = found.free_bytes, instances = plan.per_host[inst.hostname] }),
        hba = settings.hba(conf, plan.instances, hello.os_user, inst),
        template_sql = template_sql, init_sql = init_sql,
    }, { timeout_ms = INITDB_DEADLINE_MS })
    if not made then
        return nil, err
    end
    made, err = plan.agents:order(inst, "adopt", { epoch = M.FIRST_EPOCH })
    if not made then
        return nil, err
    end
    return plan.agents:order(inst, "start", {
        epoch = M.FIRST_EPOCH, listen = instance.listen(inst), wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
end

--- As the server's superuser: on the coordinator, unless another instance is given.
---@param plan CreatePlan
---@param dbname string
---@param inst? table
---@return Superuser
function M.superuser(plan, dbname, inst)
    return superuser.of(plan.agents, inst or plan.instances[1], dbname,
        { user = plan.superuser, passfile = plan.superuser_passfile })
end

-- The database, as its server's superuser; everything after that as role moonrise.
local function make_catalog(plan)
    local server = M.superuser(plan, "postgres")
    local ok, err = server:run(plan.make_database or { "create database moonrise" })
    if ok then
        ok, err = server:run({
            "revoke all on database moonrise from public",
            "grant connect on database moonrise to moonrise",
            "alter database moonrise set search_path = moonrise",
            -- A client that hangs in a transaction keeps nobody else from acting for long.
            "alter role moonrise in database moonrise set lock_timeout = '10s'",
            "alter role moonrise in database moonrise " ..
                "set idle_in_transaction_session_timeout = '10s'",
        })
    end
    local script
    if ok then
        script, err = catalog.script()
    end
    if not script then
        return nil, err
    end
    local database = M.superuser(plan, "moonrise")
    ok, err = database:query(script, nil, { timeout_ms = SCRIPT_MS })
    if ok then
        ok, err = database:query("select moonrise.cluster_create($1, $2)",
            { plan.config.name, plan.config.text })
    end
    if ok and plan.grants then
        ok, err = database:run(plan.grants)
    end
    return ok, err
end

-- All contents are ours until the cluster is whole; rows of mirrors come in as down.
local function register(ctx, plan)
    local ok, err = ctx.cat:call("epoch_seen", M.FIRST_EPOCH)
    if not ok then
        return nil, err
    end
    plan.tokens = {}
    for _, inst in ipairs(plan.instances) do
        local token = plan.tokens[inst.content]
        if not token then
            token, err = ctx.cat:call("lease_take", inst.content, hold.holder(), "init", "making",
                LEASE)
            if not token then
                return nil, err
            end
            plan.tokens[inst.content] = token
        end
        ok, err = ctx.cat:call("instance_add", token, {
            dbid = inst.dbid, content = inst.content, role = inst.role, port = inst.port,
            hostname = inst.hostname, address = inst.address, datadir = inst.datadir })
        local timeline = ok and plan.timelines and plan.timelines[inst.dbid]
        if timeline then
            ok, err = ctx.cat:call("timeline_seen", token, inst.content, timeline)
        end
        if not ok then
            return nil, err
        end
    end
    return true
end

local SYNC_SQL = [[
select current_setting('synchronous_commit') as level,
       current_setting('server_version_num')::integer as version]]

-- Why waiting would not bring this pair in sync; it is whole nevertheless.
local function never_in_sync(ctx, pair)
    local row, err = instance.ask(ctx.env, pair.primary, SYNC_SQL)
    if not row then
        return nil, err
    end
    return arming.never(row.level, row.version) or false
end

--- Records that the mirror is up, and brings the pair in sync if it can be.
---@param ctx table {env, cat, agents}
---@param pair table
---@param plan CreatePlan
---@return boolean? ok
---@return Error? err
function M.bring_in_sync(ctx, pair, plan)
    local token = plan.tokens[pair.content]
    local ok, err = ctx.cat:call("mirror_up", token, pair.content, "init")
    if not ok then
        return nil, err
    end
    local why
    why, err = never_in_sync(ctx, pair)
    if why then
        plan.out_of_sync[pair.primary.dbid] = why
        return true
    elseif why == nil then
        return nil, err
    end
    return arming.arm_within(ctx, pair, token, ARM_DEADLINE_MS)
end

local function make_mirror(ctx, pair, plan, options)
    local token = plan.tokens[pair.content]
    local env, mirror, primary = ctx.env, pair.mirror, pair.primary
    local epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "init: make the mirror")
    if not epoch then
        return nil, err
    end
    local args = merged(instance.standby_spec(env, mirror, primary), {
        epoch = epoch, maker = plan.maker, type = "full", start = true,
        source = instance.recovery_source(env, mirror, primary) })
    local done
    done, err = configuration.add(ctx, args, { source = primary, target = mirror }, {})
    if not done then
        return nil, err
    end
    done, err = relay.recover(ctx, mirror, primary, args, options.progress and function(report)
        options.progress(mirror, report)
    end)
    if not done then
        return nil, err
    end
    return M.bring_in_sync(ctx, pair, plan)
end

local function make_mirrors(ctx, plan, options)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    reader.remember(ctx.env, instances)
    local list = {}
    for _, pair in ipairs(cluster.pairs(instances)) do
        if pair.mirror then
            table.insert(list, pair)
        end
    end
    if #list > 0 then
        options.stage("mirrors")
    end
    return each(list, options.batch, function(pair)
        local is_there = plan.standbys and plan.standbys[pair.mirror.dbid]
        return (is_there and plan.take_standby or make_mirror)(ctx, pair, plan, options)
    end)
end

local function make_primaries(plan, options)
    local list = {}
    for i, inst in ipairs(plan.instances) do
        if inst.role == "p" then
            table.insert(list, { inst = inst, found = plan.found[i] })
        end
    end
    return each(list, options.batch, function(entry)
        return make_primary(plan, entry.inst, entry.found)
    end)
end

-- A database of cluster.lua's `fdw` is made on every primary, with foreign servers on the
-- coordinator that follow the primaries.
local function make_databases(ctx, plan)
    for _, dbname in ipairs(plan.config.fdw.databases) do
        for _, inst in ipairs(plan.instances) do
            if inst.role == "p" then
                local ok, err = M.superuser(plan, "postgres", inst):query(
                    ('create database "%s"'):format(dbname))
                if not ok then
                    return nil, err
                end
            end
        end
        local ok, err = fdw.install(ctx, dbname)
        if not ok then
            return nil, err
        end
    end
    return true
end

-- Tools find the cluster in the coordinator's directory, and in the standby's after an activation.
local function describe(plan)
    for _, inst in ipairs(plan.instances) do
        if inst.content == -1 then
            local env = setmetatable({
                port = inst.port, listen = inst.address, socket_dir = socket_dir(plan, inst),
            }, { __index = plan.env })
            local ok, err = plan.agents:ask(inst, "describe", { text = home.text(env) })
            if not ok then
                return nil, err
            end
        end
    end
    return true
end

local function finish(ctx, plan)
    local ok, err = describe(plan)
    if ok then
        ok, err = write_record(plan, "made")
    end
    if not ok then
        return nil, err
    end
    for _, token in pairs(plan.tokens) do
        ctx.cat:call("lease_drop", token)
    end
    ctx.cat:journal("init", { text = ("cluster %s was %s"):format(plan.config.name,
        plan.adopted and "adopted" or "made") })
    return true
end

--- Makes the catalog on a coordinator that runs, then mirrors, databases and all else.
--- plan.standbys[dbid] are mirrors that run already: plan.take_standby(ctx, pair, plan) makes them
--- the cluster's.
---@param plan CreatePlan
---@param options {batch: integer, stage: function, progress: function?}
---@return boolean? ok
---@return Error? err
function M.with_catalog(plan, options)
    options.stage("the catalog")
    local ok, err = make_catalog(plan)
    if not ok then
        return nil, err
    end
    local cat
    cat, err = catalog.open(plan.env)
    if not cat then
        return nil, err
    end
    local ctx = { env = plan.env, cat = cat, agents = plan.agents }
    ok, err = register(ctx, plan)
    if ok then
        ok, err = make_mirrors(ctx, plan, options)
    end
    if ok then
        ok, err = make_databases(ctx, plan)
    end
    if ok then
        ok, err = finish(ctx, plan)
    end
    cat:close()
    return ok, err
end

--- Makes everything; the first failure comes back, and what was made lies where it is (see undo).
--- plan.out_of_sync[dbid] says of a primary why its pair is not in sync and will not be.
---@param plan CreatePlan
---@param options {batch: integer, stage: function, progress: function?}
---@return boolean? ok
---@return Error? err
function M.run(plan, options)
    local stage = options.stage
    plan.out_of_sync, plan.maker = {}, mr.random_hex(8)
    local ok, err = mr.make_dir(home.state_dir(plan.config.name))
    if ok then
        ok, err = write_record(plan, "making")
    end
    if ok then
        ok, err = M.write_passfiles(plan)
    end
    if not ok then
        return nil, err
    end
    stage("servers")
    ok, err = make_primaries(plan, options)
    if not ok then
        return nil, err
    end
    return M.with_catalog(plan, options)
end

--- Stops and removes one instance. Only what the plan's maker has made goes: the agent refuses
--- everything else, whatever lies in that place now. The plan of the run that made the directory
--- may have numbered its instances otherwise.
---@param plan {agents: table, maker: string}
---@param inst table
---@param was_empty? boolean whether the directory was there
---@return any done
---@return Error? err
function M.remove(plan, inst, was_empty)
    local word, err = plan.agents:inspect(inst)
    if not word then
        return nil, err
    elseif word.kind == "missing" or word.kind == "empty" and word.maker ~= plan.maker then
        return true
    end
    local dbid = word.epoch and word.epoch.dbid > 0 and word.epoch.dbid or nil
    local owner = setmetatable({ dbid = dbid }, { __index = inst })
    local removed
    removed, err = plan.agents:order(owner, "remove_datadir",
        { epoch = M.LAST_EPOCH, maker = plan.maker, fence = true })
    if removed and was_empty then
        return plan.agents:call(inst.hostname, "makedirs", { datadir = inst.datadir })
    end
    return removed, err
end

--- Stops and removes what this run, or an interrupted one, has made of the plan's directories.
---@param plan CreatePlan
---@return Error[] problems what could not be removed
function M.undo(plan)
    local problems = {}
    local results = mr.parallel(plan.found, 16, function(found)
        local ok, err = M.remove(plan, found.inst, found.kind == "empty")
        return ok and { done = true }, err
    end)
    for _, result in ipairs(results) do
        if result.error then
            table.insert(problems, result.error)
        end
    end
    if #problems == 0 then
        mr.remove_file(plan.env.passfile)
        mr.remove_file(create_plan.record_path(plan.config.name))
    end
    return problems
end

--- Removes what an interrupted init has left in directories of this plan.
---@param plan CreatePlan
---@return Error[] problems
function M.remove_leftovers(plan)
    local left = { agents = plan.agents, env = plan.env, config = plan.config,
                   maker = plan.left_by, found = {} }
    for _, found in ipairs(plan.found) do
        if found.leftover then
            table.insert(left.found, found)
        end
    end
    return #left.found > 0 and M.undo(left) or {}
end

return M
