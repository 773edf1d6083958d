--- Starting a cluster: the coordinator first, then everything that its catalog says belongs.
local alone = require("lib.alone")
local arming = require("lib.arming")
local catalog = require("lib.catalog")
local cluster = require("lib.cluster")
local confirm = require("lib.confirm")
local guard = require("lib.guard")
local history = require("lib.history")
local hold_all = require("lib.hold_all")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local mr = require("moonrise")
local stop_requests = require("lib.stop_requests")
local streaming = require("lib.streaming")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

local START_DEADLINE_MS = 120000
local CATALOG_DEADLINE_MS, CATALOG_PAUSE_MS = 20000, 100
local ARM_DEADLINE_MS = 15000

--- The coordinator as an instance, from what lies in its directory.
---@param ctx table {env, agents}
---@return table? inst
---@return table|Error word the host's word about it, or what is wrong
function M.coordinator(ctx)
    local env = ctx.env
    if not env.datadir then
        return nil, mr.error("usage",
            "starting and stopping needs the coordinator's data directory",
            { hint = "give it with -d DIR, on the coordinator's host" })
    end
    local inst = { dbid = 1, content = -1, hostname = "localhost", address = env.listen,
                   port = env.port, datadir = env.datadir }
    local word, err = ctx.agents:call("localhost", "inspect", {
        datadir = env.datadir, port = env.port, bin = env.bin, user = env.user,
        passfile = env.passfile,
    })
    if not word then
        return nil, err
    end
    if word.kind ~= "datadir" or not word.epoch or not word.epoch.valid then
        local what = word.kind ~= "datadir" and word.kind
            or "no instance that moonrise has adopted"
        return nil, mr.error("refused", ("%s is %s"):format(env.datadir, what),
            { instance = "the coordinator" })
    end
    inst.dbid = word.epoch.dbid
    return inst, word
end

-- There is no catalog yet to ask for an epoch: the next one that this directory has not seen. The
-- catalog is told, so that it never gives that number out again.
local function start_coordinator(ctx, inst, word, options)
    local epoch = word.epoch.epoch + 1
    local done, err = ctx.agents:order(inst, "start", {
        epoch = epoch, listen = ctx.env.listen, settings = options.settings,
        wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
    if not done then
        return nil, err
    end
    ctx.cat, err = wait.eventually(CATALOG_DEADLINE_MS, CATALOG_PAUSE_MS, function()
        return catalog.open(ctx.env, { timeout_ms = 10000 })
    end)
    if not ctx.cat then
        return nil, err
    end
    local seen
    seen, err = ctx.cat:call("epoch_seen", epoch)
    return seen and "started", err
end

--- Starts the coordinator unless it runs, and opens its catalog as ctx.cat.
---@param ctx table {env, agents}
---@param options {settings: table?}
---@return "started"|"already"|nil outcome
---@return Error? err
function M.start_coordinator(ctx, options)
    local inst, word = M.coordinator(ctx)
    if not inst then
        return nil, word
    elseif word.standby_signal then
        return nil, mr.error("refused", ("%s is a standby's directory"):format(inst.datadir),
            { hint = "the standby is started by the coordinator's start" })
    end
    -- One that somebody else started from its files listens nowhere: it is started anew.
    if not word.stopped and (word.postmaster or {}).listen ~= "" then
        local err
        ctx.cat, err = catalog.open(ctx.env, { timeout_ms = 5000 })
        if ctx.cat then
            return "already"
        elseif err.sqlstate then
            return nil, err
        end
    end
    return start_coordinator(ctx, inst, word, options)
end

local function result(inst, outcome, err)
    return { inst = inst, outcome = outcome, err = err }
end

local function start_instance(ctx, inst, epoch)
    local done, err = ctx.agents:order(inst, "start", {
        epoch = epoch, listen = instance.listen(inst), wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
    if not done then
        return result(inst, "failed", err)
    end
    if inst.role == "p" and done.in_recovery then
        return result(inst, "failed", mr.error("refused",
            "it is the catalog's primary and is in recovery: it serves no writes",
            { instance = cluster.name(inst), hint = "moonrise watch promotes it when its roles "
                .. "were changed; run start again" }))
    end
    local r = result(inst, done.already and "already" or "started")
    r.streaming = done.streaming
    return r
end

-- The host's word about the mirror, asked for once a start.
local function look(ctx, pair, known)
    if not known.word and not known.problem then
        known.word, known.problem = history.look(ctx, pair)
    end
    return known.word, known.problem
end

local function start_mirror(ctx, pair, known)
    local inst = pair.mirror
    local word, err = look(ctx, pair, known)
    if not word then
        return result(inst, "failed", err)
    end
    local refusal = instance.start_refusal(word, known.state)
    if refusal then
        return result(inst, "skipped", mr.error("refused", refusal,
            { instance = cluster.name(inst), hint = "moonrise recoverseg brings it back" }))
    end
    return start_instance(ctx, inst, known.epoch)
end

-- A primary that is an older copy of itself serves nobody; its mirror has everything, and is there
-- to take over. Nil for any other.
local function start_successor(ctx, pair, known)
    if not pair.mirror or pair.mirror.mode ~= "s" then
        return nil
    end
    local word = look(ctx, pair, known)
    local older = word and instance.older_copy(word, known.state)
    return older and { result(pair.primary, "skipped", history.older_copy(pair, older)),
        start_mirror(ctx, pair, known) }
end

-- A mirror that is not to be started; one that runs is taken up like all others.
local function leave_mirror(ctx, pair, known)
    local word, err = look(ctx, pair, known)
    if not word then
        return result(pair.mirror, "failed", err)
    elseif word.stopped then
        return result(pair.mirror, "left")
    end
    return start_mirror(ctx, pair, known)
end

-- What the catalog calls in sync is so only while commits wait for that very mirror.
local function check_armed(ctx, pair, token)
    local state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    end
    local row
    row, err = instance.ask(ctx.env, pair.primary,
        "select current_setting('synchronous_standby_names') as names")
    if not row then
        return nil, err
    end
    local names = row.names
    if state.armed_name and names == state.armed_name then
        return true
    end
    return hosts_record.out_of_sync(ctx, pair, { token = token,
        reason = ("after the start the primary waits for '%s', not for '%s'")
            :format(names, state.armed_name or "") })
end

--- A mirror that came back is up; what is not in sync is armed, or left to the watcher.
---@param ctx table {env, agents, cat}
---@param pair table
---@param token integer the content's lease
---@param mirror {outcome: string, streaming: boolean?} how its start went; gets a `note` when the
--- pair is not in sync yet
function M.settle(ctx, pair, token, mirror)
    if mirror.outcome ~= "started" and mirror.outcome ~= "already" then
        return
    end
    local ok, err = true, nil
    if pair.mirror.status == "d" then
        if not mirror.streaming then
            local problem = streaming.slot_problem(ctx, pair.primary, pair.mirror)
            mirror.note = problem and problem .. "; moonrise recoverseg brings it back"
                or "it runs and does not stream yet; the watcher takes it up"
            return
        end
        ok, err = streaming.confirm(ctx, pair.primary, pair.mirror)
        if not ok then
            mirror.note = ("%s; %s"):format(err.message, err.hint or "the watcher takes it up")
            return
        end
        ok, err = ctx.cat:call("mirror_up", token, pair.content, "started and streaming")
    elseif pair.mirror.mode == "s" then
        ok, err = check_armed(ctx, pair, token)
        if ok == true then
            return
        end
    end
    if ok then
        ok, err = arming.arm_within(ctx, pair, token, ARM_DEADLINE_MS)
    end
    if not ok then
        mirror.note = "not in sync yet: " .. tostring(err)
    end
end

local function jobs_of(ctx, pair, known, options)
    local jobs = {}
    if pair.content ~= -1 then
        table.insert(jobs, function()
            return start_instance(ctx, pair.primary, known.epoch)
        end)
    end
    if pair.mirror then
        local leave = pair.content == -1 and options.no_standby
        table.insert(jobs, function()
            return (leave and leave_mirror or start_mirror)(ctx, pair, known)
        end)
    end
    return jobs
end

-- What follows from how primary and mirror came up; nothing does from a start that was
-- interrupted.
local function conclude(ctx, pair, token, results)
    local by_dbid = {}
    for _, r in ipairs(results) do
        by_dbid[r.inst.dbid] = r
    end
    local primary, mirror = by_dbid[pair.primary.dbid], pair.mirror and by_dbid[pair.mirror.dbid]
    if not mirror or (primary and primary.outcome == "failed") or stop_requests.asked() then
        return
    elseif mirror.outcome == "started" or mirror.outcome == "already" then
        M.settle(ctx, pair, token, mirror)
        return
    end
    local why = mirror.outcome == "left" and "started without it" or "its start failed"
    local ok, err = alone.go_on(ctx, pair, token, why)
    if not ok then
        table.insert(results, result(pair.primary, "waiting", err))
    end
end

-- The coordinator runs. What an earlier command still wants of it, a stop above all, comes too late
-- once it has seen this epoch, too.
local function bind_coordinator(ctx, pair, epoch)
    if pair.content ~= -1 then
        return true
    end
    local r = start_instance(ctx, pair.primary, epoch)
    return r.outcome ~= "failed" or nil, r.err
end

--- Before a primary is started: where commits are let through at a start, none is promised to be
--- on the mirror from then on. The coordinator's version stands for all: no pair is recorded as in
--- sync unless its primary's own version waits (lib/arming.lua).
---@param ctx table {env, agents, cat}
---@param pair table confirmed; its mirror's mode is as the catalog's then
---@param token integer the content's lease
---@return any ok
---@return Error? err
function M.forget_sync(ctx, pair, token)
    if not pair.mirror or pair.mirror.mode ~= "s"
        or guard.server_waits(ctx.cat.conn:server_version()) then
        return true
    end
    local ok, err = hosts_record.out_of_sync(ctx, pair, { token = token,
        reason = "this version lets commits through while it starts" })
    if ok then
        pair.mirror.mode = "n"
    end
    return ok, err
end

-- Primary and mirror at the same time: each needs the other to become useful, neither to start.
local function start_pair(ctx, pair, token, options)
    local epoch, ok, state
    local confirmed, err = confirm.unless_confirmed(ctx, pair, token)
    if confirmed then
        pair = confirmed
        ok, err = M.forget_sync(ctx, pair, token)
    end
    if ok then
        epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "start")
    end
    if epoch then
        ok, err = bind_coordinator(ctx, pair, epoch)
    end
    if epoch and ok then
        state, err = ctx.cat:pair_state(pair.content)
    end
    if not state then
        return { result(pair.primary, "failed", err) }
    end
    local known = { epoch = epoch, state = state }
    local successor = start_successor(ctx, pair, known)
    if successor then
        return successor
    end
    local jobs = jobs_of(ctx, pair, known, options)
    local results = mr.parallel(jobs, 2, function(job)
        return job()
    end)
    for i, r in ipairs(results) do
        if r.error then
            results[i] = result(pair.primary, "failed", r.error)
        end
    end
    conclude(ctx, pair, token, results)
    return results
end

-- In the hands of a runbook of its own, which brings it up or leaves that to the next start.
local function skipped_pair(pair, err)
    return { result(pair.mirror or pair.primary, "skipped", err) }
end

local function start_all(ctx, pairs_list, leases, options)
    local nested = mr.parallel(pairs_list, options.batch, function(pair)
        local busy = leases.skipped[pair.content]
        if busy then
            return skipped_pair(pair, busy)
        end
        return start_pair(ctx, pair, leases.tokens[pair.content], options)
    end)
    local results = {}
    for i, list in ipairs(nested) do
        if list.error then
            table.insert(results, result(pairs_list[i].primary, "failed", list.error))
        else
            for _, r in ipairs(list) do
                table.insert(results, r)
            end
        end
    end
    if stop_requests.asked() then
        return nil, mr.error("cancelled", "the start was interrupted",
            { hint = "what was begun goes on when start is run again" })
    elseif next(leases.skipped) then
        return results
    end
    local ok, err = ctx.cat:call("cluster_set_state", hold_all.list(leases.tokens), "running",
        "start")
    if not ok then
        return nil, err
    end
    return results
end

local function read_pairs(ctx)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    return cluster.pairs(instances)
end

local function without_standby(ctx, token)
    local list, err = read_pairs(ctx)
    if not list then
        return nil, err
    end
    local results = {}
    for _, pair in ipairs(list) do
        if pair.content == -1 then
            results = start_pair(ctx, pair, token, { no_standby = true })
        end
    end
    for _, r in ipairs(results) do
        if r.inst.role == "p" and r.err then
            return nil, r.err
        elseif r.note or r.err then
            term.warn("%s: %s", cluster.name(r.inst), r.note or tostring(r.err))
        end
    end
    return true
end

--- What becomes of a coordinator that was started and nothing else with it: its commits do not wait
--- for a standby that does not run.
---@param ctx table {env, agents, cat}
---@return boolean? ok
---@return Error? err
function M.coordinator_alone(ctx)
    return hold_all.contents(ctx, { -1 }, "start", function(leases)
        return without_standby(ctx, leases.tokens[-1])
    end)
end

--- Starts all instances but the coordinator, which runs. In a cluster that is running already,
--- contents that somebody else works on are skipped, and named with who it is.
---@param ctx table {env, agents, cat}
---@param options {batch: integer, no_standby: boolean?}
---@return {inst: table, outcome: string, err: Error?, note: string?}[]? results
---@return Error? err
function M.start_rest(ctx, options)
    local before, err = read_pairs(ctx)
    if not before then
        return nil, err
    end
    local contents = {}
    for i, pair in ipairs(before) do
        contents[i] = pair.content
    end
    local state
    state, err = ctx.cat:state()
    if not state then
        return nil, err
    end
    return hold_all.contents(ctx, contents, "start", function(leases)
        -- Until now somebody else may have changed roles.
        local list, problem = read_pairs(ctx)
        if not list then
            return nil, problem
        end
        return start_all(ctx, list, leases, options)
    end, state.state == "running")
end

return M
