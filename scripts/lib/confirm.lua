--- Confirming a pair after the coordinator's standby was activated (SAFETY.md, rule 8): its hosts
--- say which epochs their instances have seen, and the catalog judges (lib/catalog/activation.sql).
--- Before that they bar what the lost catalog has ordered and what may still be on its way.
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local ASK_MS = 3000
-- Longer than an older order that hangs is waited for.
local BAR_MS = 6000

-- What counts of a host's word, as the catalog wants it.
local function evidence(word, last, barred)
    return { valid = last.valid or false, epoch = last.epoch, order = last.order,
             marked = last.marked, standby = word.standby_signal or false,
             timeline = word.newest_timeline or (word.control or {}).newest_timeline,
             barred = barred }
end

-- Asks fn(inst) of the hosts at the same time: the answers by dbid; what kept one from answering
-- is added to `silent`.
local function each(instances, silent, fn)
    local answers, by_dbid = mr.parallel(instances, 2, fn), {}
    for i, inst in ipairs(instances) do
        if answers[i].error then
            table.insert(silent, ("%s: %s"):format(cluster.name(inst), tostring(answers[i].error)))
        else
            by_dbid[inst.dbid] = answers[i]
        end
    end
    return by_dbid
end

-- The words of both hosts; of those whose instances have an epoch, and can be barred, these.
local function ask(ctx, pair, silent)
    local instances, words, known, seen = { pair.primary, pair.mirror }, {}, {}, 0
    for dbid, word in pairs(each(instances, silent, function(inst)
        return ctx.agents:inspect(inst, nil, { timeout_ms = ASK_MS })
    end)) do
        words[tostring(dbid)] = evidence(word, word.epoch or {})
        seen = math.max(seen, instance.seen_epoch(word))
        if words[tostring(dbid)].valid then
            table.insert(known, cluster.find(instances, dbid))
        end
    end
    return words, known, seen
end

-- Bars the instances, whose words are what they say then.
local function bar(ctx, instances, epoch, words, silent)
    for dbid, last in pairs(each(instances, silent, function(inst)
        return ctx.agents:order(inst, "bar", { epoch = epoch }, { timeout_ms = BAR_MS })
    end)) do
        -- Only what has a valid epoch is barred.
        last.valid = true
        words[tostring(dbid)] = evidence(last, last, epoch)
    end
end

--- Confirms a pair.
---@param ctx {agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param token? integer the content's lease; nil for the watcher
---@param accept_loss? string an operator's written acceptance
---@return integer? epoch
---@return Error? err code "refused": it is not proven which instance is the primary
function M.pair(ctx, pair, token, accept_loss)
    local silent = {}
    local words, known, seen = ask(ctx, pair, silent)
    local barred, err = ctx.cat:call("bar_reserve", token, pair.content, seen)
    if not barred then
        return nil, err
    end
    bar(ctx, known, barred, words, silent)
    local epoch
    epoch, err = ctx.cat:call("pair_confirm", token, pair.content, words, accept_loss)
    if not epoch and #silent > 0 then
        err = mr.error(err.code, ("%s; %s"):format(err.message, table.concat(silent, "; ")),
            { hint = err.hint, sqlstate = err.sqlstate, cause = err })
    end
    return epoch, err
end

--- Confirms a pair if that is still to be done. Its roles may be others then, which is busy:
--- whoever has read them before begins anew.
---@param ctx {agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param token integer the content's lease
---@return {content: integer, primary: table, mirror: table?}? pair as it is now
---@return Error? err
function M.unless_confirmed(ctx, pair, token)
    local state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    elseif not state.unconfirmed then
        return pair
    end
    local epoch, now
    epoch, err = M.pair(ctx, pair, token)
    if epoch then
        now, err = ctx.cat:pair(pair.content)
    end
    if now and now.primary.dbid ~= pair.primary.dbid then
        return nil, mr.error("busy", ("content %d: by its hosts' word dbid %d is its primary")
            :format(pair.content, now.primary.dbid), { hint = "run this again" })
    end
    return now, err
end

return M
