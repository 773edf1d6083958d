--- Stopping a cluster: clients first, since the coordinator goes first, then the primaries while
--- their mirrors still stream, then the mirrors.
---
--- Once the coordinator is gone nobody can be asked for an epoch, so all are reserved before, and
--- what is to be stopped is written down beside the passfile: an interrupted stop is picked up by
--- the next.
local bring_up = require("lib.bring_up")
local catalog = require("lib.catalog")
local cluster = require("lib.cluster")
local hold_all = require("lib.hold_all")
local home = require("lib.home")
local mr = require("moonrise")

local M = {}

local function record_path(env)
    return home.state_dir(env.name) .. "/stop.json"
end

local function read_record(env)
    local text = mr.read_file(record_path(env))
    return text and mr.json_decode(text)
end

local CLIENTS_SQL = [[
select count(*) as n from pg_stat_activity
where backend_type = 'client backend' and usename is distinct from 'moonrise']]

--- How many sessions clients have on the coordinator; a smart stop does not interrupt them.
---@param ctx table {cat}
---@return integer? count
---@return Error? err
function M.clients(ctx)
    local rows, err = ctx.cat:query(CLIENTS_SQL)
    return rows and rows[1].n, err
end

-- Stops one instance; one that hangs through an immediate stop is ended by its host.
local function stop_instance(ctx, inst, epoch, options)
    local word, err = ctx.agents:inspect(inst)
    if not word then
        return nil, err
    elseif word.stopped then
        return { already = true }
    end
    local done
    done, err = ctx.agents:order(inst, "stop", {
        epoch = epoch, mode = options.mode, wait_ms = options.wait_ms,
    }, { timeout_ms = options.wait_ms + 10000 })
    if done and done.stopped then
        return done
    elseif options.mode == "immediate" then
        return ctx.agents:order(inst, "fence", { epoch = epoch, step = 46 })
    end
    return nil, err or mr.error("timeout",
        ("it did not stop within %d s"):format(options.wait_ms / 1000),
        { instance = cluster.name(inst), hint = "run stop again, with -M fast or -M immediate" })
end

local function stop_list(ctx, list, record, options)
    local results = {}
    local answers = mr.parallel(list, options.batch, function(inst)
        return stop_instance(ctx, inst, record.epochs[tostring(inst.content)], options)
    end)
    for i, answer in ipairs(answers) do
        results[i] = { inst = list[i], err = answer.error,
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
    append(results, stop_list(ctx, of_role(record, function(inst)
        return inst.role == "m" and not (inst.content == -1 and options.no_standby)
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
    local instances, err = ctx.cat:instances()
    local pair = instances and cluster.pair(instances, -1)
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

--- Goes on with a stop that was interrupted after the coordinator had gone.
---@param ctx table {env, agents}
---@param options table
---@return table[]? results nil when there is none
---@return Error? err
function M.go_on(ctx, options)
    local record = read_record(ctx.env)
    local inst, word = bring_up.coordinator(ctx)
    if not inst then
        return nil, word
    elseif not record then
        return nil, mr.error("notfound", word.stopped and "the coordinator does not run"
            or "the coordinator runs, and its catalog cannot be reached",
            { hint = word.stopped and "moonrise start -m starts the coordinator alone" or nil })
    end
    return carry_out(ctx, record, options)
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
