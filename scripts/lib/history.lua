--- Whether a mirror and its primary have one history: content, not a number (SAFETY.md, rule 9).
---
--- A mirror's pg_control holds a copy of the last checkpoint of its primary that it has replayed; a
--- server that has run as a primary since begins with one of its own. The primary's host compares
--- it with the WAL that the primary has. A primary whose WAL ends before what its mirror has is an
--- older copy of itself (lib/instance.lua), however it came to be one.
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local ASK_MS = 3000

-- The end of what the mirror is known to have: what it needs to be whole, and what it says.
local function position(control, lsn)
    local needed = control.min_recovery and mr.lsn(control.min_recovery) or 0
    return mr.lsn_text(math.max(needed, lsn or 0))
end

--- Adds to a word about a mirror whether its last checkpoint is in its primary's WAL:
--- word.same_history is true, false, or nil where that cannot be told (the WAL has been removed, or
--- the primary's host does not answer); and as word.primary what instance.older_copy judges by.
---@param agents table the set of agents
---@param word table the host's word about the mirror
---@param primary table the primary's row
---@param options? {timeout_ms: number?, lsn: number?} lsn: what the mirror itself says that it has
---@return table word
function M.compare(agents, word, primary, options)
    local control = word.control
    options = options or {}
    word.same_history, word.primary = nil, nil
    if word.kind == "datadir" and control and control.checkpoint_sum then
        local told = agents:history(primary, { checkpoint = control.checkpoint,
            position = position(control, options.lsn) }, { timeout_ms = options.timeout_ms })
        if told and told.known then
            word.same_history = told.checkpoint_sum == control.checkpoint_sum
        end
        word.primary = told and { ends_before = told.ends_before, epoch = told.epoch,
                                  mode = primary.mode }
    end
    return word
end

local POSITION_SQL = [[
select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) as lsn
where pg_is_in_recovery()]]

--- The host's word about a pair's mirror, compared with its primary.
---@param ctx table {env, agents}
---@param pair {primary: table, mirror: table}
---@return table? word
---@return Error? err
function M.look(ctx, pair)
    local word, err = ctx.agents:inspect(pair.mirror)
    if not word then
        return nil, err
    end
    local row = not word.stopped and instance.ask(ctx.env, pair.mirror, POSITION_SQL, nil, ASK_MS)
    return M.compare(ctx.agents, word, pair.primary, { lsn = row and row.lsn or nil })
end

--- Why nothing is done that takes a primary's part against its mirror: that one has commits that
--- the primary lacks.
---@param pair {content: integer, primary: table, mirror: table}
---@param why string instance.older_copy's
---@return Error
function M.older_copy(pair, why)
    local successor = pair.content < 0 and "its standby is activated: moonrise activatestandby"
        or ("while it is stopped the watcher promotes its mirror; without one moonrise "
            .. "recoverseg --promote %d"):format(pair.mirror.dbid)
    return mr.error("refused",
        ("it is an older copy of itself: %s; its mirror, dbid %d, has every acknowledged commit")
            :format(why, pair.mirror.dbid),
        { instance = cluster.name(pair.primary), hint = successor .. ". Who wants the older copy "
            .. "instead, and loses the rest, moves the mirror's directory away" })
end

return M
