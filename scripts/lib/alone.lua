--- Letting a primary go on without its mirror: never beside something in the mirror's directory
--- that may take commits of its own.
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

-- One host holds every instance, so what this one records a majority has recorded (rule 8). Beyond
-- that the coordinator is not released by a start.
local function majority(ctx, pair)
    if pair.content >= 0 then
        return {}
    end
    for _, host in ipairs(ctx.hosts) do
        if not agents.is_local(host) then
            return nil
        end
    end
    return { majority = "this host, of one" }
end

local function commits_wait(ctx, inst)
    local row, err = instance.ask(ctx.env, inst,
        "select current_setting('synchronous_standby_names') <> '' as wait")
    return row and row.wait, err
end

-- Whether something runs in the mirror's directory that may take commits of its own. A mirror that
-- is only slow to start takes none.
local function has_rival(ctx, pair)
    local word, err = ctx.agents:inspect(pair.mirror)
    if not word then
        return nil,
            mr.error(err.code, "its commits wait: it is not known whether its mirror runs, and " ..
            "may serve clients", { instance = cluster.name(pair.primary), cause = err,
            hint = "the watcher lets it go on after its patience; or run start again" })
    elseif word.stopped then
        return false
    end
    local state
    state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    end
    return instance.start_refusal(word, state) ~= nil
end

-- What runs in the mirror's directory and is none may take commits of its own: it is marked and
-- ended before its primary takes any without it.
local function end_rival(ctx, pair, token)
    local epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "fence: it is no mirror")
    local ok
    if epoch then
        ok, err = ctx.agents:order(pair.mirror, "mark",
            { epoch = epoch, reason = "it runs and is no mirror" })
    end
    if ok then
        ok, err = ctx.agents:order(pair.mirror, "fence",
            { epoch = epoch, step = agents.steps.mark + 1 })
    end
    return ok, err
end

--- Has a primary go on without its mirror, which is not there: recorded first, released then.
--- Refused while it is not known whether the mirror runs, as long as commits wait.
---@param ctx table {env, agents, cat, hosts}
---@param pair table
---@param token integer the content's lease
---@param reason string
---@return any ok
---@return Error? err
function M.go_on(ctx, pair, token, reason)
    local facts = majority(ctx, pair)
    if not facts then
        return nil,
            mr.error("refused", "commits on the coordinator wait for its standby: a majority " ..
            "of the hosts has to record that it is gone")
    end
    local wait, err = commits_wait(ctx, pair.primary)
    local rival, unknown = has_rival(ctx, pair)
    if wait == nil or (wait and rival == nil) then
        return nil, err or unknown
    end
    local ok
    ok, err = ctx.cat:call("mirror_down", token, pair.content, reason, facts)
    if ok and rival then
        ok, err = end_rival(ctx, pair, token)
    end
    if not ok or not wait then
        return ok, err
    end
    local epoch
    epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "release: " .. reason)
    if not epoch then
        return nil, err
    end
    return ctx.agents:order(pair.primary, "release", { epoch = epoch })
end

return M
