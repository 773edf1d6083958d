--- `moonrise recoverseg`: segment recovery and the return of every role to its place.
local mr = require("moonrise")
local args = require("lib.args")
local cluster = require("lib.cluster")
local handover = require("lib.handover")
local handover_resume = require("lib.handover_resume")
local policy = require("lib.policy")
local promotion = require("lib.promotion")
local rebalance = require("lib.rebalance")
local recovery = require("lib.recovery")
local recovery_plan = require("lib.recovery_plan")
local session = require("lib.session")
local stop_requests = require("lib.stop_requests")
local survivors = require("lib.survivors")
local term = require("lib.term")

local options = {
    { key = "full", short = "F", help = "full recovery: every block is copied" },
    { key = "differential", long = "differential",
        help = "compare all blocks, copy those that differ" },
    { key = "replace_foreign", long = "replace-foreign",
        help = "with -F and -a: also replace a directory that belongs to another cluster" },
    { key = "tablespaces", long = "tablespace-mapping", arg = "OLD=NEW", repeatable = true,
      help = "where a tablespace of the primary in directory OLD goes on the mirror" },
    { key = "rebalance", short = "r", help = "return every instance to its preferred role" },
    { key = "replay_lag", long = "replay-lag", arg = "SIZE", kind = "size",
      default = handover.MAX_LAG_BYTES,
      help = "with -r: largest replay lag of a mirror that is handed over (default 64MB)" },
    { key = "max_rate", long = "max-rate", arg = "SIZE", kind = "size", min = 1,
      help = "largest number of bytes a second read from each source" },
    { key = "promote", long = "promote", arg = "DBID", kind = "int", min = 1, max = 32767,
      help = "after a double fault: promote this mirror in its lost primary's place" },
    { key = "accept_loss", long = "accept-loss", arg = "TEXT",
      help = "with --promote: who accepts that commits are lost, and why; it is recorded" },
    { key = "primary_is_gone", long = "primary-is-gone",
      help = "with --promote: its host does not answer, and you have seen that it is off" },
    { key = "policy", long = "policy", arg = "NAME=FILE", repeatable = true,
      help = "decide with this policy: recovery=FILE, rebalance=FILE" },
    { key = "sequential", short = "s", help = "progress as one line after another" },
    { key = "no_progress", long = "no-progress", help = "no progress" },
}

-- { "OLD=NEW" } as { OLD = NEW }.
local function parse_mapping(list)
    local mapping = {}
    for _, text in ipairs(list or {}) do
        local old, new = text:match("^(/[^=]*)=(/[^=]*)$")
        if not old then
            return nil, ("--tablespace-mapping %s: two absolute paths with = between"):format(text)
        end
        mapping[old] = new
    end
    return mapping
end

-- What means nothing with the rest of the command line is not taken silently.
local function check_meaning(opts)
    if opts.replace_foreign and not opts.full then
        return "--replace-foreign goes with -F"
    elseif opts.given.replay_lag and not opts.rebalance then
        return "--replay-lag goes with -r"
    elseif opts.rebalance and opts.tablespaces then
        return "-r copies nothing: --tablespace-mapping does not go with it"
    elseif opts.rebalance and opts.max_rate then
        return "-r copies nothing: --max-rate does not go with it"
    elseif opts.promote and (opts.tablespaces or opts.max_rate) then
        return "--promote copies nothing: --tablespace-mapping and --max-rate do not go with it"
    elseif (opts.accept_loss or opts.primary_is_gone) and not opts.promote then
        return "--accept-loss and --primary-is-gone go with --promote"
    end
    return args.sentence("--accept-loss", opts.accept_loss, 500)
end

local function check(opts)
    local groups = {
        { { "full", "-F" }, { "differential", "--differential" } },
        { { "rebalance", "-r" }, { "full", "-F" } },
        { { "rebalance", "-r" }, { "differential", "--differential" } },
        { { "promote", "--promote" }, { "rebalance", "-r" } },
        { { "promote", "--promote" }, { "full", "-F" } },
        { { "promote", "--promote" }, { "differential", "--differential" } },
    }
    for _, group in ipairs(groups) do
        local problem = args.exclusive(opts, group)
        if problem then
            return problem
        end
    end
    local _, problem = nil, check_meaning(opts)
    if not problem then
        _, problem = parse_mapping(opts.tablespaces)
    end
    if not problem then
        _, problem = policy.parse(opts.policy, opts.rebalance and "rebalance" or "recovery")
    end
    return problem
end

local function percent_line(entry, report)
    local name = cluster.name(entry.target)
    local done, total = report.bytes_done or 0, report.bytes_total or 0
    if total == 0 then
        return ("%s: %s"):format(name, report.stage or "begins")
    end
    local seconds = (mr.clock() - entry.began) / 1000
    local rate = done / math.max(seconds, 0.001)
    local left = rate > 0 and (total - done) / rate or 0
    return ("%s: %s %s of %s (%d%%), %s/s, %s left"):format(name, report.stage, term.bytes(done),
        term.bytes(total), math.floor(100 * done / total), term.bytes(rate),
            term.duration(left * 1000))
end

local function run_entry(ctx, entry, opts, progress)
    entry.began = mr.clock()
    local numbers, err = recovery.recover(ctx, entry, entry.type, {
        max_rate = entry.max_rate,
        accept_foreign = entry.foreign_system,
        tablespaces = parse_mapping(opts.tablespaces),
        progress = function(report)
            progress:update(entry.target.dbid, percent_line(entry, report))
        end,
    })
    if not numbers then
        err.instance = err.instance or cluster.name(entry.target)
        return nil, err
    end
    progress:update(entry.target.dbid, ("%s: done in %s")
        :format(cluster.name(entry.target), term.duration(numbers.took_ms)))
    return numbers
end

-- What one run made of its plan; each instance stands for itself.
local function report(plan, results)
    local failures = 0
    for i, entry in ipairs(plan.entries) do
        local result = results[i]
        if result.error then
            failures = failures + 1
            term.error(result.error)
            term.warn("%s: recovery failed, its catalog row is as before; run recoverseg again",
                cluster.name(entry.target))
        else
            term.info("%s: recovered by %s in %s, %s written", cluster.name(entry.target),
                result.type, term.duration(result.took_ms), term.bytes(result.bytes_written or 0))
        end
    end
    return failures
end

-- A primary that does not answer is somebody's work; whatever else is not so yet is the watcher's.
local function report_armed(plan, armed)
    local failures = 0
    for i, pair in ipairs(plan.behind) do
        local name, err = cluster.name(pair.mirror), armed[i].error
        if not err then
            term.info("%s: in sync again", name)
        elseif err.code == "connect" then
            failures = failures + 1
            term.error(mr.error(err.code, err.message, { cause = err,
                instance = err.instance or cluster.name(pair.primary),
                hint = "not in sync, so nobody is promoted: moonrise start starts what is down" }))
        else
            term.warn("%s: not in sync yet (%s); the watcher sees to it", name, tostring(err))
        end
    end
    return failures
end

local function as_json(plan, results, armed)
    local list = {}
    for i, entry in ipairs(plan.entries) do
        local result = results and results[i] or {}
        table.insert(list, {
            dbid = entry.target.dbid, content = entry.content,
            type = result.type or entry.type, reason = entry.reason, max_rate = entry.max_rate,
            read_bytes = entry.price.read_bytes, error = result.error and tostring(result.error),
            bytes_written = result.bytes_written, bytes_different = result.bytes_different,
            took_ms = result.took_ms,
        })
    end
    local skipped = {}
    for _, entry in ipairs(plan.skipped) do
        table.insert(skipped, { dbid = entry.target.dbid, reason = tostring(entry.err) })
    end
    local behind = {}
    for i, pair in ipairs(plan.behind) do
        local err = armed and armed[i].error
        behind[i] = { dbid = pair.mirror.dbid, content = pair.content,
            in_sync = armed and not err or false, error = err and tostring(err) or nil }
    end
    local lost = {}
    for i, fault in ipairs(plan.double_faults) do
        lost[i] = { content = fault.content, survivors = fault.survivors }
    end
    return { recovered = mr.json_array(list), behind = mr.json_array(behind),
             skipped = mr.json_array(skipped), double_faults = mr.json_array(lost) }
end

-- One question for all, and one more for each directory that is somebody else's.
local function confirm(plan, opts)
    local go, code = term.confirm("Continue with segment recovery procedure", opts.yes)
    for _, entry in ipairs(plan.entries) do
        if go and entry.foreign_system then
            go, code = term.confirm(("Replace everything in %s, which belongs to another cluster")
                :format(entry.target.datadir), opts.yes)
        end
    end
    return go, code
end

-- What came of plan.entries, and of plan.behind.
local function carry_out(ctx, plan, opts)
    local progress = term.progress({ off = opts.no_progress, sequential = opts.sequential })
    local jobs, first = {}, #plan.entries
    for _, pair in ipairs(plan.behind) do
        table.insert(jobs, function()
            return recovery.bring_in_sync(ctx, pair)
        end)
    end
    for i, entry in ipairs(plan.entries) do
        table.insert(jobs, i, function()
            return run_entry(ctx, entry, opts, progress)
        end)
    end
    local done = stop_requests.guard("Stop the recoveries that are not finished", function()
        return mr.parallel(jobs, opts.batch, function(job)
            return job()
        end)
    end)
    progress:finish()
    return { unpack(done, 1, first) }, { unpack(done, first + 1, #jobs) }
end

local function recover_all(ctx, opts)
    local plan, err = recovery_plan.make(ctx, opts)
    if not plan then
        return nil, err
    end
    for _, entry in ipairs(plan.skipped) do
        term.error(entry.err)
        term.warn("%s: skipped", cluster.name(entry.target))
    end
    for _, fault in ipairs(plan.double_faults) do
        recovery_plan.print_double_fault(fault)
        term.error(mr.error("refused", "primary and mirror are both lost: nothing is recovered", {
            instance = cluster.name(fault.pair.primary),
            hint = "moonrise start starts what can be started; a person may choose the mirror" }))
    end
    local work = #plan.entries + #plan.behind
    if work > 0 then
        recovery_plan.print(plan)
    elseif #plan.skipped + #plan.double_faults == 0 then
        term.info("No segments to recover")
    end
    local failures, results, armed = #plan.skipped + #plan.double_faults, nil, nil
    if work > 0 and not opts.dry_run then
        local go, code = confirm(plan, opts)
        if not go then
            return code
        end
        results, armed = carry_out(ctx, plan, opts)
        failures = failures + report(plan, results) + report_armed(plan, armed)
    end
    if opts.json then
        term.json(as_json(plan, results, armed))
    end
    return failures == 0 and 0 or 1
end

local function promoted(fault, opts)
    local chosen = fault.survivors and fault.survivors[2]
    if fault.serves then
        term.info("dbid %d is the primary and serves: there is nothing to do", opts.promote)
    else
        term.info("%s: promoted", cluster.name(fault.pair.mirror))
        term.info("%s: moonrise recoverseg brings it back as the mirror",
            cluster.name(fault.pair.primary))
    end
    if opts.json then
        term.json({ promoted = opts.promote, already = fault.serves or false,
            content = fault.content, accept_loss = opts.accept_loss, survivor = chosen })
    end
    return 0
end

-- A person chooses: what is left is shown, then it is asked.
local function promote(ctx, opts)
    local choice = { dbid = opts.promote, accept_loss = opts.accept_loss,
                     primary_is_gone = opts.primary_is_gone }
    local fault, err = promotion.plan(ctx, choice)
    if not fault or fault.serves then
        return fault and promoted(fault, opts), err
    end
    local chosen = fault.survivors[2]
    recovery_plan.print_double_fault(fault)
    term.info("Promotion plan: %s takes its primary's place", cluster.name(fault.pair.mirror))
    term.info("   It loses   %s", survivors.loss(chosen))
    if opts.accept_loss then
        term.info("   Accepted   %s", opts.accept_loss)
    end
    if opts.dry_run then
        return 0
    end
    local go, code = term.confirm("Continue with the promotion", opts.yes)
    if not go then
        return code
    end
    fault, err = promotion.run(ctx, fault.content, choice)
    return fault and promoted(fault, opts), err
end

-- What an earlier run has left half-way comes first: there is no plan for a pair without a primary.
local function main(ctx, opts)
    local unfinished = opts.dry_run and 0 or handover_resume.all(ctx)
    local run = opts.rebalance and rebalance.run or opts.promote and promote or recover_all
    local code, err = run(ctx, opts)
    return code == 0 and unfinished > 0 and 1 or code, err
end

return {
    summary = "recover failed instances, return roles to their places",
    usage = "[-F | --differential | -r | --promote DBID] [options]",
    description = [[
Recovers every instance that the catalog calls down, in place: stops what is left of it, makes its
data equal to its primary's by moving the blocks that differ, starts it as the mirror and waits
until it streams. A run that was interrupted anywhere is simply run again and goes on.

A directory that belongs to another cluster is left alone, unless -F is given and the question
about it is answered; with -a nobody is asked, and --replace-foreign says it.

A tablespace outside of the primary's data directory needs a place of its own on a mirror of the
same host: --tablespace-mapping names it once, later recoveries keep it.

Where primary and mirror of a pair are both lost, it shows for each how far it is and what promoting
it would lose, and does nothing: moonrise start starts what can be started. --promote DBID promotes
the mirror instead. One that is not in sync loses commits by that, so somebody has to accept it in
writing. The old primary is ended and marked first, or as soon as its host answers.

With -r it hands pairs over until every instance has its preferred role; nothing is copied. Ctrl-C
and SIGTERM stop it between two pairs: one that was begun is brought to an end. What a killed run
left half-way is finished or undone by the watcher, or by the next recoverseg or start.]],
    examples = [[
  moonrise recoverseg              plan, ask, recover what is down
  moonrise recoverseg -a --differential
  moonrise recoverseg -r           return primaries and mirrors to their preferred roles
  moonrise recoverseg --promote 5 --accept-loss "ticket 17, J. Doe: sdw2 has burnt down"]],
    options = options,
    check = check,
    main = function(opts)
        return session.with(opts, function(ctx)
            ctx.policy_files = policy.parse(opts.policy)
            return main(ctx, opts)
        end)
    end,
}
