--- What is to be thought of an instance, from its last evidence and its host's word. Pure.
local M = {}

--- Evidence that is an answer: the server lives, whatever else is wrong.
M.answers = {
    starting = true, recovering = true, not_yet = true, shutting_down = true, too_many = true,
    sqlstate = true, authentication = true,
}

--- Of these, what a server that serves the sessions it has may say to one more.
M.refusals = { too_many = true, sqlstate = true, authentication = true }

local function word_counts(inst)
    return inst.word_begun and inst.since and inst.word_begun >= inst.since
end

-- Where its directory is not (moved away, unmounted, covered by another mount) nobody is found to
-- use it, which proves nothing: then nobody listening any more must be seen, too.
local function proves_stopped(inst)
    local kind = inst.word.kind
    return inst.word.stopped
        and (kind == "datadir" or kind == "half-made" or inst.evidence == "refused")
end

--- Evidence that may be the network's: the host is asked to try the server itself.
M.silent = { timeout = true, unreachable = true, no_new_session = true }

local function by_word(inst)
    if inst.word_error then
        return "unreachable"
    elseif proves_stopped(inst) then
        return "stopped"
    elseif not (inst.word.postmaster and inst.word.postmaster.alive) then
        return "gone"
    elseif inst.evidence == "unresolved" then
        return "unresolved"
    end
    return M.silent[inst.evidence] and inst.word.serves and "cut_off" or "hung"
end

-- Whether who answers at its address is another server: its host was asked after that answer, or
-- after the first in a role that it has not, and nobody uses its directory.
local function somebody_else(inst)
    local word, at = inst.word, inst.evidence == "ok" and inst.role_at or inst.at
    return word and not inst.word_error and word.kind == "datadir" and word.stopped
        and inst.word_begun > (at or math.huge)
end

--- What is to be thought of an instance, from its evidence and its host's word: unseen, fine,
--- wrong_role, wrong_system, busy (it answers, but serves nobody), suspect (bad evidence, no word
--- yet), unreachable (no word to be had), stopped, gone (no postmaster, but processes), hung,
--- unresolved (its postmaster lives, and nobody here knows where), cut_off (it serves on its host,
--- and does not answer here).
---@param inst table
---@param role "p"|"m"
---@return string
function M.of(inst, role)
    local evidence = inst.evidence
    if not evidence then
        return "unseen"
    elseif evidence == "ok" then
        return inst.seen.in_recovery == (role == "m") and "fine"
            or somebody_else(inst) and "stopped" or "wrong_role"
    elseif evidence == "wrong_system" or M.answers[evidence] then
        return somebody_else(inst) and "stopped"
            or evidence == "wrong_system" and evidence or "busy"
    elseif not word_counts(inst) then
        return "suspect"
    end
    return by_word(inst)
end

--- An instance and what is to be thought of it, for people.
---@param inst table
---@param condition string
---@return string
function M.describe(inst, condition)
    local evidence = inst.evidence ~= "ok" and inst.message or inst.evidence or "not seen"
    return ("dbid %d is %s (%s)"):format(inst.dbid, condition,
        evidence:match("^[^\n]*"):sub(1, 120))
end

--- Whether an instance can be reached by orders, or answers itself: then it is fenced before
--- another one takes its place. Only a host that was asked and said nothing leaves that out.
---@param inst table
---@return boolean
function M.reachable(inst)
    return M.answers[inst.evidence] or inst.evidence == "ok" or inst.word_error == nil
end

return M
