--- Finding the pairs that have lost both of their instances, and what is left of them: asks hosts,
--- servers and the catalog, and changes nothing.
local instance = require("lib.instance")
local mr = require("moonrise")
local survivors = require("lib.survivors")

local M = {}

local ASK_MS, WORD_MS = 3000, 10000

---@class DoubleFault
---@field content integer
---@field pair {content: integer, primary: table, mirror: table}
---@field known table lib/survivors.lua's
---@field survivors Survivor[]

-- Since when the mirror is not waited for, and what the watcher knew when it recorded the fault; of
-- this primary, not of an earlier one.
local HISTORY_SQL = [[
select
    (select to_char(j.time, 'YYYY-MM-DD HH24:MI:SS') || ' (' || j.text || ')'
        from moonrise.journal j
        where j.content = $1 and j.kind in ('mirror_down', 'out_of_sync', 'promote', 'hand_over')
            and j.id > coalesce((select max(i.id) from moonrise.journal i
                where i.content = $1 and i.kind = 'in_sync'), 0)
        order by j.id limit 1) as since,
    f.data->>'primary_lsn' as primary_lsn, f.data->>'flush_lsn' as flush_lsn
from (select) nothing left join lateral (select j.data from moonrise.journal j
    where j.content = $1 and j.kind = 'double_fault'
        and j.id > coalesce((select max(r.id) from moonrise.journal r
            where r.content = $1 and r.kind in ('promote', 'hand_over')), 0)
    order by j.id desc limit 1) f on true]]

--- What the catalog knows of a lost pair: since, primary_lsn, flush_lsn, state.
---@param cat table
---@param content integer
---@return table? known
---@return Error? err
function M.history(cat, content)
    local rows, err = cat:query(HISTORY_SQL, { content })
    if not rows then
        return nil, err
    end
    local state
    state, err = cat:pair_state(content)
    if not state then
        return nil, err
    end
    local row = rows[1] or {}
    return { since = row.since, state = state,
             primary_lsn = row.primary_lsn and mr.lsn(row.primary_lsn) or nil,
             flush_lsn = row.flush_lsn and mr.lsn(row.flush_lsn) or nil }
end

local POSITION_SQL = [[
select pg_is_in_recovery() as in_recovery,
    case when pg_is_in_recovery() then pg_is_wal_replay_paused() end as paused,
    case when pg_is_in_recovery()
        then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        else pg_current_wal_flush_lsn() end as lsn]]

--- Asks the host and the server of one instance.
---@param ctx table {env, agents}
---@param inst table
---@return Seen
function M.look(ctx, inst)
    local seen = {}
    seen.word, seen.word_error = ctx.agents:inspect(inst, nil, { timeout_ms = WORD_MS })
    if not (seen.word and seen.word.stopped) then
        seen.sql, seen.sql_error = instance.ask(ctx.env, inst, POSITION_SQL, nil, ASK_MS)
    end
    return seen
end

--- Looks at one pair.
---@param ctx table {env, cat, agents}
---@param pair {content: integer, primary: table, mirror: table}
---@return DoubleFault? fault nil when it is none
---@return Error? err
function M.of(ctx, pair)
    local primary = M.look(ctx, pair.primary)
    if not survivors.is_lost(primary) then
        return nil
    end
    local mirror = M.look(ctx, pair.mirror)
    if not survivors.is_double_fault(pair, primary, mirror) then
        return nil
    end
    local known, err = M.history(ctx.cat, pair.content)
    if not known then
        return nil, err
    end
    known[pair.primary.dbid], known[pair.mirror.dbid] = primary, mirror
    return { content = pair.content, pair = pair, known = known,
             survivors = survivors.of(pair, known) }
end

--- Looks at all segments that have mirrors.
---@param ctx table {env, cat, agents}
---@param limit integer pairs at the same time
---@return DoubleFault[]? faults
---@return Error? err
function M.find(ctx, limit)
    local list, err = ctx.cat:pairs(function(pair)
        return pair.content >= 0 and pair.mirror ~= nil
    end)
    if not list then
        return nil, err
    end
    local faults = {}
    for _, found in ipairs(mr.parallel(list, limit, function(pair)
        local fault, problem = M.of(ctx, pair)
        if problem then
            return nil, problem
        end
        return fault or {}
    end)) do
        if found.error then
            return nil, found.error
        elseif found.survivors then
            table.insert(faults, found)
        end
    end
    return faults
end

return M
