--- `state -e`: only what is wrong, and what is being done about it. Pure.
local cluster = require("lib.cluster")
local judge = require("lib.state.judge")
local pauses = require("lib.pauses")
local sheet = require("lib.state.sheet")
local survivors = require("lib.survivors")

local M = {}

local RULE = 52

local function pair_of(facts, content)
    return cluster.pair(facts.instances, content)
end

-- Each section: the kinds of problem it is about, its title, its columns, and a row for one
-- problem.
local SECTIONS = {
    {
        kinds = { stopped = true }, title = "Nothing Is Failed over: the Cluster Counts as Stopped",
        headers = { "Cluster", "State", "Next step" },
        row = function(facts)
            return { facts.cluster.name, facts.cluster.state, "moonrise start" }
        end,
    },
    {
        kinds = { no_failover = true },
        title = "Failover Is Paused: Nothing Is Promoted or Released",
        headers = { "Where", "Until", "By", "Reason" },
        row = function(_, problem)
            local pause = problem.pause
            return { pauses.scope(pause), pause.until_text, pause.holder, pause.reason }
        end,
    },
    {
        kinds = { unconfirmed = true },
        title = "Pairs Left Alone until Their Hosts Have Confirmed Their Epochs",
        headers = { "Content", "Primary", "Port", "Next step" },
        row = function(facts, problem)
            local pair = pair_of(facts, problem.content)
            return { problem.content, pair.primary.hostname, pair.primary.port,
                     "moonrise confirm " .. problem.content }
        end,
    },
    {
        kinds = { no_majority = true },
        title = "The Coordinator Cannot Be Released from its Standby: no Majority Records it",
        headers = { "Host", "Reason" },
        row = function(_, problem)
            return { problem.host, problem.text }
        end,
    },
    {
        kinds = { no_record = true }, title = "Hosts without a Record of the Coordinator's Pair",
        headers = { "Host", "Reason" },
        row = function(_, problem)
            return { problem.host, problem.text }
        end,
    },
    {
        kinds = { switched = true }, title = "Segments with Primary and Mirror Roles Switched",
        headers = { "Current Primary", "Port", "Mirror", "Port" },
        row = function(facts, problem)
            local pair = pair_of(facts, problem.content)
            local mirror = pair.mirror or { hostname = "none", port = "" }
            return { pair.primary.hostname, pair.primary.port, mirror.hostname, mirror.port }
        end,
    },
    {
        kinds = { unsynchronized = true }, title = "Unsynchronized Segment Pairs",
        headers = { "Current Primary", "Port", "WAL sync remaining bytes", "Mirror", "Port" },
        row = function(facts, problem)
            local pair = pair_of(facts, problem.content)
            return { pair.primary.hostname, pair.primary.port,
                     judge.behind(facts, pair) or "Unknown",
                     pair.mirror.hostname, pair.mirror.port }
        end,
    },
    {
        kinds = { not_armed = true, not_streaming = true },
        title = "Segment Pairs whose Commits Are not Safe on the Mirror",
        headers = { "Current Primary", "Port", "Mirror", "Port", "Reason" },
        row = function(facts, problem)
            local pair = pair_of(facts, problem.content)
            local reason = problem.kind == "not_armed"
                and "synchronous_standby_names does not name the mirror"
                or "the mirror is not connected: commits wait for it"
            return { pair.primary.hostname, pair.primary.port, pair.mirror.hostname,
                     pair.mirror.port, reason }
        end,
    },
    {
        kinds = { paused = true }, title = "Mirrors that Cannot Be Promoted",
        headers = { "Mirror", "Port", "Reason" },
        row = function(facts, problem)
            local inst = cluster.find(facts.instances, problem.dbid)
            return { inst.hostname, inst.port, "its replay is paused: its log says by whom or why" }
        end,
    },
    {
        kinds = { waiting = true }, title = "Primaries whose Commits Wait",
        headers = { "Primary", "Port", "Sessions", "Cause" },
        row = function(facts, problem)
            local inst = cluster.find(facts.instances, problem.dbid)
            return { inst.hostname, inst.port, problem.sessions, problem.cause }
        end,
    },
    {
        kinds = { down = true },
        title = "Downed Segments (may include segments where status could not be retrieved)",
        headers = { "Segment", "Port", "Config status", "Status" },
        row = function(facts, problem)
            local inst = cluster.find(facts.instances, problem.dbid)
            return { inst.hostname, inst.port, inst.status == "u" and "Up" or "Down",
                problem.status }
        end,
    },
    {
        kinds = { disk = true }, title = "Servers whose Data Directory Cannot Be Written",
        headers = { "Server", "Port", "Reason" },
        row = function(facts, problem)
            local inst = cluster.find(facts.instances, problem.dbid)
            return { inst.hostname, inst.port, problem.text }
        end,
    },
    {
        kinds = { weak = true },
        title = "Servers whose Commits May Be Lost in a Failover (synchronous_commit)",
        headers = { "Server", "Port", "Setting" },
        row = function(facts, problem)
            local inst = cluster.find(facts.instances, problem.dbid)
            return { inst.hostname, inst.port, problem.value }
        end,
    },
}

local function section(out, title, headers, rows)
    if #rows == 0 then
        return
    end
    local list = sheet.new({ arrows = false })
    list:row(headers)
    for _, row in ipairs(rows) do
        list:row(row)
    end
    table.insert(out, sheet.info(("-"):rep(RULE)))
    table.insert(out, sheet.info(title))
    sheet.append(out, list:lines())
end

local function percent(patch)
    if not patch.bytes_done or (patch.bytes_total or 0) == 0 then
        return "Unknown"
    end
    return ("%d%%"):format(math.floor(100 * patch.bytes_done / patch.bytes_total))
end

local function kilobytes(bytes)
    return bytes and math.floor(bytes / 1024) or "Unknown"
end

-- A host is named once, whatever lives there.
local function hosts(out, facts, problems)
    local rows, named = {}, {}
    for _, problem in ipairs(problems) do
        local inst = problem.kind == "host" and cluster.find(facts.instances, problem.dbid)
        if inst and not named[inst.hostname] then
            named[inst.hostname] = true
            table.insert(rows, { inst.hostname, problem.text })
        end
    end
    section(out, "Hosts that Gave no Word", { "Host", "Reason" }, rows)
end

local function survivor_row(facts, one)
    local inst = cluster.find(facts.instances, one.dbid)
    local row = { inst.hostname, inst.port, one.dbid, judge.ROLES[one.role] }
    local rest = one.unreadable and { "Unknown", "Unknown", "Unknown", "Not readable: "
            .. one.unreadable }
        or { one.timeline or "Unknown", survivors.position(one), one.in_sync and "Yes" or "No",
             survivors.loss(one) }
    for _, cell in ipairs(rest) do
        table.insert(row, cell)
    end
    return row
end

local function double_faults(out, facts, problems)
    local rows = {}
    for _, problem in ipairs(problems) do
        for _, one in ipairs(problem.survivors or {}) do
            table.insert(rows, survivor_row(facts, one))
        end
    end
    section(out, "Double Faults (moonrise start, or recoverseg, which Tells What Can Be Done)",
        { "Segment", "Port", "Dbid", "Role", "Timeline", "Last position", "In sync when last seen",
          "Promoting it would lose" }, rows)
end

local function recoveries(out, facts)
    local rows = {}
    for _, inst in ipairs(facts.instances) do
        local patch = ((facts.seen[inst.dbid] or {}).word or {}).patch
        if patch then
            local stage = patch.running == false and "interrupted, run it again" or patch.stage
            table.insert(rows, { inst.hostname, inst.port, patch.type, stage,
                kilobytes(patch.bytes_done), kilobytes(patch.bytes_total), percent(patch) })
        end
    end
    section(out, "Segments in recovery", { "Segment", "Port", "Recovery type", "Stage",
        "Completed bytes (kB)", "Total bytes (kB)", "Percentage completed" }, rows)
end

-- The watcher finishes or undoes what nobody goes on with; without a watcher the next command does.
local function lease_state(lease)
    return lease.gone and "gone: the watcher goes on" or lease.expired and "abandoned" or "running"
end

local function work(out, facts)
    local rows = {}
    for _, lease in ipairs(facts.leases or {}) do
        table.insert(rows, { lease.content, lease.intent, lease.step, lease.holder,
                             lease_state(lease) })
    end
    section(out, "Work in Progress", { "Content", "Command", "Step", "Process", "State" }, rows)
end

-- No fault of the cluster: a host that is gone for good keeps what it has.
local function left(out, facts)
    local rows = {}
    for _, place in ipairs(facts.left or {}) do
        table.insert(rows, { place.hostname, place.port, place.dbid, place.datadir, place.since })
    end
    section(out, "Directories Left behind (removed when the Pair Is in Sync and the Host Answers)",
        { "Host", "Port", "Dbid", "Directory", "Since" }, rows)
end

-- Somebody asked for it, in one database or for one role: told, but no fault of the cluster.
local function weaker(out, facts)
    local rows = {}
    for _, inst in ipairs(facts.instances) do
        for _, item in ipairs(((facts.seen[inst.dbid] or {}).sql or {}).weaker or {}) do
            if inst.role == "p" then
                table.insert(rows, { inst.hostname, inst.port, item.database or "all",
                                     item.role or "all", item.value })
            end
        end
    end
    section(out, "Commits that Are Acknowledged before They Are Safe (synchronous_commit)",
        { "Server", "Port", "Database", "Role", "Setting" }, rows)
end

--- The view's lines.
---@param facts StateFacts
---@return StateLine[]
function M.lines(facts)
    local problems = judge.problems(facts)
    local out = { sheet.info(("-"):rep(RULE)), sheet.info("Segment Mirroring Status Report") }
    for _, part in ipairs(SECTIONS) do
        local rows = {}
        for _, problem in ipairs(problems) do
            if part.kinds[problem.kind] then
                table.insert(rows, part.row(facts, problem))
            end
        end
        section(out, part.title, part.headers, rows)
    end
    double_faults(out, facts, problems)
    hosts(out, facts, problems)
    recoveries(out, facts)
    work(out, facts)
    left(out, facts)
    weaker(out, facts)
    if #problems == 0 then
        table.insert(out, sheet.info(("-"):rep(RULE)))
        table.insert(out, sheet.info("All segments are running normally"))
    end
    return out
end

return M
