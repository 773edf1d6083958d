--- Confirming a pair after the coordinator's standby was activated (SAFETY.md, rule 8): its hosts
--- say which epochs their instances have seen, and the catalog judges (lib/catalog/activation.sql).
local cluster = require("lib.cluster")
local mr = require("moonrise")

local M = {}

local ASK_MS = 3000

-- What counts of a host's word, as the catalog wants it.
local function evidence(word)
    local epoch = word.epoch or {}
    return { valid = epoch.valid or false, epoch = epoch.epoch, order = epoch.order,
             marked = epoch.marked, standby = word.standby_signal or false }
end

-- Both hosts at the same time; what kept one from answering goes with the refusal.
local function ask(ctx, pair)
    local asked = { pair.primary, pair.mirror }
    local answers = mr.parallel(asked, 2, function(inst)
        return ctx.agents:inspect(inst, nil, { timeout_ms = ASK_MS })
    end)
    local words, silent = {}, {}
    for i, inst in ipairs(asked) do
        if answers[i].error then
            table.insert(silent, ("%s: %s"):format(cluster.name(inst), tostring(answers[i].error)))
        else
            words[tostring(inst.dbid)] = evidence(answers[i])
        end
    end
    return words, silent
end

--- Confirms a pair.
---@param ctx {agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param token? integer the content's lease; nil for the watcher
---@param accept_loss? string an operator's written acceptance
---@return integer? epoch
---@return Error? err code "refused": it is not proven which instance is the primary
function M.pair(ctx, pair, token, accept_loss)
    local words, silent = ask(ctx, pair)
    local epoch, err = ctx.cat:call("pair_confirm", token, pair.content, words, accept_loss)
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
