--- Letting a primary go on without its mirror: never beside something in the mirror's directory
--- that may take commits of its own.
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local confirm = require("lib.confirm")
local history = require("lib.history")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local function commits_wait(ctx, inst)
    local row, err = instance.ask(ctx.env, inst,
        "select current_setting('synchronous_standby_names') <> '' as wait")
    return row and row.wait, err
end

-- Whether something runs in the mirror's directory that may take commits of its own. A mirror that
-- is only slow to start takes none.
local function is_rival(word, state)
    return not word.stopped and instance.start_refusal(word, state) ~= nil
end

local function unknown(pair, err)
    return mr.error(err.code, "its commits wait: it is not known whether its mirror runs, and " ..
        "may serve clients", { instance = cluster.name(pair.primary), cause = err,
        hint = "the watcher lets it go on after its patience; or run start again" })
end

-- Whether a mirror may be let go, and what its host says of it: never one that has acknowledged
-- commits which its primary lacks.
local function look(ctx, pair)
    local state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    end
    local seen = { state = state }
    seen.word, seen.word_error = history.look(ctx, pair)
    local older = seen.word and instance.older_copy(seen.word, state)
    if older then
        return nil, history.older_copy(pair, older)
    end
    return seen
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

-- What is on record already needs no host to be asked.
local function record_out(ctx, pair, token, reason)
    local now, err = ctx.cat:pair(pair.content)
    if not now then
        return nil, err
    elseif now.mirror.status == "d" then
        return true
    end
    return hosts_record.mirror_down(ctx, pair, { token = token, reason = reason })
end

--- Has a primary go on without its mirror, which is not there: recorded first, released then.
--- Refused while it is not known whether the mirror runs, as long as commits wait, and where the
--- mirror has what its primary lacks. A pair that has
--- to be confirmed is confirmed first: what runs in the mirror's directory may be the primary.
---@param ctx table {env, agents, cat}
---@param pair table
---@param token integer the content's lease
---@param reason string
---@return any ok
---@return Error? err code "busy": the hosts say that it is the other one
function M.go_on(ctx, pair, token, reason)
    local confirmed, err = confirm.unless_confirmed(ctx, pair, token)
    if not confirmed then
        return nil, err
    end
    local wait
    wait, err = commits_wait(ctx, pair.primary)
    if wait == nil then
        return nil, err
    end
    local seen
    seen, err = look(ctx, pair)
    if not seen then
        return nil, err
    elseif wait and not seen.word then
        return nil, unknown(pair, seen.word_error)
    end
    local rival = seen.word and is_rival(seen.word, seen.state)
    local ok
    ok, err = record_out(ctx, pair, token, reason)
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
