--- Stopping a cluster: clients first, since the coordinator goes first, then the primaries while
--- their mirrors still stream, then the mirrors.
---
--- Once the coordinator is gone nobody can be asked for an epoch, so all are reserved before, and
--- what is to be stopped is written down beside the passfile: an interrupted stop is picked up by
--- the next.
local bring_up = require("lib.bring_up")
local agents = require("lib.agents")
local catalog = require("lib.catalog")
local cluster = require("lib.cluster")
local hold_all = require("lib.hold_all")
local home = require("lib.home")
local instance = require("lib.instance")
local mr = require("moonrise")
local reader = require("lib.reader")

local M = {}

local function record_path(env)
    return home.state_dir(env.name) .. "/stop.json"
end

local function read_record(env)
    local text = mr.read_file(record_path(env))
    return text and mr.json_decode(text)
end

--- How many sessions clients have on the coordinator; a smart stop does not interrupt them.
---@param ctx table {cat}
---@return integer? count
---@return Error? err
function M.clients(ctx)
    local rows, err = ctx.cat:query(instance.CLIENTS_SQL)
    return rows and rows[1].n, err
end

--- Stops one instance; one that hangs through an immediate stop is ended by its host, and only
--- then.
---@param ctx table {agents}
---@param inst table
---@param epoch integer
---@param options {mode: "fast"|"immediate", wait_ms: integer}
---@return table? done {already: boolean?, fenced: boolean?}
---@return Error? err
function M.stop_instance(ctx, inst, epoch, options)
    local word, err = ctx.agents:inspect(inst)
    if not word then
        return nil, err
    elseif word.stopped then
        return { already = true }
    end
    local done
    done, err = ctx.agents:order(inst, "stop", {
        epoch = epoch, mode = options.mode, wait_ms = options.wait_ms,
        fence = options.mode == "immediate",
    }, { timeout_ms = options.wait_ms + 10000 })
    if done and done.stopped then
        return done
    elseif options.mode == "immediate" then
        done, err = ctx.agents:order(inst, "fence",
            { epoch = epoch, step = agents.steps.stop + 1 })
        return done and { fenced = true }, err
    elseif err and err.code ~= "timeout" then
        return nil, err
    end
    return nil, mr.error("timeout",
        ("it did not stop within %d s"):format(options.wait_ms / 1000),
        { instance = cluster.name(inst),
          hint = "it goes on stopping: run stop again, or end it with -M immediate" })
end

local function stop_list(ctx, list, record, options)
    local results = {}
    local answers = mr.parallel(list, options.batch, function(inst)
        return M.stop_instance(ctx, inst, record.epochs[tostring(inst.content)], options)
    end)
    for i, answer in ipairs(answers) do
        results[i] = { inst = list[i], err = answer.error, killed = answer.fenced,
                       outcome = (answer.error and "failed") or (answer.already and "already")
                           or "stopped" }
    end
    return results
end

local function of_role(record, fits)
    local list = {}
    for _, inst in ipairs(record.instances) do
        if fits(inst) then
            table.insert(list, inst)
        end
    end
    return list
end

local function append(results, more)
    for _, r in ipairs(more) do
        table.insert(results, r)
    end
end

local function failed(results)
    for _, r in ipairs(results) do
        if r.outcome == "failed" then
            return true
        end
    end
    return false
end

-- The contents whose primaries are still about to stop: each needs its mirror for that.
local function stopping(results)
    local contents = {}
    for _, r in ipairs(results) do
        contents[r.inst.content] = r.err and r.err.code == "timeout" or nil
    end
    return contents
end

-- The coordinator that does not stop keeps the rest running: clients are still there.
local function carry_out(ctx, record, options)
    local results = stop_list(ctx, of_role(record, function(inst)
        return inst.content == -1 and inst.role == "p"
    end), record, options)
    if failed(results) then
        return results
    end
    append(results, stop_list(ctx, of_role(record, function(inst)
        return inst.content ~= -1 and inst.role == "p"
    end), record, options))
    local awaited = stopping(results)
    append(results, stop_list(ctx, of_role(record, function(inst)
        return inst.role == "m" and not awaited[inst.content]
            and not (inst.content == -1 and options.no_standby)
    end), record, options))
    if not failed(results) then
        mr.remove_file(record_path(ctx.env))
    end
    return results
end

local function reserve(ctx, contents, leases)
    local epochs = {}
    for _, content in ipairs(contents) do
        local epoch, err = ctx.cat:call("epoch_reserve", leases.tokens[content], content, "stop")
        if not epoch then
            return nil, err
        end
        epochs[tostring(content)] = epoch
    end
    return epochs
end

-- Epochs, the record, and the state that tells the watcher that nothing of what follows is a
-- failure.
local function prepare(ctx, instances, contents)
    return hold_all.contents(ctx, contents, "stop", function(leases)
        local epochs, err = reserve(ctx, contents, leases)
        if not epochs then
            return nil, err
        end
        local record = { epochs = epochs, instances = instances }
        local ok
        ok, err = mr.write_file(record_path(ctx.env), mr.json_encode(record))
        if not ok then
            return nil, err
        end
        ok, err = ctx.cat:call("cluster_set_state", hold_all.list(leases.tokens), "stopped", "stop")
        if not ok then
            return nil, err
        end
        leases.gone = true
        return record
    end)
end

--- Stops the whole cluster.
---@param ctx table {env, agents, cat}; the catalog's session is closed
---@param options {mode: "fast"|"immediate", wait_ms: integer, batch: integer, no_standby: boolean?}
---@return table[]? results {inst, outcome, err}
---@return Error? err
function M.all(ctx, options)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local contents = {}
    for i, pair in ipairs(cluster.pairs(instances)) do
        contents[i] = pair.content
    end
    local record
    record, err = prepare(ctx, instances, contents)
    ctx.cat:close()
    if not record then
        return nil, err
    end
    return carry_out(ctx, record, options)
end

--- Stops the coordinator alone; the segments go on.
---@param ctx table {env, agents, cat}
---@param options table
---@return table[]? results
---@return Error? err
function M.coordinator_only(ctx, options)
    local pair, err = ctx.cat:pair(-1)
    if not pair then
        return nil, err
    end
    local epochs
    epochs, err = hold_all.contents(ctx, { -1 }, "stop", function(leases)
        return reserve(ctx, { -1 }, leases)
    end)
    ctx.cat:close()
    if not epochs then
        return nil, err
    end
    return stop_list(ctx, { pair.primary }, { epochs = epochs }, options)
end

-- One epoch that none of them has seen. The coordinator has it then, and its next start tells the
-- catalog.
local function unseen_epoch(ctx, instances)
    local words = mr.parallel(instances, #instances, function(inst)
        return ctx.agents:inspect(inst)
    end)
    local highest = 0
    for _, word in ipairs(words) do
        highest = math.max(highest, word.error and 0 or instance.seen_epoch(word))
    end
    return highest + 1
end

-- The coordinator hangs: it is ended, and with it what the catalog was last seen to hold.
local function force(ctx, coordinator, options)
    local record = { epochs = {}, instances = { coordinator } }
    coordinator.role = "p"
    if options.coordinator_only then
        record.epochs["-1"] = unseen_epoch(ctx, record.instances)
        return stop_list(ctx, record.instances, record, options)
    end
    local rows = reader.remembered(ctx.env)
    if #rows == 0 then
        return nil, mr.error("notfound",
            "the coordinator hangs, and it is not known what else belongs to the cluster",
            { hint = "moonrise stop -m -M immediate ends it alone" })
    end
    for _, row in ipairs(rows) do
        if row.dbid ~= coordinator.dbid then
            row.role = row.content == -1 and "m" or row.role
            table.insert(record.instances, row)
        end
    end
    local epoch = unseen_epoch(ctx, record.instances)
    for _, inst in ipairs(record.instances) do
        record.epochs[tostring(inst.content)] = epoch
    end
    local ok, err = mr.write_file(record_path(ctx.env), mr.json_encode(record))
    if not ok then
        return nil, err
    end
    return carry_out(ctx, record, options)
end

local function nothing_to_go_on(word, catalog_err)
    if word.stopped then
        return mr.error("notfound", "the coordinator does not run", { cause = catalog_err,
            hint = "if others of its cluster still run: moonrise start -m, which starts it " ..
                "alone, and then stop again" })
    end
    return mr.error("notfound", "the coordinator runs, and its catalog cannot be reached",
        { cause = catalog_err, hint = "if it hangs: moonrise stop -M immediate ends it" })
end

--- Stops a cluster whose catalog cannot be asked: goes on with a stop that was interrupted after
--- the coordinator had gone; a coordinator that hangs is ended by an immediate stop.
---@param ctx table {env, agents}
---@param options table
---@param catalog_err? Error why the catalog cannot be asked
---@return table[]? results nil when there is nothing to go on with
---@return Error? err
function M.go_on(ctx, options, catalog_err)
    local inst, word = bring_up.coordinator(ctx)
    if not inst then
        return nil, word
    elseif not word.stopped and options.mode == "immediate" then
        return force(ctx, inst, options)
    end
    local record = not options.coordinator_only and read_record(ctx.env)
    if not record then
        return nil, nothing_to_go_on(word, catalog_err)
    end
    return carry_out(ctx, record, options)
end

--- Forgets a stop that was interrupted: the coordinator was started, and the next stop begins anew.
---@param env Env
function M.forget(env)
    mr.remove_file(record_path(env))
end

--- Opens the catalog as ctx.cat, when the coordinator answers.
---@param ctx table {env, agents}
---@return boolean? ok
---@return Error? err
function M.open(ctx)
    local err
    ctx.cat, err = catalog.open(ctx.env, { timeout_ms = 5000 })
    return ctx.cat ~= nil or nil, err
end

return M
