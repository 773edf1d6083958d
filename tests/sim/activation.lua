--- A segment's pair after the coordinator's standby was activated (SAFETY.md, rule 8), as
--- scripts/lib/catalog/activation.sql has it: transitions commit without that standby, so the last
--- of them may be missing, and what was done by those is known to the hosts alone.
local M = {}

-- How many transitions may be missing at most.
local KEPT = 4
local STATE = { "rows", "pair", "lease", "promoted", "epoch", "paused" }

local function copied(value)
    if type(value) ~= "table" then
        return value
    end
    local all = {}
    for key, part in pairs(value) do
        all[key] = copied(part)
    end
    return all
end

--- What the catalog says.
---@param catalog table
---@return table state
function M.state(catalog)
    local state = { entries = #catalog.journal }
    for _, key in ipairs(STATE) do
        state[key] = copied(catalog[key])
    end
    return state
end

--- Has a catalog say what another one said.
---@param catalog table
---@param state table
function M.restore(catalog, state)
    for _, key in ipairs(STATE) do
        catalog[key] = copied(state[key])
    end
    for i = #catalog.journal, state.entries + 1, -1 do
        catalog.journal[i] = nil
    end
end

--- Keeps what the catalog says before a transition.
---@param catalog table
function M.keep(catalog)
    table.insert(catalog.kept, M.state(catalog))
    if #catalog.kept > KEPT then
        table.remove(catalog.kept, 1)
    end
end

--- The coordinator is gone with all its sessions, and its standby takes its place, which lacks the
--- last so many transitions.
---@param catalog table
---@param missing integer
function M.activate(catalog, missing)
    local kept = catalog.kept[#catalog.kept + 1 - missing]
    if kept then
        M.restore(catalog, kept)
    end
    catalog.kept, catalog.holder, catalog.life = {}, nil, catalog.life + 1
    local pair = catalog.pair
    pair.unconfirmed = pair.unconfirmed or pair.epoch
    -- Epochs that were given out in the last moments nobody may have heard of yet.
    catalog.epoch = catalog.epoch + 10001
    pair.epoch = catalog.epoch
    catalog.world:trace("the standby coordinator is activated and lacks %d transitions", missing)
end

local function was_promoted(w, known)
    return w.valid and not w.marked and not w.standby and w.epoch > known
        and (w.order == "promote" or w.order == "arm" or w.order == "release")
end

-- activation.sql, words_prove.
local function proven(p, m, known, timeline)
    if not p.valid or not m.valid then
        return nil
    elseif math.max(p.epoch, m.epoch) <= known then
        return "same"
    elseif p.marked and m.marked then
        return nil
    elseif m.marked then
        return "kept"
    elseif m.standby and m.epoch > known and m.order == "promote" then
        return nil
    elseif not p.marked and not p.standby and (m.epoch <= known
        or m.standby and m.timeline <= timeline) then
        return "kept"
    elseif not m.standby and m.epoch > known and (p.marked or p.standby)
        or was_promoted(m, known) and m.epoch > p.epoch then
        return "switched"
    end
end

local function judged(p, m, catalog, accepted)
    local pair = catalog.pair
    local timeline = catalog.world.rules.timeline and pair.timeline or math.huge
    local known = pair.unconfirmed
    local verdict = proven(p, m, known, timeline)
    if not verdict and accepted then
        return not p.valid and was_promoted(m, known) and "switched" or "kept"
    end
    return verdict
end

-- activation.sql, words_hold.
local function barred(pair, word)
    return pair.reserved == pair.epoch and (not word.valid or word.barred == pair.epoch)
end

--- What the words of the two hosts prove; what they know of counts, over the catalog too.
---@param catalog table
---@param words table<string, table> by dbid
---@param accepted boolean whether an operator accepts a loss
---@return string? verdict "same", "kept", "switched"; nil when nothing is proven
function M.verdict(catalog, words, accepted)
    local p = words[tostring(catalog:instance("p").dbid)] or {}
    local m = words[tostring(catalog:instance("m").dbid)] or {}
    if not catalog.world.rules.words then
        return p.valid and m.valid and "same" or nil
    end
    for _, word in pairs(words) do
        catalog.epoch = math.max(catalog.epoch, word.epoch or 0)
    end
    if not accepted and not (barred(catalog.pair, p) and barred(catalog.pair, m)) then
        return nil
    end
    return judged(p, m, catalog, accepted)
end

return M
