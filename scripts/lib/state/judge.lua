--- What the facts mean: how each instance is, how each pair is, and everything that is not as it
--- should be. Pure; all views and the exit code rest on it.
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local merged = require("lib.merged")
local survivors = require("lib.survivors")

local M = {}

M.ROLES = { p = "Primary", m = "Mirror" }

local WEAK = { off = true, ["local"] = true, remote_write = true }

--- "16/B374D848" of a number; "Unknown" of nothing.
---@param lsn number?
---@return string
function M.lsn(lsn)
    if not lsn then
        return "Unknown"
    end
    return ("%X/%X"):format(math.floor(lsn / 2 ^ 32), lsn % 2 ^ 32)
end

--- The process id of an instance's postmaster while that lives.
---@param seen table?
---@return integer?
function M.pid(seen)
    local postmaster = seen and seen.word and seen.word.postmaster
    return postmaster and postmaster.ours and postmaster.alive and postmaster.pid or nil
end

-- Why an instance whose session could not be had does not serve, from its host's word.
local function silent(seen)
    local word, err = seen.word, seen.sql_error or {}
    if not word then
        return (seen.word_error or {}).code == "timeout" and "Unknown -- its host does not answer"
            or "Unknown -- host unreachable"
    elseif word.kind == "missing" then
        return "Down -- data directory missing"
    elseif word.kind ~= "datadir" then
        return ("Down -- data directory is %s"):format(word.kind)
    elseif word.patch then
        return "Down -- being recovered"
    elseif word.stopped or not M.pid(seen) then
        return "Process error -- database process may be down"
    elseif word.recovery and err.code ~= "timeout" then
        return "Starting up -- in recovery"
    elseif err.code == "timeout" then
        return "Process error -- does not answer within its deadline"
    end
    return ("Process error -- %s"):format(err.message or "no answer")
end

--- The process id as it is shown, and whether that is worth a warning.
---@param seen table?
---@return integer|string pid
---@return boolean warn
function M.pid_text(seen)
    local pid = M.pid(seen)
    if pid then
        return pid, false
    end
    return seen and seen.word and "Not found" or "Unknown", true
end

--- How an instance is: "Up", or what is wrong with it.
---@param facts StateFacts
---@param inst table
---@return string status
function M.status(facts, inst)
    local seen = facts.seen[inst.dbid] or {}
    if inst.status == "d" then
        return "Down in configuration"
    elseif facts.quick then
        return "Up"
    elseif not seen.sql then
        return silent(seen)
    elseif seen.sql.in_recovery and inst.role == "p" then
        return "Up -- but in recovery, not a primary"
    elseif not seen.sql.in_recovery and inst.role == "m" then
        return "Up -- but not in recovery: it is no mirror"
    end
    return "Up"
end

-- Whether a receiver's name is this one, bare or with an epoch.
local function bears(text, name)
    return text == name or (text:sub(1, #name) == name
        and text:sub(#name + 1):match("^_%d+$") ~= nil)
end

--- What the primary knows of its mirror's connection: name, slot, state, sync and positions; nil
--- without one. The slot names the mirror; a helper that borrowed its name does not hold it.
---@param facts StateFacts
---@param pair {primary: table, mirror: table?}
---@return table? peer
function M.peer(facts, pair)
    local sql = (facts.seen[pair.primary.dbid] or {}).sql
    if not sql or not pair.mirror then
        return nil
    end
    local slot, name = instance.slot_name(pair.mirror), instance.stream_name(pair.mirror)
    local named
    for _, peer in ipairs(sql.peers or {}) do
        if peer.slot == slot then
            return peer
        elseif not peer.slot and peer.name and bears(peer.name, name) then
            named = peer
        end
    end
    return named
end

--- Bytes of WAL that the mirror has not yet been sent; nil when that is unknown.
---@param facts StateFacts
---@param pair table
---@return number?
function M.behind(facts, pair)
    local peer = M.peer(facts, pair)
    local sql = (facts.seen[pair.primary.dbid] or {}).sql
    if not peer or not peer.sent_lsn or not sql.write_lsn then
        return nil
    end
    return math.max(0, sql.write_lsn - peer.sent_lsn)
end

--- "Synchronized", "Resynchronizing" or "Not In Sync".
---@param facts StateFacts
---@param pair table
---@return string
function M.data_state(facts, pair)
    if pair.primary.mode == "s" then
        return "Synchronized"
    end
    local peer = M.peer(facts, pair)
    if pair.mirror and pair.mirror.status == "u" and peer and peer.state == "streaming" then
        return "Resynchronizing"
    end
    return "Not In Sync"
end

--- Whether the primary's commits wait for this mirror by its settings.
---@param facts StateFacts
---@param pair table
---@return boolean? nil when the primary does not say
function M.armed(facts, pair)
    local sql = (facts.seen[pair.primary.dbid] or {}).sql
    if not sql or not pair.mirror or not sql.sync_names then
        return nil
    end
    local name = instance.stream_name(pair.mirror)
    local at = sql.sync_names:find(name, 1, true)
    return at ~= nil and sql.sync_names:sub(at + #name, at + #name):match("^[%w]") == nil
end

local function add(problems, kind, entry)
    entry.kind = kind
    table.insert(problems, entry)
end

-- Why a data directory cannot be written; nil while it can, and where that is not known.
local function unwritable(seen)
    if not seen.word or seen.word.kind ~= "datadir" then
        return nil
    elseif seen.disk and not seen.disk.writable then
        return seen.disk.disk_error or "no reason given"
    elseif (seen.disk_error or {}).code == "timeout" then
        return "nothing is written there within its deadline"
    end
end

local function of_instance(problems, facts, inst)
    if inst.role ~= inst.preferred_role and inst.role == "p" then
        add(problems, "switched", { content = inst.content, dbid = inst.dbid })
    end
    local status = M.status(facts, inst)
    if status ~= "Up" then
        add(problems, "down", { content = inst.content, dbid = inst.dbid, status = status })
    end
    local seen = facts.seen[inst.dbid] or {}
    if seen.word_error then
        add(problems, "host", { content = inst.content, dbid = inst.dbid,
                                text = seen.word_error.message })
    end
    local disk = unwritable(seen)
    if disk then
        add(problems, "disk", { content = inst.content, dbid = inst.dbid, text = disk })
    end
    local sql = seen.sql
    if sql and inst.role == "p" and WEAK[sql.sync_commit] then
        add(problems, "weak", { content = inst.content, dbid = inst.dbid, value = sql.sync_commit })
    end
    if sql and inst.role == "m" and sql.paused then
        add(problems, "paused", { content = inst.content, dbid = inst.dbid })
    end
end

local function of_pair(problems, facts, pair)
    if not pair.mirror then
        return
    end
    local where = { content = pair.content, dbid = pair.mirror.dbid }
    if pair.primary.mode ~= "s" then
        add(problems, "unsynchronized", where)
    elseif M.armed(facts, pair) == false then
        add(problems, "not_armed", where)
    elseif (facts.seen[pair.primary.dbid] or {}).sql and not M.peer(facts, pair) then
        add(problems, "not_streaming", where)
    end
    local sql = (facts.seen[pair.primary.dbid] or {}).sql
    if sql and pair.primary.mode ~= "s" and (sql.waiting or 0) > 0 then
        add(problems, "waiting", { content = pair.content, dbid = pair.primary.dbid,
            sessions = sql.waiting, cause = M.why_waiting(sql) })
    end
end

--- Why commits of a pair that is not in sync wait all the same.
---@param sql table the primary's answer
---@return string
function M.why_waiting(sql)
    if sql.sync_names ~= "" then
        return "not released yet"
    elseif sql.checkpointer and sql.checkpointer ~= "CheckpointerMain" then
        return "released; the checkpointer is inside a checkpoint and has not read it yet"
    end
    return "released; the checkpointer has not read it yet"
end

-- In its terms: the position that counts is the one that the instance vouches for.
local function seen_of(facts, inst)
    local seen = facts.seen[inst.dbid] or {}
    local sql = seen.sql
    return {
        word = seen.word, word_error = seen.word_error and seen.word_error.message,
        sql_error = seen.sql_error,
        sql = sql and { in_recovery = sql.in_recovery,
            lsn = sql.write_lsn or math.max(sql.receive_lsn or 0, sql.replay_lsn or 0) },
    }
end

--- Whether a pair has lost its primary and has nobody to succeed it. Not in a cluster that is
--- stopped, and not while somebody works on the pair.
---@param facts StateFacts
---@param pair {content: integer, primary: table, mirror: table?}
---@return boolean
function M.is_double_fault(facts, pair)
    for _, lease in ipairs(facts.leases or {}) do
        if lease.content == pair.content and not (lease.gone or lease.expired) then
            return false
        end
    end
    return not facts.quick and facts.cluster.state ~= "stopped" and pair.mirror ~= nil
        and survivors.is_double_fault(pair, seen_of(facts, pair.primary),
            seen_of(facts, pair.mirror))
end

--- What is left of a double fault.
---@param facts StateFacts
---@param pair {content: integer, primary: table, mirror: table}
---@return Survivor[]
function M.survivors(facts, pair)
    local known = merged((facts.history or {})[pair.content])
    known[pair.primary.dbid] = seen_of(facts, pair.primary)
    known[pair.mirror.dbid] = seen_of(facts, pair.mirror)
    return survivors.of(pair, known)
end

-- Rule 8: what the coordinator needs to go on without its standby.
local function of_coordinator(problems, facts)
    for _, content in ipairs(facts.unconfirmed or {}) do
        add(problems, "unconfirmed", { content = content })
    end
    local records = facts.records or { failing = {} }
    for _, failing in ipairs(records.failing) do
        local held = records.hosts - #records.failing < records.needed
        add(problems, held and "no_majority" or "no_record",
            { content = -1, host = failing.host, text = failing.text })
    end
end

--- Everything that is not as it should be, in the order of the contents. Kinds: coordinator,
--- stopped (the catalog says so: the watcher acts on nothing), no_failover (somebody paused it),
--- switched, down, host (it gave no word), disk, unsynchronized, not_armed, not_streaming, waiting,
--- weak, paused (a mirror's replay), double_fault (with its survivors), unconfirmed (since the
--- standby was activated), no_record (a host that keeps none of the coordinator's pair),
--- no_majority (as many hosts that it cannot be released).
---@param facts StateFacts
---@return table[] problems {kind, content?, dbid?, status?, ...}
function M.problems(facts)
    local problems = {}
    if facts.source ~= "coordinator" then
        add(problems, "coordinator", { content = -1,
            text = facts.coordinator_error or "it does not answer" })
    end
    if facts.cluster.state == "stopped" then
        add(problems, "stopped", { content = -1 })
    end
    for _, pause in ipairs(facts.pauses or {}) do
        add(problems, "no_failover", { content = pause.content, pause = pause })
    end
    of_coordinator(problems, facts)
    for _, pair in ipairs(cluster.pairs(facts.instances)) do
        of_instance(problems, facts, pair.primary)
        if pair.mirror then
            of_instance(problems, facts, pair.mirror)
        end
        of_pair(problems, facts, pair)
        if M.is_double_fault(facts, pair) then
            add(problems, "double_fault", { content = pair.content, dbid = pair.primary.dbid,
                survivors = M.survivors(facts, pair) })
        end
    end
    return problems
end

--- The coordinator's pair, and those of the segments.
---@param facts StateFacts
---@return table? coordinator {primary, mirror?}
---@return table[] segments
function M.split(facts)
    local coordinator, segments = nil, {}
    for _, pair in ipairs(cluster.pairs(facts.instances)) do
        if pair.content == -1 then
            coordinator = pair
        else
            table.insert(segments, pair)
        end
    end
    return coordinator, segments
end

--- The segments' instances that prefer this role, ordered by content.
---@param facts StateFacts
---@param role "p"|"m"
---@return table[]
function M.preferring(facts, role)
    local found = {}
    for _, inst in ipairs(facts.instances) do
        if inst.content ~= -1 and inst.preferred_role == role then
            table.insert(found, inst)
        end
    end
    table.sort(found, function(a, b)
        return a.content < b.content
    end)
    return found
end

--- How the standby coordinator is, in Greenplum's words.
---@param facts StateFacts
---@param standby table
---@return string state
---@return boolean good
function M.standby_state(facts, standby)
    local status = M.status(facts, standby)
    if status == "Up" then
        return "Standby host passive", true
    elseif status == "Down in configuration" or status:match("^Process error") then
        return "Standby host DOWN", false
    end
    return status, false
end

return M
