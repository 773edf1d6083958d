--- The record of the coordinator's pair on the hosts (SAFETY.md, rule 8; agent.h, record_write):
--- written on a majority of all hosts before the coordinator goes on without its standby, and read
--- on a majority before that standby is activated.
---
--- Two majorities share a host. So whoever reads one knows of every release; that the standby is in
--- sync is true where any host says so, unless one says otherwise with an epoch as high. A host
--- that has no record is none of a majority: it may have lost the one that says "out".
---
--- That holds for majorities of the same hosts. A standby whose catalog lacks that the cluster has
--- got others asks those that it knows: before each such change a majority of them has a
--- catalog_epoch on record that the catalog reaches by the change alone. So a reader whose own
--- catalog has not come to the highest catalog_epoch that it reads knows nothing of the pair.
local cluster = require("lib.cluster")
local merged = require("lib.merged")
local mr = require("moonrise")

local M = {}

-- How long a host may take to answer before it counts as one that did not.
local DEADLINE_MS = 3000
-- What holds it up is told by its agent.
local WAIT_MS = 2000

--- The names of all hosts that bear an instance.
---@param instances table[]
---@return string[] hosts sorted
function M.hosts(instances)
    local hosts = cluster.values(instances, "hostname")
    table.sort(hosts)
    return hosts
end

--- How many of so many hosts are a majority.
---@param count integer
---@return integer
function M.majority(count)
    return math.floor(count / 2) + 1
end

--- What is recorded of a coordinator's pair.
---@param pair {primary: table, mirror: table?}
---@param mode "s"|"n" "n" is what it is about to be when the standby is taken out
---@param epoch integer
---@param catalog_epoch integer
---@return table record
function M.of(pair, mode, epoch, catalog_epoch)
    return { epoch = epoch, mode = pair.mirror and mode or "n", coordinator = pair.primary.dbid,
             standby = pair.mirror and pair.mirror.dbid or 0, catalog_epoch = catalog_epoch }
end

local function call(ctx, host, op, record)
    return ctx.agents:call(host, op, merged({ name = ctx.env.name, sysid = ctx.sysid, host = host,
        wait_ms = WAIT_MS }, record), { timeout_ms = DEADLINE_MS })
end

--- Reads one host's record.
---@param ctx {env: Env, agents: table, sysid: string}
---@param host string
---@return {found: boolean, epoch: integer?, mode: string?, catalog_epoch: integer?}? record not
--- found: that it answers says nothing of the pair
---@return Error? err
function M.read(ctx, host)
    return call(ctx, host, "record_read")
end

--- Writes one host's record.
---@param ctx {env: Env, agents: table, sysid: string}
---@param host string
---@param record table M.of's
---@return table? record as it is now
---@return Error? err code "stale" when the host has a newer one
function M.write(ctx, host, record)
    return call(ctx, host, "record_write", record)
end

-- Whether each of these sets of hosts has a majority among those that have written.
local function suffices(sets, written)
    local is_written = {}
    for _, host in ipairs(written) do
        is_written[host] = true
    end
    for _, hosts in ipairs(sets) do
        local count = 0
        for _, host in ipairs(hosts) do
            count = count + (is_written[host] and 1 or 0)
        end
        if count < M.majority(#hosts) then
            return false
        end
    end
    return true
end

local function failed(errors)
    local missing = {}
    for host, err in pairs(errors) do
        table.insert(missing, ("%s: %s"):format(host, tostring(err)))
    end
    table.sort(missing)
    return table.concat(missing, "; ")
end

-- All hosts of some sets, each once.
local function all_of(sets)
    local list, known = {}, {}
    for _, hosts in ipairs(sets) do
        for _, host in ipairs(hosts) do
            if not known[host] then
                known[host] = true
                table.insert(list, host)
            end
        end
    end
    return list
end

-- Writes all hosts' records at the same time, until each set of hosts has a majority that has it.
-- -> those that have it, and whether they suffice; or nil, err
local function write_all(ctx, sets, record, told)
    local answers, written, errors = mr.queue(), {}, {}
    local hosts = all_of(sets)
    for _, host in ipairs(hosts) do
        mr.spawn(function()
            local now, err = M.write(ctx, host, record)
            if told then
                told(host, now, err)
            end
            answers:push({ host = host, ok = now ~= nil, err = err })
        end)
    end
    for _ = 1, #hosts do
        local answer, err = answers:pop()
        if not answer then
            return nil, err
        elseif answer.ok then
            table.insert(written, answer.host)
        else
            errors[answer.host] = answer.err
        end
        if suffices(sets, written) then
            return written, true
        end
    end
    return written, false, errors
end

--- Writes all hosts' records at the same time, until a majority has it. The others go on by
--- themselves; `told(host, record, err)` hears of each.
---@param ctx {env: Env, agents: table, sysid: string}
---@param hosts string[]
---@param record table M.of's
---@param told? fun(host: string, record: table?, err: Error?)
---@return string[]? written the hosts that have it
---@return Error? err code "refused": no majority
function M.write_majority(ctx, hosts, record, told)
    local written, enough, errors = write_all(ctx, { hosts }, record, told)
    if not written then
        return nil, enough
    elseif not enough then
        return nil, mr.error("refused", ("the coordinator is not released: %d of at least %d hosts "
            .. "have recorded that its standby is out; %s"):format(#written, M.majority(#hosts),
            failed(errors)), { hint = "it is released when a majority answers" })
    end
    return written
end

-- Nothing may happen to the pair between the record and the transition: the epoch that was reserved
-- for both says so. What is tried again needs no other one.
local function reserve(ctx, pair, out)
    if out.reserved and out.reserved == out.seen then
        return out.reserved
    end
    return ctx.cat:call("epoch_reserve", out.token, pair.content, "out: " .. out.reason, out.seen)
end

local function record(ctx, pair, mode, epoch, told)
    local instances, err = ctx.cat:instances()
    local state
    if instances then
        state, err = ctx.cat:state()
    end
    if not state then
        return nil, err
    end
    local there = { env = ctx.env, agents = ctx.agents, sysid = state.sysid }
    return M.write_majority(there, M.hosts(instances), M.of(pair, mode, epoch, epoch), told)
end

--- Tells the hosts that the coordinator's pair has been recorded as in sync. Those that do not
--- answer are told by the watcher.
---@param ctx {env: Env, agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table}
---@param epoch integer the transition's
function M.in_sync(ctx, pair, epoch)
    if pair.content < 0 then
        record(ctx, pair, "s", epoch)
    end
end

-- The hosts without one instance and, where it moves or is new, with its new place.
local function hosts_with(instances, dbid, moved)
    local list = { moved }
    for _, inst in ipairs(instances) do
        if inst.dbid ~= dbid then
            table.insert(list, inst)
        end
    end
    return M.hosts(list)
end

-- The record that says of the coordinator's pair what the catalog says now.
local function current(ctx, instances)
    local pair = cluster.pair(instances, -1)
    local state, err = ctx.cat:state()
    local pair_state
    if state then
        pair_state, err = ctx.cat:pair_state(-1)
    end
    if not pair_state then
        return nil, err
    end
    return M.of(pair, pair.primary.mode, pair_state.epoch, state.epoch), state.sysid
end

-- How far the catalog's epoch jumps when the cluster gets other hosts: further than the other
-- transitions take it while the hosts write their records.
local AHEAD = 1000
local TRIES = 3

-- Has a majority of the hosts hold the current record, of those that the cluster has and of those
-- that it gets: two majorities of different sets of hosts need not share one. -> facts, {} when the
-- hosts stay the same or the coordinator has no standby
local function change(ctx, instances, hosts, joins)
    local before = M.hosts(instances)
    local pair = cluster.pair(instances, -1)
    if table.concat(hosts, "\n") == table.concat(before, "\n") or not pair.mirror then
        return {}
    end
    local now, sysid = current(ctx, instances)
    if not now then
        return nil, sysid
    end
    now.catalog_epoch = now.catalog_epoch + AHEAD
    local there = { env = ctx.env, agents = ctx.agents, sysid = sysid }
    local written, enough, errors = write_all(there, { hosts, before, joins and { joins } },
        now)
    if not written then
        return nil, enough
    elseif not enough then
        return nil, mr.error("refused", ("the cluster gets no other hosts: too few of those it has "
            .. "and gets keep the record of the coordinator's pair; %s"):format(failed(errors)),
            { hint = "it needs a majority of both" })
    end
    return { majority = { epoch = now.epoch, catalog_epoch = now.catalog_epoch, hosts = written } }
end

-- The coordinator's pair may change between the hosts' record and the transition.
local function carry_out(ctx, facts_of, transition)
    local done, err
    for _ = 1, TRIES do
        local instances, facts
        instances, err = ctx.cat:instances()
        if instances then
            facts, err = facts_of(instances)
        end
        if not facts then
            return nil, err
        end
        done, err = transition(next(facts) and facts or "{}")
        if done or err.sqlstate ~= "MR003" then
            break
        end
    end
    return done, err
end

--- Has the hosts hold on record what they have to before an instance is at another place, then
--- carries that out. A host that joins, which may have an old record of an earlier membership, is
--- among those that have it.
---@param ctx {env: Env, agents: table, cat: table}
---@param moved table an instance with its new place; one that is new has no dbid
---@param transition fun(facts: table|string): any, Error? calls move_done or mirror_add
---@return any? done what it returned
---@return Error? err code "refused": no majority
function M.joining(ctx, moved, transition)
    return carry_out(ctx, function(instances)
        return change(ctx, instances, hosts_with(instances, moved.dbid, moved), moved.hostname)
    end, transition)
end

--- The same before an instance goes.
---@param ctx {env: Env, agents: table, cat: table}
---@param dbid integer
---@param transition fun(facts: table|string): any, Error? calls instance_remove
---@return any? done
---@return Error? err code "refused": no majority
function M.leaving(ctx, dbid, transition)
    return carry_out(ctx, function(instances)
        return change(ctx, instances, hosts_with(instances, dbid))
    end, transition)
end

---@class Out
---@field token? integer the content's lease; nil for the watcher
---@field reason string
---@field seen? integer the pair's epoch by which it was decided
---@field reserved? integer set here: the epoch of an attempt that found no majority
---@field told? fun(host: string, record: table?, err: Error?) hears of each host

--- Has a majority of the hosts record that the coordinator's standby is out, for the transition
--- that follows: its facts. Other pairs need none.
---@param ctx {env: Env, agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param out Out
---@return table? facts
---@return Error? err code "refused": no majority
function M.facts(ctx, pair, out)
    if pair.content >= 0 then
        return {}
    end
    local written, err
    out.reserved, err = reserve(ctx, pair, out)
    if out.reserved then
        written, err = record(ctx, pair, "n", out.reserved, out.told)
    end
    return written and { majority = { epoch = out.reserved, hosts = written } }, err
end

-- The facts of a coordinator's pair that is on record as out of sync already: nobody is asked.
local function not_in_sync(ctx, pair)
    if pair.content >= 0 then
        return nil
    end
    local now, err = ctx.cat:pair(pair.content)
    if not now then
        return false, err
    end
    return now.primary.mode == "n" and {} or nil
end

--- Records a pair as out of sync.
---@param ctx {env: Env, agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param out Out
---@return integer? epoch
---@return Error? err
function M.out_of_sync(ctx, pair, out)
    local facts, err = not_in_sync(ctx, pair)
    if facts == nil then
        facts, err = M.facts(ctx, pair, out)
    end
    if not facts then
        return nil, err
    end
    return ctx.cat:call("out_of_sync", out.token, pair.content, out.reason,
        out.reserved or out.seen, facts)
end

--- Records a pair's mirror as down.
---@param ctx {env: Env, agents: table, cat: table}
---@param pair {content: integer, primary: table, mirror: table?}
---@param out Out
---@param decision? table for the record
---@return integer? epoch
---@return Error? err
function M.mirror_down(ctx, pair, out, decision)
    local facts, err = M.facts(ctx, pair, out)
    if not facts then
        return nil, err
    end
    facts.decision = decision
    return ctx.cat:call("mirror_down", out.token, pair.content, out.reason, facts,
        out.reserved or out.seen)
end

return M
