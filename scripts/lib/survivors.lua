--- What a double fault has left: of each instance of the pair how far it is, whether it was in sync
--- when it was last seen, and what promoting it would lose, as far as that can be told without
--- reading WAL. Pure; the watcher, `state` and `recoverseg` all tell it by this.
local instance = require("lib.instance")
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

---@class Seen
---@field word? table its host's word
---@field word_error? Error|string why there is none
---@field sql? table its own answer: lsn (flushed, or received), in_recovery
---@field sql_error? Error|table why there is none

---@class Survivor
---@field dbid integer
---@field content integer
---@field role "p"|"m" in the catalog
---@field running boolean it answers
---@field in_sync boolean when it was last seen
---@field timeline? integer
---@field lsn? string the last position known
---@field at_least boolean it may have more than that: it does not run
---@field lost_bytes? number of WAL that are known to be missing from it
---@field since? string since when it has not been waited for, and why
---@field refusal? string why it cannot be promoted
---@field unreadable? string why nothing is known of it; then the rest is absent

-- The server gave an answer, if only an error.
local function answered(seen)
    return seen.sql ~= nil or (seen.sql_error ~= nil and seen.sql_error.sqlstate ~= nil)
end

--- Whether an instance will not serve anybody soon.
---@param seen Seen
---@return boolean
function M.is_lost(seen)
    local word = seen.word
    if answered(seen) then
        return false
    elseif not word or word.stopped or word.kind == "missing" or word.kind == "empty" then
        return true
    end
    local alive = word.postmaster and word.postmaster.alive
    return not alive or (seen.sql_error ~= nil and seen.sql_error.code == "timeout")
end

--- Whether a pair has lost its primary and has nobody to succeed it.
---@param pair {content: integer, primary: table, mirror: table?}
---@param primary Seen
---@param mirror Seen
---@return boolean
function M.is_double_fault(pair, primary, mirror)
    if pair.content < 0 or not pair.mirror or not M.is_lost(primary) then
        return false
    end
    return pair.mirror.status == "d" or pair.primary.mode ~= "s" or M.is_lost(mirror)
        or (mirror.sql ~= nil and mirror.sql.in_recovery == false)
end

local function number(text)
    return text and mr.lsn(text) or 0
end

-- What a server that does not run has at least, from its pg_control.
local function on_disk(word)
    local control = word.control
    return control and control.sysid and math.max(number(control.checkpoint),
        number(control.min_recovery), number(control.shutdown_end)) or 0
end

local function timeline_of(word)
    local control = word.control or {}
    return control.newest_timeline or control.timeline
end

-- What the pair's primary was known to have.
local function primary_end(pair, known)
    local word = (known[pair.primary.dbid] or {}).word
    return math.max(known.primary_lsn or 0, word and on_disk(word) or 0)
end

local function readable(word)
    return word.kind == "datadir" or word.kind == "half-made"
end

local function refusal(inst, word, known)
    if inst.role == "p" then
        return nil
    elseif known.state then
        return instance.start_refusal(word, known.state)
    elseif word.epoch and word.epoch.marked then
        return "it is marked: it was replaced while it was away"
    end
end

local function survivor(pair, inst, known)
    local seen = known[inst.dbid] or {}
    local word = seen.word
    local one = { dbid = inst.dbid, content = pair.content, role = inst.role }
    if not word or not readable(word) then
        one.unreadable = word and ("its data directory is %s"):format(word.kind)
            or tostring(seen.word_error or "its host gave no word")
        return one
    end
    local lsn = seen.sql and seen.sql.lsn
        or math.max(on_disk(word), inst.role == "m" and known.flush_lsn or 0)
    one.running = seen.sql ~= nil
    one.in_sync = pair.primary.mode == "s" and pair.mirror.status == "u"
    one.timeline, one.lsn = timeline_of(word), lsn > 0 and mr.lsn_text(lsn) or nil
    one.at_least = seen.sql == nil
    one.refusal = refusal(inst, word, known)
    if inst.role == "m" and not one.in_sync then
        local missing = primary_end(pair, known) - lsn
        one.lost_bytes = lsn > 0 and missing > 0 and missing or nil
        one.since = known.since
    end
    return one
end

--- Both instances of a pair, the catalog's primary first.
---@param pair {content: integer, primary: table, mirror: table}
---@param known table by dbid what was seen (Seen); and as far as they are known: primary_lsn and
--- flush_lsn, the highest positions of the primary and of its mirror; since (text); state, of the
--- pair in the catalog {role_epoch, timeline}
---@return Survivor[]
function M.of(pair, known)
    return { survivor(pair, pair.primary, known), survivor(pair, pair.mirror, known) }
end

--- Whether promoting it needs a loss to be accepted.
---@param one Survivor
---@return boolean
function M.loses(one)
    return one.role == "m" and not one.in_sync
end

--- What promoting it would lose, for people.
---@param one Survivor
---@return string
function M.loss(one)
    if one.role == "p" then
        return "nothing: it is the primary, moonrise start starts it again"
    elseif one.refusal then
        return "everything: it cannot be promoted (" .. one.refusal .. ")"
    elseif one.in_sync then
        return "nothing that was acknowledged"
    end
    return ("what was committed since %s; %s"):format(one.since or "it was last in sync",
        one.lost_bytes and term.bytes(one.lost_bytes) .. " of WAL are known to be missing"
        or "how much that is is not known")
end

--- Its last position, for people.
---@param one Survivor
---@return string
function M.position(one)
    if not one.lsn then
        return "Unknown"
    end
    return (one.at_least and "at least " or "") .. one.lsn
end

return M
