--- moonrise state: what the cluster is like (Greenplum's gpstate).
local args = require("lib.args")
local details = require("lib.state.details")
local errors = require("lib.state.errors")
local facts_of = require("lib.state.facts")
local judge = require("lib.state.judge")
local mirrors = require("lib.state.mirrors")
local pauses = require("lib.pauses")
local places = require("lib.state.places")
local quick = require("lib.state.quick")
local report = require("lib.state.report")
local standby = require("lib.state.standby")
local summary = require("lib.state.summary")
local term = require("lib.term")

-- gathers: the view says that it asks the segments. connections: it names primaries without a
-- mirror's connection beforehand.
local VIEWS = {
    { key = "summary", short = "b", lines = summary.lines, gathers = true,
      help = "summary (the default)" },
    { key = "errors", short = "e", lines = errors.lines, gathers = true, connections = true,
      help = "only what is wrong, and recoveries that are running" },
    { key = "details", short = "s", lines = details.lines, gathers = true, connections = true,
      help = "everything about every instance" },
    { key = "mirrors", short = "m", lines = mirrors.list, help = "mirrors" },
    { key = "pairs", short = "c", lines = mirrors.pairs, help = "primaries and their mirrors" },
    { key = "standby", short = "f", lines = standby.lines,
      help = "the standby coordinator and its WAL sender" },
    { key = "quick", short = "Q", lines = quick.lines,
      help = "what the catalog says; nobody else is asked" },
    { key = "ports", short = "p", lines = places.ports, help = "ports" },
    { key = "versions", short = "i", lines = places.versions, help = "versions" },
}

local function options()
    local list = {}
    for _, view in ipairs(VIEWS) do
        table.insert(list, { key = view.key, short = view.short, help = view.help })
    end
    table.insert(list, { key = "expansion", short = "x",
        help = "refused: nothing is expanded here" })
    table.insert(list, { key = "timeout", long = "timeout", arg = "TIME", kind = "duration",
        min = 100, max = 60000, default = 5000,
        help = "how long an instance may take to answer (default 5s)" })
    return list
end

local function check(given)
    if given.expansion then
        return "-x shows the state of an expansion, and moonrise does not expand clusters"
    end
    local group = {}
    for _, view in ipairs(VIEWS) do
        table.insert(group, { view.key, "-" .. view.short })
    end
    return args.exclusive(given, group)
end

local function chosen(given)
    for _, view in ipairs(VIEWS) do
        if given[view.key] then
            return view
        end
    end
    return VIEWS[1]
end

local function print_lines(lines)
    for _, line in ipairs(lines) do
        if line.level == "warn" then
            term.warn("%s", line.text)
        else
            term.info("%s", line.text)
        end
    end
end

-- What has to be known before any view of the cluster is read.
local function announce(view, facts)
    if facts.source ~= "coordinator" then
        term.warn("The coordinator cannot be asked: %s", facts.coordinator_error or "no answer")
        term.warn("This is what its standby knows")
    end
    if facts.cluster.state == "stopped" then
        term.warn("The cluster %s counts as stopped: nothing is failed over before moonrise start",
            facts.cluster.name)
    end
    for _, pause in ipairs(facts.pauses) do
        term.warn("Failover of %s is paused until %s by %s: %s", pauses.scope(pause),
            pause.until_text, pause.holder, pause.reason)
    end
    local _, segments = judge.split(facts)
    for _, pair in ipairs(view.connections and segments or {}) do
        local sql = (facts.seen[pair.primary.dbid] or {}).sql
        if pair.mirror and sql and #sql.peers == 0 then
            term.warn("pg_stat_replication shows no standby connections")
        end
    end
end

local function main(given)
    local view = chosen(given)
    term.info("Starting %s with args: %s", given.program, table.concat(given.argv, " "))
    term.info("Obtaining Segment details from coordinator...")
    local facts, err = facts_of.gather(given, {
        timeout_ms = given.timeout, limit = given.hosts * 8, quick = view.key == "quick" })
    if not facts then
        return nil, err
    end
    if given.json then
        term.json(report.of(facts))
    else
        if view.gathers then
            term.info("Gathering data from segments...")
        end
        announce(view, facts)
        print_lines(view.lines(facts))
    end
    return #judge.problems(facts) == 0 and 0 or 1
end

return {
    summary = "what the cluster is like",
    usage = "[-b | -e | -s | -m | -c | -f | -Q | -p | -i] [options]",
    description = [[
Asks the catalog, every host and every instance, all at the same time and each with a deadline.
Ends with 0 when everything is as it should be, with 1 when anything is not, whichever view was
asked for.]],
    options = options(),
    check = check,
    main = main,
}
