--- Facts about a cluster, gathered once for every view of `moonrise state`: the catalog, each
--- host's word about its instances, each instance's own answer. All at the same time and each with
--- a deadline, so that nothing that hangs keeps anybody waiting.
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local double_fault = require("lib.double_fault")
local hold = require("lib.hold")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local judge = require("lib.state.judge")
local mr = require("moonrise")
local reader = require("lib.reader")
local without_null = require("lib.without_null")

local M = {}

-- The host looks at all its processes, which on a busy one takes longer than a server's answer.
local WORD_MS = 10000
-- A query that is silent is given up by the server, too, or its backends would pile up there.
local OPTIONS = "-c statement_timeout=%d"

local SQL = [[
select version() as version, current_setting('server_version') as server_version,
    pg_is_in_recovery() as in_recovery,
    case when not pg_is_in_recovery() then pg_current_wal_lsn() end as write_lsn,
    case when pg_is_in_recovery() then pg_last_wal_receive_lsn() end as receive_lsn,
    case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end as replay_lsn,
    case when pg_is_in_recovery() then pg_is_wal_replay_paused() end as paused,
    current_setting('synchronous_standby_names') as sync_names,
    -- The server's own value: one of this database or role says nothing about others.
    (select reset_val from pg_settings where name = 'synchronous_commit'
        and source not in ('database', 'user', 'database user')) as sync_commit,
    (select count(*) from pg_stat_activity where wait_event = 'SyncRep') as waiting,
    (select wait_event from pg_stat_activity where backend_type = 'checkpointer') as checkpointer,
    (select json_agg(json_build_object('name', s.application_name, 'slot', r.slot_name,
            'state', s.state, 'sync', s.sync_state,
            'sent_lsn', s.sent_lsn - '0/0'::pg_lsn, 'flush_lsn', s.flush_lsn - '0/0'::pg_lsn,
            'replay_lsn', s.replay_lsn - '0/0'::pg_lsn))::text
        from pg_stat_replication s
        left join pg_replication_slots r on r.active_pid = s.pid) as peers,
    (select json_agg(json_build_object('database', d.datname, 'role', r.rolname,
            'value', split_part(setting, '=', 2)))::text
        from pg_db_role_setting s cross join unnest(s.setconfig) as setting
        left join pg_database d on d.oid = s.setdatabase
        left join pg_roles r on r.oid = s.setrole
        where setting ~ '^synchronous_commit=(off|local|remote_write)$') as weaker]]

local function list(text)
    return text and without_null(mr.json_decode(text)) or {}
end

local function ask(env, inst, timeout_ms)
    local conn, err = mr.connect(instance.conninfo(env, inst, {
        connect_timeout_ms = timeout_ms, application_name = "moonrise state",
        options = OPTIONS:format(timeout_ms) }))
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query(SQL, nil, { timeout_ms = timeout_ms })
    conn:close()
    if not rows then
        return nil, err
    end
    local answer = rows[1]
    answer.peers, answer.weaker = list(answer.peers), list(answer.weaker)
    return answer
end

-- All questions about every instance, as one list of things to do at the same time. What is down
-- may be in the hands of a recovery: nothing is tried there.
local function questions(source, instances, timeout_ms)
    local set = agents.new(source.env)
    local word_ms = math.max(timeout_ms, WORD_MS)
    local jobs = {}
    for _, inst in ipairs(instances) do
        table.insert(jobs, { dbid = inst.dbid, key = "word", run = function()
            return set:inspect(inst, nil, { timeout_ms = word_ms })
        end })
        table.insert(jobs, { dbid = inst.dbid, key = "sql", run = function()
            return ask(source.env, inst, timeout_ms)
        end })
        if inst.status == "u" then
            table.insert(jobs, { dbid = inst.dbid, key = "disk", run = function()
                return set:disk(inst, { timeout_ms = word_ms })
            end })
        end
    end
    return jobs, set
end

-- What keeps the hosts from recording that the coordinator goes on without its standby, for those
-- where something does.
local function look_at_records(source, facts, limit)
    local ctx = { env = source.env, agents = agents.new(source.env), sysid = facts.cluster.sysid }
    local hosts = hosts_record.hosts(facts.instances)
    local results = mr.parallel(hosts, limit, function(host)
        return hosts_record.read(ctx, host)
    end)
    ctx.agents:close()
    local failing = {}
    for i, host in ipairs(hosts) do
        if results[i].error then
            table.insert(failing, { host = host, text = results[i].error.message })
        end
    end
    return { hosts = #hosts, needed = hosts_record.majority(#hosts), failing = failing }
end

local function look(source, instances, options)
    local jobs, set = questions(source, instances, options.timeout_ms)
    local seen = {}
    for _, inst in ipairs(instances) do
        seen[inst.dbid] = {}
    end
    local results = mr.parallel(jobs, options.limit, function(job)
        return job.run()
    end)
    set:close()
    for i, job in ipairs(jobs) do
        local result = results[i]
        if type(result) == "table" and result.error and result.error.message then
            seen[job.dbid][job.key .. "_error"] = {
                code = result.error.code, message = result.error.message,
                sqlstate = result.error.sqlstate }
        else
            seen[job.dbid][job.key] = without_null(result)
        end
    end
    return seen
end

-- What is asked of the catalog, by the facts that it becomes.
local ASKED = { instances = "instances", cluster = "state", leases = "leases", pauses = "pauses",
    unconfirmed = "unconfirmed", left = "left_places" }

local function read(source)
    local facts = {}
    for key, question in pairs(ASKED) do
        local answer, err = source.cat[question](source.cat)
        if not answer then
            return nil, err
        end
        facts[key] = answer
    end
    for _, lease in ipairs(facts.leases) do
        lease.gone = hold.is_gone(lease.holder)
    end
    return facts
end

-- What nobody can answer is missing, and no reason to show nothing.
local function histories(source, facts)
    local known = {}
    for _, pair in ipairs(cluster.pairs(facts.instances)) do
        if judge.is_double_fault(facts, pair) then
            known[pair.content] = double_fault.history(source.cat, pair.content)
        end
    end
    return known
end

---@class StateFacts
---@field source "coordinator"|"standby" whose catalog it is
---@field coordinator_error? string why the coordinator's could not be read
---@field cluster {name: string, epoch: integer, state: string}
---@field instances table[] gp_segment_configuration
---@field leases table[] work in progress
---@field pauses table[] of failover: lib/catalog.lua's
---@field left LeftPlace[] what instances have left behind
---@field unconfirmed integer[] contents whose pairs have not confirmed their epochs
---@field records? {hosts: integer, needed: integer, failing: {host: string, text: string}[]} of the
--- coordinator's pair; nil when it has no standby, and where the hosts were not asked
---@field seen table<integer, table> by dbid: word (lib/agents.lua's inspect) or word_error, sql or
--- sql_error, disk (lib/agents.lua's disk) or disk_error
---@field history table<integer, table> by content, of double faults: what the catalog knows of them
---@field quick boolean only the catalog was asked

--- Gathers; waits, at most about four times `timeout_ms`.
---@param options {datadir: string?}
---@param how {timeout_ms: number, limit: integer, quick: boolean}
---@return StateFacts? facts
---@return Error? err
function M.gather(options, how)
    local source, err = reader.open(options, how.timeout_ms)
    if not source then
        return nil, err
    end
    local facts
    facts, err = read(source)
    if not facts then
        source.cat:close()
        return nil, err
    end
    if source.source == "coordinator" then
        reader.remember(source.env, facts.instances)
    end
    facts.source, facts.quick = source.source, how.quick
    facts.coordinator_error = source.coordinator_error and source.coordinator_error.message
    facts.seen = how.quick and {} or look(source, facts.instances, how)
    facts.history = histories(source, facts)
    source.cat:close()
    local pair = cluster.pair(facts.instances, -1)
    if not how.quick and source.source == "coordinator" and pair and pair.mirror then
        facts.records = look_at_records(source, facts, how.limit)
    end
    return facts
end

return M
